"""What each strategy decides."""

from __future__ import annotations

import pytest
import torch

from spotkd import STRATEGIES, SpotkdError
from spotkd.distillers import DISTILLERS

LOGITS = torch.stack([torch.linspace(-4, 4, 6000).view(2000, 3), torch.zeros(2000, 3)], dim=-1)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_masks_are_zeros_and_ones_without_gradient(name: str) -> None:
    strategy = STRATEGIES[name]()
    decisions = strategy.decide(LOGITS.clone().requires_grad_())
    assert decisions.mask.shape == (2000, 3)
    assert not decisions.mask.requires_grad
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
