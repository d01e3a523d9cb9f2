"""A whole run has the numbers that it had in earlier versions; see tests/golden/make_run.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .golden.make_run import EPOCHS, train

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "run.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-9  # processors and thread counts differ by less than 1e-12


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    return train()


@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_losses_shares_and_scores_of_every_epoch(run: dict[str, Any], epoch: int) -> None:
    assert len(GOLDEN["epochs"]) == len(run["epochs"]) == EPOCHS
    assert run["epochs"][epoch] == pytest.approx(GOLDEN["epochs"][epoch], rel=TOLERANCE, abs=0)


def test_every_trained_tensor(run: dict[str, Any]) -> None:
    trained, golden = run["trained"], GOLDEN["trained"]
    assert list(trained) == list(golden)
    for name, expected in golden.items():
        assert trained[name]["norm"] == pytest.approx(expected["norm"], rel=TOLERANCE, abs=0), name
        allowed = TOLERANCE * expected["norm"]  # the terms of the weighted sum may cancel
        assert trained[name]["weighted_sum"] == pytest.approx(expected["weighted_sum"], rel=0, abs=allowed), name


def test_the_golden_run_exercises_every_term_of_sakd() -> None:
    """A term that is zero throughout would prove nothing; the teacher and share terms are off in this run."""
    terms = ("task", "kl", "distill", "route", "balance", "share_layer1", "share_layer2", "share_layer3")
    assert all(any(epoch[term] for epoch in GOLDEN["epochs"]) for term in terms)
    assert any(0 < epoch["share_logits"] < 1 for epoch in GOLDEN["epochs"])
