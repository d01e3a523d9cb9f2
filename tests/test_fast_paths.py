"""What makes a step fast leaves its numbers alone: twenty steps beside those of the plain way, for every distiller."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from spotkd import DISTILLERS, Batch, SpotKD, folded

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller

STEPS = 20
Course = list[tuple[Tensor, Tensor, dict[str, Tensor]]]  # of every step: total, mask, gradients


def course(pair: tuple[TinyNet, TinyNet], distiller: str, fast: bool, bf16: bool = False, steps: int = STEPS) -> Course:
    """Steps of a training run, fast (folded, channels last) or without any of it."""
    torch.manual_seed(7)  # some distillers get a teacher of their own
    teacher, student = (network.float() for network in for_distiller(copy.deepcopy(pair), distiller))
    torch.manual_seed(7)
    method = SpotKD(
        folded(teacher, IMAGE_SHAPE).model if fast else teacher,
        student,
        distiller,
        image_shape=IMAGE_SHAPE,
        labels=TRAINING_LABELS,
        options=OPTIONS.get(distiller),
        alpha=0.1,  # strong terms would multiply round-off from step to step
        beta=None if distiller in ("kd", "dkd", "dist") else 0.5,
    ).train()
    layout = torch.channels_last if fast else torch.contiguous_format
    method.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.002), momentum=0.9)
    seen = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(11, *IMAGE_SHAPE, generator=generator).to(memory_format=layout)
        indices = torch.randperm(30, generator=generator)[:11]
        if step == 2:  # the short last batch of an epoch
            images, indices = images[:7], indices[:7]
        torch.manual_seed(step)  # the noise of the decisions
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            losses = method(Batch(images, TRAINING_LABELS[indices], indices))
        optimizer.zero_grad()
        losses.total.backward()
        trained = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        seen.append((losses.total.detach(), losses.mask, trained))
        optimizer.step()
    return seen


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-6))


def all_gradients(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_twenty_steps_in_float32(distiller: str, pair: tuple[TinyNet, TinyNet]) -> None:
    """Equal to round-off; where that moves an activation across a ReLU's kink, one step's gradient may differ more."""
    across_a_kink = 0
    for fast, plain in zip(course(pair, distiller, True), course(pair, distiller, False), strict=True):
        assert torch.equal(fast[1], plain[1])  # the decisions
        assert apart(fast[0], plain[0]) < 1e-4
        difference = apart(all_gradients(fast[2]), all_gradients(plain[2]))
        assert difference < 0.02
        across_a_kink += difference > 1e-4
    assert across_a_kink <= 2


@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_a_step_in_bfloat16(distiller: str, pair: tuple[TinyNet, TinyNet]) -> None:
    """Within the rounding of 8 bits of mantissa through some ten layers; later steps may decide otherwise."""
    (fast,), (plain,) = course(pair, distiller, True, bf16=True, steps=1), course(pair, distiller, False, steps=1)
    assert torch.equal(fast[1], plain[1])
    assert apart(fast[0], plain[0]) < 0.05
    assert fast[0].dtype == torch.float32


def test_the_comparison_can_fail(pair: tuple[TinyNet, TinyNet]) -> None:
    other = copy.deepcopy(pair)
    with torch.no_grad():
        next(other[0].parameters()).mul_(1.01)
    fast, plain = course(other, "at", True, steps=2), course(pair, "at", False, steps=2)
    assert apart(all_gradients(fast[-1][2]), all_gradients(plain[-1][2])) > 1e-4
