"""Mistakes that tell something against those of chance, in float64 and against the formula computed apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from spotkd.routing import make_strategy
from spotkd.routing.mistakes import FEWEST, fit_beliefs, label_ranks, look_up_beliefs, rank_bins
from spotkd.routing.trust import Trust

from .test_strategies import make_evidence


def draw(count: int, classes: int, honest: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ranks, of which a share falls by the half from one to the next, the others by chance; and which are of those."""
    dice = np.random.default_rng(seed)
    tells = dice.random(count) < honest
    ranks = np.where(
        tells, np.minimum(dice.geometric(0.5, count) - 1, classes - 2), dice.integers(classes - 1, size=count)
    )
    return torch.tensor(ranks, dtype=torch.float64), torch.tensor(tells)


def believed(ranks: Sequence[float], classes: int) -> list[float]:
    """The formula of the page, rank by rank, in plain Python."""
    others, known = classes - 1, [r for r in ranks if r == r]
    half = others // 2
    tail = sum(r >= half for r in known)
    chance = min(1.0, (tail + 1) / (len(known) * (others - half) / others))
    beliefs, least = [], 1.0
    for rank in range(others):
        size = 2 ** int(math.log2(rank + 1))
        mates = [r for r in range(others) if 2 ** int(math.log2(r + 1)) == size]
        share = sum(r in mates for r in known) / len(known)
        least = min(least, max(0.0, 1 - chance * len(mates) / others / share) if share else 0.0)
        beliefs.append(least)
    return beliefs


def test_ranks_are_those_among_the_other_classes() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]]).expand(5, -1)
    assert label_ranks(logits, torch.arange(5)).tolist() == pytest.approx([math.nan, 0, 1, 2, 3], nan_ok=True)
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(20_000, 10, generator=generator), torch.randint(10, (20_000,), generator=generator)
    ranks = label_ranks(logits, labels)
    known = ranks[ranks.isfinite()]
    assert len(known) / 20_000 == pytest.approx(0.9, abs=0.01)
    assert stats.chisquare(torch.bincount(known.long(), minlength=9).numpy()).pvalue > 1e-3  # chance: anywhere


@pytest.mark.parametrize("classes", [3, 10, 94])
@pytest.mark.parametrize("honest", [0.1, 0.5, 0.95])
def test_beliefs_are_their_formula(classes: int, honest: float) -> None:
    ranks, _ = draw(500, classes, honest)
    ranks[::7] = torch.nan
    expected = believed(ranks.tolist(), classes)
    columns = torch.stack([ranks, torch.full_like(ranks, torch.nan)], dim=1)  # beside one of which nothing is known
    fitted = fit_beliefs(columns, classes)
    every = torch.arange(classes - 1, dtype=torch.float64)[:, None].expand(-1, 2)
    found = look_up_beliefs(every, fitted)
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-12)
    assert found[:, 1].max() == 0
    assert (found.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("classes", [10, 94])
@pytest.mark.parametrize("honest", [0.1, 0.5, 0.9])
def test_what_is_believed_is_believed_by_right(classes: int, honest: float) -> None:
    """In every bin at least so large a share as is believed is none of chance."""
    ranks, tells = draw(4096, classes, honest, seed=1)
    given = look_up_beliefs(ranks[:, None], fit_beliefs(ranks[:, None], classes))[:, 0]
    for place in range(4):
        here = rank_bins(ranks) == place
        chance = 4 * 0.5 / int(here.sum()) ** 0.5  # four standard errors, at most
        assert tells[here].double().mean() >= given[here].mean() - chance - 0.02
    if honest >= 0.5:
        assert given[tells].mean() > 0.5
        assert given[~tells].mean() < given[tells].mean() / 2 or classes == 10


@pytest.mark.parametrize("classes", [2, 10, 94])
def test_mistakes_of_chance_and_those_of_two_classes_are_not_believed(classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4096, classes, generator=generator, dtype=torch.float64)
    ranks = label_ranks(logits, torch.randint(classes, (4096,), generator=generator))[:, None]
    given = look_up_beliefs(ranks, fit_beliefs(ranks, classes))[ranks.isfinite()]
    assert given.mean() < 0.03
    honest, _ = draw(FEWEST - 1, 10, 1.0)
    assert fit_beliefs(honest[:, None], 10).max() == 0  # too few to conclude anything from
    assert fit_beliefs(torch.cat([honest, honest[:1]])[:, None], 10).max() > 0.5


def test_trust_believes_honest_mistakes_and_not_those_of_another_picture() -> None:
    """Of 3 000 outputs a third is damaged; the honest ones err in a fifth, with the label as the second choice."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(20, (3000,), generator=generator)
    logits = torch.randn(3000, 20, generator=generator)
    seen = torch.where(torch.arange(3000) % 3 == 0, labels[torch.randperm(3000, generator=generator)], labels)
    logits[torch.arange(3000), seen] += 6
    errs = (torch.arange(3000) % 3 > 0) & (torch.rand(3000, generator=generator) < 0.2)
    logits[errs, (labels[errs] + 1) % 20] += 20
    damaged = (torch.arange(3000) % 3 == 0) & (seen != labels)
    evidence = make_evidence(3000, 2, classes=20)._replace(teacher=[logits, logits], labels=labels)
    plain, graded = (make_strategy(f"trust:graded={value}") for value in ("false", "true"))
    for strategy in (plain, graded):
        strategy.build(2, (), ())
        for _ in range(2):
            mask = strategy.weigh(evidence).mask
            strategy._steps = 0  # type: ignore[assignment]
        if strategy is plain:
            assert mask[errs].max() == mask[damaged].max() == 0
    assert mask[errs].mean() > 0.7
    assert mask[damaged].mean() < 0.1
    assert (mask[logits.argmax(1) == labels] == 1).all()


def test_it_goes_on_from_a_checkpoint_to_the_bit() -> None:
    whole, first, resumed = (Trust(graded=True) for _ in range(3))
    evidence = [make_evidence(50, 2, seed=seed) for seed in range(12)]
    evidence = [e._replace(labels=e.teacher[-1].topk(2, dim=1).indices[:, 1]) for e in evidence]  # the second choice
    for strategy in (whole, first, resumed):
        strategy.build(2, (), ())
    for seen in evidence[:7]:
        whole.weigh(seen)
        first.weigh(seen)
    resumed.load_state_dict(first.state_dict())
    for seen in evidence[7:]:
        assert torch.equal(whole.weigh(seen).mask, resumed.weigh(seen).mask)
    assert whole.beliefs.max() > 0
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key].nan_to_num(-9), value.nan_to_num(-9)), key
