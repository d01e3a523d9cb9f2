"""Runs under a hazard: said, noted, the same when resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotkd.data import DATASETS
from spotkd.errors import SpotkdError, Stopped
from spotkd.models import MODELS
from spotkd.options import DistillOptions, ModelOptions, TrainOptions
from spotkd.options.values import check_values, with_values
from spotkd.report.run_charts import metric_charts
from spotkd.report.run_record import read_record
from spotkd.runs.checkpoint import read_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.training import distill, resume, train
from spotkd.training.assemble import default_folder
from tests.conftest import TinyNet

from . import killed_runs
from .killed_runs import differences
from .test_resume import stop_after


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: killed_runs.tiny_data())
    monkeypatch.setitem(MODELS._entries, "tinynet6", lambda classes: TinyNet(6, classes))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))
    common = {"epochs": 1, "batch_size": 8, "quiet": True, "out": str(tmp_path / "teacher"), "data.name": "tiny"}
    train(with_values(TrainOptions(model=ModelOptions("tinynet6")), common))
    return tmp_path


def chosen(place: Path, out: str, **changes: object) -> DistillOptions:
    teacher, student = ModelOptions("tinynet6", str(place / "teacher")), ModelOptions("tinynet4")
    common = {"epochs": 3, "batch_size": 8, "quiet": True, "out": str(place / out), "data.name": "tiny"}
    options = DistillOptions(teacher=teacher, student=student, distiller="at", min_teacher_top1=0.0)
    return with_values(options, common | {"hazard": "wrong:0.4,scale:2"} | changes)


@pytest.mark.parametrize("hazard", ["wrong:0.4,scale:2", ["wrong:0.4", "scale:2"]])
def test_a_run_without_a_folder_is_named_after_its_hazard(place: Path, hazard: object) -> None:
    options = with_values(chosen(place, "", hazard=hazard), {"out": None})
    expected = "runs/tiny-at-tinynet6-tinynet4-always-wrong-0.4-scale-2-seed1029"
    assert default_folder(options, killed_runs.tiny_data()) == expected
    check_values(options)


def test_cached_outputs_are_the_damaged_ones(place: Path) -> None:
    for name, gib in (("computed", 0.0), ("cached", 1.0)):
        distill(chosen(place, name, cache_teacher=gib, **{"data.augment": False}))
    computed, cached = (read_checkpoint(place / name / "last.ckpt")["method"] for name in ("computed", "cached"))
    assert differences(computed, cached) == []


@pytest.mark.slow
def test_a_resumed_run_meets_the_same_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(chosen(place, "whole"))
    with monkeypatch.context() as patched:
        stop_after(patched, 6)
        with pytest.raises(Stopped):
            distill(chosen(place, "stopped"))
    resume(place / "stopped")
    whole, stopped = (read_checkpoint(place / name / "last.ckpt")["method"] for name in ("whole", "stopped"))
    assert differences(whole, stopped) == []
    distill(chosen(place, "clean", hazard=None))
    assert differences(whole, read_checkpoint(place / "clean" / "last.ckpt")["method"])


def test_what_was_refused_is_noted_and_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distill(chosen(place, "first_half", strategy="first_half", quiet=False))
    assert "hazard wrong:0.4,scale:2: for " in capsys.readouterr().out
    metrics = RunFolder(place / "first_half").metrics
    assert metrics["damaged"] == pytest.approx([0.4] * 3, abs=0.05)
    assert metrics["refused_damaged"][0] == metrics["refused_intact"][0] == 0
    assert metrics["refused_damaged"][-1] == metrics["refused_intact"][-1] == 1
    charts = {chart.title: chart for chart in metric_charts(read_record(place / "first_half", "run"))}
    chart = charts["Teacher outputs that were refused"]
    assert set(chart.lines) == {"damaged", "intact"}
    assert chart.note.endswith("In the last epoch 100 % of the damaged and 100 % of the intact.")
    distill(chosen(place, "clean", hazard=None))
    assert "damaged" not in RunFolder(place / "clean").metrics


def test_hazards_that_a_strategy_cannot_have(place: Path) -> None:
    with pytest.raises(SpotkdError, match="hazard is mismatch: this strategy grafts both networks"):
        distill(chosen(place, "run", hazard="mismatch", strategy="adaptive"))
    with pytest.raises(SpotkdError, match="hazard is wrong: this strategy trains the teacher"):
        distill(chosen(place, "run", strategy="joint"))


def test_the_damage_may_not_change_when_a_run_is_resumed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 6)
        with pytest.raises(Stopped):
            distill(chosen(place, "run"))
    with pytest.raises(SpotkdError, match=r"hazard was wrong:0\.4,scale:2 and is wrong:0\.5"):
        distill(chosen(place, "run", hazard="wrong:0.5", resume="auto"))
