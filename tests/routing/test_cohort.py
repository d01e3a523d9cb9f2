"""Cohorts: who belongs to which, what chance decides, and what is learnt of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from spotkd import SpotkdError
from spotkd.routing import Combined, make_strategy
from spotkd.routing.cohort import COHORTS, Cohort, Trial

from .test_strategies import make_evidence

SPOTS = 3
Course = Callable[[torch.Tensor], float]  # the loss of an epoch by its levels


def build(kind: type[Trial], seed: int = 0) -> Trial:
    torch.manual_seed(seed)
    strategy = kind()
    strategy.build(SPOTS, (), ())
    return strategy


def through_first_epoch(strategy: Trial, seed: int = 0, loss: float = 3.0) -> Trial:
    strategy.train().start_epoch(1, 9)
    assert strategy.weigh(make_evidence(seed=seed)).mask.unique().tolist() == [1]
    strategy.finish_epoch(loss)
    return strategy


@pytest.mark.parametrize("kind", [Trial, Cohort])
def test_cohorts_are_thirds_of_what_the_teacher_says(kind: type[Trial]) -> None:
    strategy, evidence = through_first_epoch(build(kind)), make_evidence(seed=0)
    logits = evidence.teacher[-1].tolist()
    sure = [max(math.exp(x) for x in row) / sum(math.exp(x) for x in row) for row in logits]
    right = [row.index(max(row)) == label for row, label in zip(logits, evidence.labels.tolist(), strict=True)]
    third = sorted(sure)[len(sure) // 3], sorted(sure)[2 * len(sure) // 3]
    expected = [3 * is_right + (x >= third[0]) + (x >= third[1]) for x, is_right in zip(sure, right, strict=True)]
    strategy.start_epoch(2, 9)
    strategy.levels.copy_(torch.arange(len(COHORTS) * SPOTS).view(len(COHORTS), SPOTS) / 10)
    found = strategy.weigh(evidence).mask
    of_cohorts = strategy.weights()
    wrong = sum(not torch.equal(row, of_cohorts[cohort]) for row, cohort in zip(found, expected, strict=True))
    assert wrong <= 2  # at the limits themselves
    counts = [expected.count(cohort) / len(expected) for cohort in range(len(COHORTS))]
    assert strategy.shares.tolist() == pytest.approx(counts, abs=0.002)


def test_a_trial_tosses_a_fair_coin_for_every_cell_and_epoch() -> None:
    strategy, drawn = through_first_epoch(build(Trial)), []
    for epoch in range(2, 402):
        strategy.start_epoch(epoch, 402)
        drawn.append(strategy.weights().clone())
        rows = strategy.finish_epoch(2.0)
        assert [row.cohort for row in rows] == list(COHORTS)
        assert torch.equal(torch.tensor([row.levels for row in rows]), drawn[-1])
    coins = torch.stack(drawn).flatten(1)
    assert coins.unique().tolist() == [0, 1]
    assert (coins.mean(0) - 0.5).abs().max() < 0.1
    correlations = torch.corrcoef(coins.T) - torch.eye(coins.shape[1])
    assert correlations.abs().max() < 0.2
    successive = ((coins[1:] - 0.5) * (coins[:-1] - 0.5)).mean(0) * 4
    assert successive.abs().max() < 0.2
    assert strategy.expected_weights(make_evidence(5)).unique().tolist() == [0.5]


def run(course: Course, epochs: int = 60, seed: int = 0) -> Cohort:
    strategy = through_first_epoch(build(Cohort, seed), seed)
    assert isinstance(strategy, Cohort)
    generator, loss = torch.Generator().manual_seed(seed), 3.0
    for epoch in range(2, epochs + 2):
        strategy.start_epoch(epoch, epochs)
        loss += course(strategy.levels) - 0.02 + 0.02 * float(torch.randn((), generator=generator))
        strategy.finish_epoch(math.exp(loss))
    return strategy


@pytest.mark.parametrize("seed", range(3))
def test_what_helps_is_distilled_more_and_what_hurts_less(seed: int) -> None:
    weights = run(lambda levels: float(0.03 * levels[0, 1] - 0.03 * levels[5, 2]), seed=seed).mean_weights()
    assert weights[0, 1] < 0.6 * weights.mean()
    assert weights[5, 2] > 1.7 * weights.mean()
    assert weights[5, 2] == weights.max()
    assert weights[0, 1] == weights.min()


def test_without_effects_weights_stay_near_one() -> None:
    weights = torch.stack([run(lambda _: 0.0, seed=seed).mean_weights() for seed in range(8)])
    assert weights.log().abs().mean() < 0.15
    assert weights.min() > 1 / 4
    assert weights.max() < 4


@pytest.mark.parametrize("seed", range(3))
def test_as_much_is_distilled_as_by_always(seed: int) -> None:
    strategy, doses = run(lambda levels: float(levels[:, 0].sum()) / 20, seed=seed), []
    assert (strategy.shares @ strategy.mean_weights()).mean().item() == pytest.approx(1, abs=1e-6)
    for epoch in range(2000):
        strategy.start_epoch(epoch, 2000)
        doses.append((strategy.shares @ strategy.weights()).mean())
    assert torch.stack(doses).mean().item() == pytest.approx(1, abs=0.02)


def test_a_resumed_run_draws_and_learns_the_same() -> None:
    whole, other = run(lambda levels: float(levels.mean()), 20, seed=1), build(Cohort, seed=9)
    other.load_state_dict(whole.state_dict())
    for strategy in (whole, other):
        for epoch in (40, 41):
            strategy.start_epoch(epoch, 60)
            strategy.finish_epoch(2.0 + float(strategy.levels[0, 0]))
    for key, value in whole.state_dict().items():
        assert torch.equal(other.state_dict()[key].nan_to_num(-9), value.nan_to_num(-9)), key
    assert torch.equal(whole.weights(), other.weights())


def test_a_loss_that_is_not_finite_teaches_nothing() -> None:
    strategy = run(lambda _: 0.0, 10)
    before = strategy.mean_weights()
    for loss in (math.nan, math.inf, 2.0):
        strategy.start_epoch(12, 20)
        strategy.finish_epoch(loss)
    assert torch.equal(strategy.mean_weights(), before)


def test_combined_with_others() -> None:
    both = make_strategy("cohort+constant:0.5")
    both.build(SPOTS, (), ())
    assert isinstance(both, Combined)
    assert both.needs_held_out
    assert both.weigh(make_evidence(7)).mask.unique().tolist() == [0.5]
    assert len(both.finish_epoch(1.0)) == len(COHORTS)
    with pytest.raises(SpotkdError, match="Cohort and Trial both try out what helps"):
        make_strategy("cohort+trial")
