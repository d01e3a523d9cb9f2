"""Runs that spotkd 0.1.0 left on the disk are resumed and read; see tests/runs_of_0_1/make_runs.py."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from spotkd.cli import main

RUNS = Path(__file__).parent / "runs_of_0_1"
MADE_ON: dict[str, Any] = json.loads((RUNS / "made_on.json").read_text(encoding="utf-8"))
# Allowed differences of float32 on another processor: of a tensor's norm, and of a number in a table. They are chosen,
# not measured: what other instruction sets and thread counts do to these runs is still to be found out.
WEIGHTS, METRICS = 1e-3, 1e-2
VALIDATION_IMAGES = 94


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the runs, as the working directory: the names in their options are relative to it."""
    for name in ("teacher", "interrupted", "finished"):
        shutil.copytree(RUNS / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, without the wall time."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def made_alike(folder: Path) -> bool:
    """Whether a run was computed on a machine whose numbers are those of the old runs to the last bit."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    same = all(summary[key] == MADE_ON[key] for key in ("torch", "machine"))
    return same and torch.backends.cpu.get_cpu_capability() == MADE_ON["cpu_capability"]


def check_tables(found: Path, expected: Path, exact: bool) -> None:
    rows, old_rows = table(found), table(expected)
    assert len(rows) == len(old_rows)
    for row, old in zip(rows, old_rows, strict=True):
        assert list(row) == list(old)
        for key, value in old.items():
            images = 2 * 100 / VALIDATION_IMAGES if "top" in key else 0.0  # that are classified otherwise
            if key != "class":
                assert float(row[key]) == pytest.approx(float(value), rel=METRICS, abs=images or METRICS), key
            assert not exact or row[key] == value, key


def check_result(folder: Path, expected: Path) -> None:
    """The run's tables and weights are those of the old result, where the machine is alike to the last bit."""
    exact = made_alike(folder)
    for name in ("metrics.csv", "decisions.csv"):
        if (expected / name).exists():
            check_tables(folder / name, expected / name, exact)
    weights, old_weights = load_file(folder / "student.safetensors"), load_file(expected / "student.safetensors")
    assert list(weights) == list(old_weights)
    for name, old in old_weights.items():
        difference = (weights[name].double() - old.double()).norm()
        assert difference <= WEIGHTS * old.double().norm(), name
    if exact:
        assert (folder / "student.safetensors").read_bytes() == (expected / "student.safetensors").read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_ends_as_if_nothing_had_stopped_it(place: Path) -> None:
    assert len(table(place / "interrupted" / "metrics.csv")) == 1
    run("distill", "--resume", "interrupted")
    check_result(place / "interrupted", RUNS / "interrupted_result")


@pytest.mark.slow
def test_a_finished_run_is_prolonged(place: Path) -> None:
    run("distill", "--resume", "finished", "--epochs", "3", "--accept_changes", "true")
    check_result(place / "finished", RUNS / "prolonged_result")


@pytest.mark.slow
def test_a_finished_run_is_only_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("distill", "--resume", "finished")
    top1 = json.loads((RUNS / "finished" / "summary.json").read_text(encoding="utf-8"))["scores"]["top1"]
    assert f"test top-1 {top1:.2f} % after epoch 2" in capsys.readouterr().out
    for path in (RUNS / "finished").iterdir():
        assert (place / "finished" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    scores = json.loads((RUNS / "finished" / "summary.json").read_text(encoding="utf-8"))["scores"]
    run("evaluate", "finished", "--accelerator", "cpu", "--precision", "32")
    found = re.search(
        r"top-1 ([\d.]+) %, top-5 ([\d.]+) %, loss ([\d.]+) on (\d+) test images", capsys.readouterr().out
    )
    assert found is not None
    top1, top5, loss, images = map(float, found.groups())
    assert images == scores["images"]
    assert (top1, top5) == pytest.approx((scores["top1"], scores["top5"]), abs=0.05)
    assert loss == pytest.approx(scores["loss"], abs=2e-4)


@pytest.mark.slow
def test_export(place: Path) -> None:
    run("export", "finished", "--format", "safetensors", "--out", "exported.safetensors")
    exported, student = load_file("exported.safetensors"), load_file(place / "finished" / "student.safetensors")
    assert list(exported) == list(student)
    assert all(torch.equal(exported[name], tensor) for name, tensor in student.items())


@pytest.mark.slow
def test_report_of_a_finished_and_a_stopped_run(place: Path) -> None:
    run("report", "finished", "interrupted", "--out", "page.html")
    text = (place / "page.html").read_text(encoding="utf-8")
    assert "finished" in text
    assert "interrupted" in text


@pytest.mark.slow
def test_inspect_a_stopped_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", "interrupted", "--out", "tables")
    assert "layer1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["interrupted", "finished"])
def test_the_configuration_means_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option that 0.1.0 wrote is taken and keeps its value; a later version may add some."""
    run("distill", "--config", f"{name}/config.yaml", "--print_config")

    def check(now: dict[str, Any], old: dict[str, Any]) -> None:
        for key, value in old.items():
            if isinstance(value, dict):
                check(now[key], value)
            else:
                assert now[key] == value, key

    check(yaml.safe_load(capsys.readouterr().out), yaml.safe_load((RUNS / name / "config.yaml").read_text("utf-8")))
