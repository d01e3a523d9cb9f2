"""A word, while it trains, where a student is behind the one that has no teacher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from spotkd.options import DistillOptions
from spotkd.training.controls import Behind, behind_alone
from spotkd.training.hooks import Epoch, Start


def watch(before: list[float], after: list[float], images: int = 400, history: list[float] | None = None) -> list[str]:
    """What is said, where the student alone had the accuracies ``before`` and this one has ``after``."""
    said: list[str] = []
    alone = SimpleNamespace(metrics={"test_top1": before}, path="runs/alone")
    hook = Behind(said.append, alone, images, "--distiller kd is the safest")  # type: ignore[arg-type]
    past = history or []
    hook.on_start(Start(len(past), 0, 0, {"test_top1": past}))
    for number, top1 in enumerate(after, len(past) + 1):
        hook.on_epoch(Epoch(number, {}, {}, "test", top1, ()))
    return said


def test_it_is_said_once_and_not_before_half_of_the_training() -> None:
    before = [30.0] * 40
    said = watch(before, [10.0] * 40)
    assert said == [
        "note: up to epoch 20 the student gets 10.0 % right, and the student alone 30.0 % (runs/alone): what is "
        "distilled does harm so far; --distiller kd is the safest"
    ]
    assert watch(before, [10.0] * 19) == []


@pytest.mark.parametrize(("images", "is_said"), [(300, False), (10_000, True)])
def test_a_difference_that_may_be_chance_is_not_told(images: int, is_said: bool) -> None:
    assert bool(watch([50.0] * 40, [46.0] * 40, images)) == is_said


def test_one_bad_epoch_is_none() -> None:
    after = [50.0] * 40
    after[25] = 30.0
    assert watch([50.0] * 40, after) == []


def test_a_run_that_is_resumed_or_longer_is_compared_at_the_same_epochs() -> None:
    assert len(watch([50.0] * 40, [20.0] * 5, history=[20.0] * 30)) == 1
    assert watch([50.0] * 40, [20.0] * 5, history=[50.0] * 40) == []
    assert watch([], [20.0] * 5) == []


def test_nothing_is_watched_where_there_is_no_student_alone(tmp_path: Path) -> None:
    assert behind_alone(print, DistillOptions(), tmp_path / "run", 300) == []
