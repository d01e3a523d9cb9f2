"""A policy's settings in the measure of a run: its bias, its decay, and when it learns."""

from __future__ import annotations

import math

from ..routing import PolicyPace, scaled_bias, scaled_decay

SETTLING = 50  # steps until running statistics are those of the data, of a run of ten times as many or more
LARGEST_BIAS = 3.0  # of a scaled policy: P(teacher) is 0.95; more would decide the start


def choose_bias(bias: float | str, scaled: bool, steps: int, lr: float, weight_decay: float, momentum: float) -> float:
    """The initial bias.

    Args:
        bias: a number, or "scaled" for the paper's 10 in the measure of the run.
        scaled: whether decay is in that measure too; then the bias is bounded.
        steps: of the whole run.
        lr: of the policy.
        weight_decay: of the policy.
        momentum: of its SGD.
    """
    if scaled:
        return LARGEST_BIAS if bias == "scaled" else min(float(bias), LARGEST_BIAS)
    return scaled_bias(steps, lr, weight_decay, momentum) if bias == "scaled" else float(bias)


def choose_decay(weight_decay: float, scaled: bool, steps: int, lr: float, momentum: float) -> float:
    """The weight decay: as given, or in the measure of the run. Arguments as above."""
    return scaled_decay(steps, lr, momentum) if scaled else weight_decay


def choose_pace(scaled: bool, every: int, steps: int) -> PolicyPace | None:
    """When the policy learns in a run of so many steps; None for the paper: in every step, from the first one on."""
    if scaled:
        return PolicyPace(settling=min(SETTLING, -(-steps // 10)), every=every)
    return PolicyPace(settling=0, bound=math.inf, every=every) if every > 1 else None
