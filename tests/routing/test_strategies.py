"""What each strategy decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spotkd import STRATEGIES, SpotkdError
from spotkd.distillers import DISTILLERS
from spotkd.routing import Evidence, make_strategy

LOGITS = torch.stack([torch.linspace(-4, 4, 6000).view(2000, 3), torch.zeros(2000, 3)], dim=-1)


WEIGHING = ("constant", "ea", "trust", "wsl")  # give weights; all others select


def make_evidence(samples: int = 2000, spots: int = 3, classes: int = 5, seed: int = 0, **given: Any) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    policy = torch.stack([torch.linspace(-4, 4, samples * spots).view(samples, spots), torch.zeros(samples, spots)], -1)
    student, teacher = (torch.randn(samples, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (samples,), generator=generator)
    losses = torch.randn(samples, spots, generator=generator).exp()
    evidence = Evidence(policy.requires_grad_(), [teacher, teacher], [student, student], labels, losses, 0.0, list)
    return evidence._replace(**given)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_weights_have_no_gradient_and_selections_are_zeros_and_ones(name: str) -> None:
    strategy = make_strategy(name)
    strategy.build(3, ((5,), (5,)), ((5,), (5,)))
    decisions = strategy.weigh(make_evidence())
    assert decisions.mask.shape == (2000, 3)
    assert not decisions.mask.requires_grad
    assert decisions.mask.min() >= 0
    if name not in WEIGHING:
        assert set(decisions.mask.unique().tolist()) <= {0.0, 1.0}
    assert (decisions.route is not None) == strategy.learns
    if decisions.route is not None:
        assert decisions.route.requires_grad


def test_each_strategy() -> None:
    torch.manual_seed(0)
    adaptive, anti = STRATEGIES["adaptive"]().decide(LOGITS), STRATEGIES["anti"]().decide(LOGITS)
    assert adaptive.route is not None
    assert anti.route is not None
    assert torch.equal(adaptive.mask, adaptive.route)
    assert torch.equal(anti.mask, 1 - anti.route)  # the student sees the complement of what is routed
    assert STRATEGIES["always"]().decide(LOGITS).mask.min() == 1
    assert STRATEGIES["never"]().decide(LOGITS).mask.max() == 0
    coins = STRATEGIES["random"]().decide(LOGITS).mask
    assert (coins.mean(0) - 0.5).abs().max() < 4.5 * (0.25 / 2000) ** 0.5
    assert torch.corrcoef(coins.T).triu(1).abs().max() < 4.5 / 2000**0.5  # the spots' coins are independent


@pytest.mark.parametrize(
    ("registry", "name", "hint"),
    [
        (STRATEGIES, "adaptiv", r"unknown strategy 'adaptiv': did you mean adaptive\?"),
        (DISTILLERS, "fitnets", r"unknown distiller 'fitnets': did you mean fitnet\?"),
        (DISTILLERS, "qqq", r"known: .*at.*"),
    ],
)
def test_unknown_names(registry: object, name: str, hint: str) -> None:
    with pytest.raises(SpotkdError, match=hint):
        registry[name]  # type: ignore[index]
