"""L2T: the derivative through a step ahead, against that step taken by hand, and what is made of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spotkd import Batch, SpotKD
from spotkd.routing import Evidence, Strategy, make_strategy
from spotkd.routing.strategies import Decisions

from .test_every_strategy import Pair, build, make_batch


class Watching(Strategy):
    """Distils everybody and keeps the evidence."""

    def weigh(self, evidence: Evidence) -> Decisions:
        self.seen = evidence
        return Decisions(torch.ones_like(evidence.policy_logits[..., 0]))


def loss_after_a_step(method: SpotKD, batch: Batch, weights: Tensor) -> float:
    """Of the second half's labels, after a step by the distillation of the first half, in a copy of the student."""
    student, half = copy.deepcopy(method.student).train(), len(weights) // 2
    t, s = method.teacher.features(batch.images), student.features(batch.images)
    p_t, q_s = F.softmax(t[-1] / 4, 1), F.log_softmax(s[-1] / 4, 1)
    terms = weights[:, -1] * 16 * (p_t * (p_t.log() - q_s)).sum(1)
    for column, spot in enumerate((1, 2, 3)):
        a_s, a_t = (F.normalize(f[spot].pow(2).mean(1).flatten(1)) for f in (s, t))
        terms = terms + weights[:, column] * 1000 * (a_s - a_t).pow(2).mean(1)
    (terms[:half].sum() / len(weights)).backward()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad)
    return F.cross_entropy(student(batch.images[half:]), batch.labels[half:]).item()


def test_the_derivative_is_that_of_a_step_taken_by_hand(pair: Pair) -> None:
    strategy = Watching()
    method, batch = build(pair, "at", strategy), make_batch(2)
    before = copy.deepcopy(method.student.state_dict())
    method(batch)
    moved_by_forward = copy.deepcopy(method.student.state_dict())
    weights = torch.rand(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = strategy.seen.look_ahead(weights)
    assert all(torch.equal(value, moved_by_forward[key]) for key, value in method.student.state_dict().items())
    method.student.load_state_dict(before)
    assert not found[4:].any()
    for place in ((0, 0), (1, 3), (2, 1), (3, 2)):
        nudge = torch.zeros_like(weights)
        nudge[place] = 1e-4
        up, down = (loss_after_a_step(method, batch, weights + sign * nudge) for sign in (1, -1))
        assert found[place].item() == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=1e-9)


def test_weights_begin_as_always_and_go_against_the_derivative() -> None:
    strategy = make_strategy("l2t").train()
    strategy.build(3, ((4,), (5,)), ((6,), (5,)))
    teacher = [torch.rand(8, 6), torch.randn(8, 5)]
    derivative = torch.linspace(-1, 2, 24).view(8, 3)
    labels, policy = torch.zeros(8, dtype=torch.long), torch.zeros(8, 3, 2)
    asked = []

    def look_ahead(weights: Tensor) -> Tensor:
        asked.append(weights)
        return derivative

    evidence = Evidence(policy, teacher, teacher, labels, None, 0.0, list, look_ahead=look_ahead)
    decisions = strategy.weigh(evidence)
    assert torch.equal(decisions.mask, torch.ones(8, 3))
    assert decisions.loss is not None
    (by_bias,) = torch.autograd.grad(decisions.loss, strategy.get_parameter("gate.bias"))
    torch.testing.assert_close(by_bias, (derivative / derivative.abs().mean()).sum(0) / 24)
    assert [strategy.weigh(evidence).loss is None for _ in range(5)] == [True, True, True, True, False]
    assert len(asked) == 2


def test_who_looks_ahead() -> None:
    assert make_strategy("l2t+trust").looks_ahead
    assert not make_strategy("trust").looks_ahead
