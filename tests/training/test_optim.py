"""The paper's schedule and the one-cycle one."""

from __future__ import annotations

import copy

import pytest
import torch

from spotkd import Batch, SpotKD, SpotkdError
from spotkd.options import OptimOptions, learning_rate, milestones
from spotkd.training.optim import make_optimizer

from ..conftest import IMAGE_SHAPE, TinyNet

Pair = tuple[TinyNet, TinyNet]


def rates(pair: Pair, config: OptimOptions, epochs: int, steps: int) -> list[list[float]]:
    """The two groups' rates in the first step of every epoch."""
    method = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    optimizer, schedule = make_optimizer(
        method, epochs=epochs, steps_per_epoch=steps, lr=learning_rate(config), milestones=milestones(config, epochs)
    )
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in optimizer.param_groups])
        for _ in range(steps):
            optimizer.step()
            schedule.step()
    return found


def test_papers_rates(pair: Pair) -> None:
    found = rates(pair, OptimOptions(schedule="multistep"), epochs=240, steps=2)
    factors = {1: 1, 150: 1, 151: 0.1, 180: 0.1, 181: 0.01, 210: 0.01, 211: 0.001, 240: 0.001}
    for epoch, factor in factors.items():
        student, policy = found[epoch - 1]
        assert student == pytest.approx(0.05 * factor)
        assert policy == pytest.approx(0.025 * factor)
    assert all(policy == pytest.approx(student / 2) for student, policy in found)


def test_one_cycle_ends_near_zero_with_the_same_ratio(pair: Pair) -> None:
    found = rates(pair, OptimOptions(lr=0.1, schedule="onecycle"), epochs=10, steps=3)
    assert max(student for student, _ in found) == pytest.approx(0.1, rel=0.05)
    assert found[-1][0] < 0.01
    assert all(policy == pytest.approx(student / 2) for student, policy in found)


def test_milestones_scale_with_the_length() -> None:
    assert milestones(OptimOptions(schedule="multistep"), 240) == [150, 180, 210]
    assert milestones(OptimOptions(schedule="multistep"), 60) == [38, 45, 52]
    assert milestones(OptimOptions(schedule="multistep", milestones=[3, 5]), 8) == [3, 5]
    for wrong in ([5, 3], [0], [9], [3, 3]):
        with pytest.raises(SpotkdError, match=r"optim\.milestones"):
            milestones(OptimOptions(schedule="multistep", milestones=wrong), 8)


def test_two_groups_are_two_optimizers(pair: Pair, batch: Batch) -> None:
    torch.manual_seed(0)
    one = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE).double()
    two = copy.deepcopy(one)
    together, _ = make_optimizer(
        one, epochs=1, steps_per_epoch=9, milestones=milestones(OptimOptions(schedule="multistep"), 1)
    )
    student = torch.optim.SGD(two.student_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    policy = torch.optim.SGD(two.policy_parameters(), lr=0.025, momentum=0.9, weight_decay=1e-3)
    for step in range(3):
        for method, optimizers in ((one, [together]), (two, [student, policy])):
            torch.manual_seed(step)
            losses = method(batch)
            method.zero_grad()
            losses.total.backward()
            for optimizer in optimizers:
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
