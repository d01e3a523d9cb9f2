"""One optimizer with two parameter groups, and the schedules of their rates."""

from __future__ import annotations

from bisect import bisect_right

from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ..config import OptimConfig
from ..errors import SpotkdError
from ..method import Method


def milestones(config: OptimConfig, epochs: int) -> list[int]:
    """The last epoch before each drop of the rate, counted from 1; the paper's 150, 180, 210 of 240 by default."""
    chosen = config.milestones
    if chosen is None:
        return [round(epochs * share) for share in (5 / 8, 6 / 8, 7 / 8)]
    if any(not 1 <= epoch <= epochs for epoch in chosen) or sorted(set(chosen)) != chosen:
        raise SpotkdError(f"optim.milestones is {chosen}: give rising epochs between 1 and epochs={epochs}")
    return chosen


def make_optimizer(
    method: Method,
    config: OptimConfig,
    epochs: int,
    steps_per_epoch: int,
    policy_lr: float | None = None,
    policy_weight_decay: float = 1e-3,
) -> tuple[SGD, LRScheduler]:
    """SGD over the student side and the policy side, and its schedule, which is stepped after every step.

    Two groups with rates and decays of their own are the same arithmetic as two optimizers, since every update is
    element by element. Where the method asks for a warm-up of the policy (``joint``), its rate is a hundredth of itself
    for that share of the epochs; a one-cycle schedule warms up by itself.

    Raises:
        SpotkdError: milestones that do not fit the epochs.
    """
    groups = method.parameter_groups(config.lr, config.weight_decay, policy_lr, policy_weight_decay)
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum)
    if config.schedule == "onecycle":
        if config.milestones is not None:
            raise SpotkdError("optim.milestones belong to optim.schedule multistep; onecycle has none")
        peaks = [group["lr"] for group in groups]
        steps = max(epochs * steps_per_epoch, 2)  # the schedule cannot have fewer
        return optimizer, OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=False)
    drops = [epoch * steps_per_epoch for epoch in milestones(config, epochs)]
    warm = round(method.policy_warmup * epochs) * steps_per_epoch

    def student(step: int) -> float:
        return float(0.1 ** bisect_right(drops, step))

    def policy(step: int) -> float:
        return student(step) * (0.01 if step < warm else 1.0)

    return optimizer, LambdaLR(optimizer, [student, policy] if len(groups) == 2 else [student])
