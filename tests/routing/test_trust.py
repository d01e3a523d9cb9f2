"""Trust: the mixture against one written as loops, what it makes of good and of damaged teachers, and its memory."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from spotkd.routing import make_strategy
from spotkd.routing.history import History
from spotkd.routing.trust import EVERY, Trust, fit_mixture, lower_posterior

from .test_strategies import make_evidence


def mixture_by_loops(values: list[float], rounds: int) -> list[float]:
    """Expectation and maximisation for one list of numbers, in the order of `fit_mixture`."""

    def density(x: float, mean: float, deviation: float) -> float:
        return math.exp(-(((x - mean) / deviation) ** 2) / 2) / deviation

    ordered = sorted(values)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    spread = statistics.pstdev(values)
    parts = [[quantile(0.2), spread, 0.5], [quantile(0.8), spread, 0.5]]
    for _ in range(rounds):
        belongs = []
        for x in values:
            weights = [share * density(x, mean, deviation) for mean, deviation, share in parts]
            belongs.append([weight / sum(weights) for weight in weights])
        for k in (0, 1):
            mass = sum(row[k] for row in belongs)
            mean = sum(row[k] * x for row, x in zip(belongs, values, strict=True)) / mass
            variance = sum(row[k] * (x - mean) ** 2 for row, x in zip(belongs, values, strict=True)) / mass
            parts[k] = [mean, math.sqrt(variance), mass / len(values)]
    return [number for part in sorted(parts) for number in part]


def two_heaps(seed: int, samples: int = 400, apart: float = 5.0, share: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    upper = torch.rand(samples, generator=generator) < share
    return torch.randn(samples, generator=generator, dtype=torch.float64) + apart * upper


@pytest.mark.parametrize("seed", range(5))
def test_mixture_is_that_of_the_loops(seed: int) -> None:
    columns = torch.stack([two_heaps(seed), two_heaps(seed + 100, apart=1.0)], dim=1)
    padded = torch.cat([columns, torch.full((50, 2), torch.nan, dtype=torch.float64)])  # not seen yet
    for column in (0, 1):
        expected = mixture_by_loops(columns[:, column].tolist(), 15)
        assert fit_mixture(padded)[:, column].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_mixture_finds_two_heaps() -> None:
    low, deviation, share, high, *_ = fit_mixture(two_heaps(0, samples=20_000)[:, None])[:, 0].tolist()
    assert (low, deviation, share, high) == pytest.approx((0, 1, 0.7, 5), abs=0.1)


def test_weight_never_rises_with_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64)[:, None]
    for _ in range(200):
        means = torch.randn(2, generator=generator, dtype=torch.float64).sort().values * 3
        deviations = torch.rand(2, generator=generator, dtype=torch.float64) * 3 + 0.05
        low, high = torch.stack([means, deviations, torch.tensor([0.4, 0.6], dtype=torch.float64)]).unbind(1)
        weights = lower_posterior(x, torch.cat([low, high])[:, None])[:, 0]
        assert (weights.diff() <= 1e-12).all()
        assert (weights[x[:, 0] <= means[0]] == 1).all()
        assert (weights[x[:, 0] >= means[1]] == 0).all()


def trained(losses: Tensor, labels: bool = False) -> Trust:
    """A strategy that has seen the losses ``(N, K)`` in batches of fifty."""
    strategy = Trust(labels)
    strategy.build(losses.shape[1], (), ())
    for rows in losses.float().split(50):
        strategy.weigh(make_evidence(len(rows), losses.shape[1], losses=rows))
    return strategy.eval()


def test_one_heap_is_trusted_everywhere_and_of_two_the_lower() -> None:
    logarithms = torch.stack([two_heaps(1, 2000, apart=0.0), two_heaps(2, 2000)], dim=1)
    strategy = trained(logarithms.exp())
    weights = strategy.weigh(make_evidence(2000, 2, losses=logarithms.exp().float())).mask
    assert (weights[:, 0] == 1).all()
    assert strategy.separation[0] <= 2 < strategy.separation[1]
    outliers = logarithms[:, 1] > 3.5
    assert weights[outliers, 1].mean() < 0.05
    assert weights[~outliers, 1].mean() > 0.95


def test_few_samples_conclude_nothing() -> None:
    assert (trained(two_heaps(2, 200)[:, None].exp()).separation == 0).all()


def test_where_the_teacher_is_wrong_nobody_is_distilled_unless_told() -> None:
    evidence = make_evidence(200, 3)
    right = evidence.teacher[-1].argmax(1) == evidence.labels
    for name, expected in (("trust", right.float()), ("trust:labels=false", torch.ones(200))):
        strategy = make_strategy(name)
        strategy.build(3, (), ())
        assert torch.equal(strategy.weigh(evidence).mask, expected[:, None].expand(-1, 3))


def test_it_goes_on_from_a_checkpoint_to_the_bit() -> None:
    logarithms = two_heaps(3, 1000)[:, None].float()
    whole, first = trained(logarithms.exp()), trained(logarithms[:650].exp())
    resumed = Trust(labels=False)
    resumed.build(1, (), ())
    resumed.load_state_dict(first.state_dict())
    for rows in logarithms[650:].exp().split(50):
        resumed.weigh(make_evidence(len(rows), 1, losses=rows))
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key].nan_to_num(-9), value.nan_to_num(-9)), key
    assert resumed._steps == 20
    assert EVERY == 5


def test_evaluation_leaves_it_as_it_is() -> None:
    strategy = trained(two_heaps(3, 1000)[:, None].exp())
    before = {key: value.clone() for key, value in strategy.state_dict().items()}
    strategy.weigh(make_evidence(50, 1))
    for key, value in strategy.state_dict().items():
        assert torch.equal(value.nan_to_num(-9), before[key].nan_to_num(-9))


def test_history_keeps_the_last_and_drops_what_is_not_finite() -> None:
    history = History(4, 1)
    for number in (1.0, 2.0, math.inf, 4.0, 5.0, 6.0):
        history.add(torch.tensor([[number]]))
    assert history.values[:2, 0].tolist() == [5.0, 6.0]
    assert history.values[2, 0].isnan()
    assert history.quantile(0.5).item() == 5.0
    history.add(torch.arange(9.0)[:, None])  # a batch that is larger than what is kept
    assert sorted(history.values[:, 0].tolist()) == [0.0, 1.0, 2.0, 3.0]
