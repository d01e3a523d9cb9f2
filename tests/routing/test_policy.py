"""The policy network and its straight-through decisions."""

from __future__ import annotations

import math

import pytest
import torch

from spotkd.routing import PolicyNetwork, scaled_bias, straight_through


def test_decisions_follow_the_closed_form() -> None:
    torch.manual_seed(0)
    gaps = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0])
    count = 40_000
    logits = torch.stack([gaps, torch.zeros(5)], dim=1).expand(count, 5, 2)
    decisions = straight_through(logits)
    assert set(decisions.unique().tolist()) == {0.0, 1.0}  # exactly, not up to rounding
    expected = torch.sigmoid(gaps)
    error = (expected * (1 - expected) / count).sqrt()
    assert ((decisions.mean(0) - expected).abs() < 4.5 * error).all()


@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_gradient_is_that_of_the_softmax(tau: float) -> None:
    logits = torch.randn(7, 3, 2, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    straight_through(logits, tau).sum().backward()
    torch.manual_seed(5)
    uniform = torch.rand_like(logits)
    p = torch.softmax((logits.detach() - (-uniform.log()).log()) / tau, dim=-1)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[..., 0], p[..., 0] * p[..., 1] / tau)
    torch.testing.assert_close(logits.grad[..., 1], -p[..., 0] * p[..., 1] / tau)


def test_shape_bias_and_detached_inputs() -> None:
    policy = PolicyNetwork(6, 4, decisions=3, bias=10.0)
    assert policy.linear.weight.shape == (6, 10)
    bias = policy.linear.bias.detach().view(3, 2)
    assert (bias[:, 0] > 9.5).all()
    assert (bias[:, 1].abs() < 0.5).all()
    teacher, student = torch.randn(5, 6, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    logits = policy(teacher, student)
    assert logits.shape == (5, 3, 2)
    flat = policy.linear(torch.cat([teacher, student], 1))  # the teacher's embedding comes first
    assert torch.equal(logits.flatten(1), flat)
    logits.sum().backward()
    assert teacher.grad is None
    assert student.grad is None


def test_policy_computes_in_float32_under_autocast() -> None:
    policy = PolicyNetwork(6, 4, decisions=2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = policy(torch.randn(5, 6).bfloat16(), torch.randn(5, 4).bfloat16())
    assert logits.dtype == torch.float32


def test_scaled_bias() -> None:
    paper = 240 * 782
    assert scaled_bias(paper, 0.025, 1e-3) == pytest.approx(10)
    assert scaled_bias(10 * paper, 0.025, 1e-3) == 10
    assert scaled_bias(0, 0.025, 1e-3) == 1
    # By its definition: weight decay brings it down to 1 after the same share of the run, whatever the length.
    for steps in (1_000, 20_000, 100_000):
        bias, decay = scaled_bias(steps, 0.025, 1e-3), 0.025 * 1e-3 / 0.1
        steps_to_one = math.log(bias) / decay
        assert steps_to_one / steps == pytest.approx(math.log(10) / decay / paper)
