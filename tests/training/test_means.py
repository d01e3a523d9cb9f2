"""The means of an epoch: what a strategy has found out is among them, and states of older runs still fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spotkd import Batch, Losses
from spotkd.distributed import Shard
from spotkd.routing import make_strategy, trust
from spotkd.runs.folder import RunFolder
from spotkd.training import distill
from spotkd.training.means import EpochMeans

from .test_hazard_runs import chosen, place  # noqa: F401  # a fixture

SPOTS, CPU = ("layer1", "logits"), torch.device("cpu")


def take_step(means: EpochMeans, samples: int) -> None:
    terms = {name: torch.zeros(()) for name in Losses.terms()}
    means.add(
        Losses(**terms, logits=torch.eye(samples, 4), mask=torch.ones(samples, 2)),
        Batch(torch.zeros(samples, 3, 2, 2), torch.arange(samples)),
        Shard(0, samples, samples),
    )


def test_measures_are_means_over_samples() -> None:
    found = {"separation": torch.tensor([1.0, 4.0])}
    means = EpochMeans(SPOTS, CPU, measures=lambda: found)
    take_step(means, 3)
    found["separation"] = torch.tensor([5.0, 4.0])
    take_step(means, 1)
    row = means.read()
    assert (row["separation_layer1"], row["separation_logits"]) == (2.0, 4.0)
    assert row["share_layer1"] == 1


def test_a_state_without_measures_is_taken_up() -> None:
    older, newer = EpochMeans(SPOTS, CPU), EpochMeans(SPOTS, CPU, measures=lambda: {"learnt": torch.ones(2)})
    take_step(older, 4)
    newer.load_state_dict(older.state_dict())
    assert {name: newer.read()[name] for name in older.read()} == older.read()
    assert newer.read()["learnt_layer1"] == 0


def test_combined_strategies_say_all() -> None:
    both = make_strategy("trust+cohort")
    both.build(2, (), ())
    assert {name: numbers.tolist() for name, numbers in both.measures().items()} == {
        "separation": [0, 0],
        "learnt": [1, 1],
    }
    assert not make_strategy("always").measures()


def test_a_run_by_trust_notes_how_far_the_losses_are_apart(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trust, "FEWEST", 10)
    distill(chosen(place, "run", strategy="trust"))
    metrics = RunFolder(place / "run").metrics
    columns = [name for name in metrics if name.startswith("separation_")]
    assert columns == [name.replace("share_", "separation_") for name in metrics if name.startswith("share_")]
    assert all(metrics[name][-1] > 0 for name in columns)
