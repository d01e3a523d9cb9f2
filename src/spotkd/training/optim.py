"""One optimizer with two parameter groups, and the schedules of their rates."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ..losses import Method
from .dot import DOT


def make_optimizer(
    method: Method,
    *,
    epochs: int,
    steps_per_epoch: int,
    kind: str = "sgd",
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    milestones: Sequence[int] | None = None,
    warmup: float | None = None,
    clip: float = 0.0,
    dot_delta: float = 0.0,
    policy_lr: float | None = None,
    policy_weight_decay: float = 1e-3,
    fused: bool = False,
) -> tuple[Optimizer, LRScheduler]:
    """SGD or AdamW over the student side and the policy side, and its schedule, which is stepped after every step.

    Two groups with rates and decays of their own are the same arithmetic as two optimizers, since every update is
    element by element. Where the method asks for a warm-up of the policy (``joint``), its rate is a hundredth of itself
    for that share of the epochs; a one-cycle schedule warms up by itself.

    Args:
        method: what is trained.
        epochs: of the whole training.
        steps_per_epoch: optimizer steps of each.
        kind: sgd or adamw.
        lr: learning rate of the student side; for a one-cycle or a cosine schedule its peak.
        momentum: of both sides; for AdamW the first of its betas.
        weight_decay: of the student side.
        milestones: the last epochs before the rate drops to a tenth; None for another schedule.
        warmup: epochs in which the rate of a cosine schedule rises; None for another schedule, which is one-cycle
            where there are no milestones either.
        clip: longest gradient of each side; 0 for any.
        dot_delta: see :class:`~spotkd.training.dot.DOT`; 0 for one momentum. For sgd alone.
        policy_lr: learning rate of the policy side; None takes half of ``lr``.
        policy_weight_decay: of the policy side.
        fused: one kernel for many parameters, see :class:`torch.optim.SGD`; faster on a GPU.
    """
    groups = method.parameter_groups(lr, weight_decay, policy_lr, policy_weight_decay)
    optimizer = _optimizer(kind, groups, lr, momentum, dot_delta, fused)
    if clip:
        optimizer.register_step_pre_hook(_clipping(clip))
    if milestones is None and warmup is None:
        return optimizer, _one_cycle(optimizer, epochs * steps_per_epoch)
    drops = [epoch * steps_per_epoch for epoch in milestones or ()]
    rise, total = round((warmup or 0) * steps_per_epoch), epochs * steps_per_epoch
    warm = round(method.policy_warmup * epochs) * steps_per_epoch

    def student(step: int) -> float:
        if warmup is not None:
            fall = (step - rise) / max(total - rise, 1)
            return (step + 1) / (rise + 1) if step < rise else (1 + math.cos(math.pi * min(fall, 1.0))) / 2
        return float(0.1 ** bisect_right(drops, step))

    def policy(step: int) -> float:
        return student(step) * (0.01 if step < warm else 1.0)

    return optimizer, LambdaLR(optimizer, [student, policy] if len(groups) == 2 else [student])


def _one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = max(steps, 2)  # the schedule cannot have fewer
    return OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=False)


def _optimizer(
    kind: str, groups: list[dict[str, Any]], lr: float, momentum: float, dot_delta: float, fused: bool
) -> Optimizer:
    if kind == "adamw":
        return AdamW(groups, lr, (momentum, 0.999), fused=fused or None)
    if dot_delta:
        return DOT(groups, lr, momentum, dot_delta)
    return SGD(groups, lr=lr, momentum=momentum, fused=fused or None)


def _clipping(longest: float) -> Callable[..., None]:
    """Shortens the gradient of each group before a step, without waiting for the device."""

    def clip(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            clip_grad_norm_(group["params"], longest)

    return clip
