"""One optimizer with two parameter groups, and the schedules of their rates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ..losses import Method


def make_optimizer(
    method: Method,
    *,
    epochs: int,
    steps_per_epoch: int,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    milestones: Sequence[int] | None = None,
    policy_lr: float | None = None,
    policy_weight_decay: float = 1e-3,
) -> tuple[SGD, LRScheduler]:
    """SGD over the student side and the policy side, and its schedule, which is stepped after every step.

    Two groups with rates and decays of their own are the same arithmetic as two optimizers, since every update is
    element by element. Where the method asks for a warm-up of the policy (``joint``), its rate is a hundredth of itself
    for that share of the epochs; a one-cycle schedule warms up by itself.

    Args:
        method: what is trained.
        epochs: of the whole training.
        steps_per_epoch: optimizer steps of each.
        lr: learning rate of the student side; for a one-cycle schedule its peak.
        momentum: of both sides.
        weight_decay: of the student side.
        milestones: the last epochs before the rate drops to a tenth; None for a one-cycle schedule.
        policy_lr: learning rate of the policy side; None takes half of ``lr``.
        policy_weight_decay: of the policy side.
    """
    groups = method.parameter_groups(lr, weight_decay, policy_lr, policy_weight_decay)
    optimizer = SGD(groups, lr=lr, momentum=momentum)
    if milestones is None:
        peaks = [group["lr"] for group in groups]
        steps = max(epochs * steps_per_epoch, 2)  # the schedule cannot have fewer
        return optimizer, OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=False)
    drops = [epoch * steps_per_epoch for epoch in milestones]
    warm = round(method.policy_warmup * epochs) * steps_per_epoch

    def student(step: int) -> float:
        return float(0.1 ** bisect_right(drops, step))

    def policy(step: int) -> float:
        return student(step) * (0.01 if step < warm else 1.0)

    return optimizer, LambdaLR(optimizer, [student, policy] if len(groups) == 2 else [student])
