"""Grids of runs in processes of their own: resumed, skipped, failing one by one, and killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spotkd.cli import main
from spotkd.errors import STOPPED
from spotkd.experiments import cells, read_plan
from spotkd.runtime.device import describe_machine

from .conftest import DATA

PLAN = f"""
title: bright and dark
data: ["{DATA}"]
pairs: [resnet14-resnet8]
distillers: {{kd: [always], at: [adaptive]}}
seeds: [1]
options: {{epochs: 1, batch_size: 16}}
"""


def bench(*arguments: str) -> int:
    return main(["bench", *arguments])


def processes_at(folder: Path) -> list[int]:
    """Processes that run cells below ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "spotkd.training.worker" in words and any(str(folder) in word for word in words):
            found.append(int(entry.name))
    return found


@pytest.mark.process
@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(bright: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(PLAN)
    assert bench("plan.yaml") == 0
    printed = capfd.readouterr().out
    assert "[4/4]" in printed
    assert "SAKD-AT" in printed
    grid = bright / "runs" / "bench" / "plan"
    grid.rename(bright / "whole")
    moments = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", "0"))
    for number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "spotkd.cli", "bench", "plan.yaml", "--out", str(grid)],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60  # not before the first run has begun
        while number == 0 and not processes_at(grid) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.5, 5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while processes_at(grid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes_at(grid)  # no run outlives the bench
    assert bench("plan.yaml") == 0
    for name in ("report.md", "report.csv", "runs.csv", "report.tex"):
        assert (grid / name).read_bytes() == Path("whole", name).read_bytes(), name
    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in grid.rglob("summary.json")}
    assert len(before) == 4
    assert bench("plan.yaml") == 0  # nothing is run twice
    assert "4 of 4 runs are finished already" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in grid.rglob("summary.json")} == before


@pytest.mark.process
@pytest.mark.slow
def test_told_to_stop_and_started_again(bright: Path) -> None:
    Path("plan.yaml").write_text(PLAN.replace("epochs: 1", "epochs: 10").replace(", at: [adaptive]", ""))
    command = [sys.executable, "-m", "spotkd.cli", "bench", "plan.yaml"]
    grid = bright / "runs" / "bench" / "plan"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(grid.rglob("last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert errors == "spotkd: stopped by SIGTERM; the same command resumes it\n"
    assert not processes_at(grid)
    (path,) = grid.rglob("metrics.csv")
    before = path.read_text()  # seconds and all: what was done is not done again
    assert 1 < len(before.splitlines()) < 11
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert path.read_text().startswith(before)
    assert all(len(table.read_text().splitlines()) == 11 for table in grid.rglob("metrics.csv"))


@pytest.mark.process
@pytest.mark.slow
def test_a_failing_cell_does_not_stop_the_rest(bright: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # FSP compares channel by channel, which these two networks do not allow.
    text = PLAN.replace("resnet14-", "resnet8x4-").replace("at: [adaptive]", "fsp: [always], sp: [always]")
    Path("plan.yaml").write_text(text)
    assert bench("plan.yaml", "--jobs", "2") == 1
    printed = capfd.readouterr().out
    assert "fsp always seed1: failed: " in printed
    assert "1 of 5 runs failed; the same command tries them again" in printed
    folder = Path("runs/bench/plan")
    (cell,) = [cell for cell in cells(read_plan(Path("plan.yaml"))) if cell.distiller == "fsp"]
    assert (folder / cell.folder / "error.txt").read_text().count("\n") == 1
    assert len(list(folder.rglob("summary.json"))) == 4
    assert "fsp" in (folder / "report.md").read_text()
    # A plan with other options does not take these runs for its own.
    Path("plan.yaml").write_text(text.replace("epochs: 1", "epochs: 2"))
    assert bench("plan.yaml") == 2
    assert "was run with another epochs" in capfd.readouterr().err
    # The report can be had without running anything.
    Path("plan.yaml").write_text(text)
    assert main(["report", "plan.yaml"]) == 0
    assert "bright and dark" in capfd.readouterr().out


@pytest.mark.process
@pytest.mark.slow
def test_without_a_teacher_its_students_fail(bright: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(PLAN + "teacher: {optim: {lr: 1.0e+30}}\n")
    assert bench("plan.yaml") == 1
    printed = capfd.readouterr().out
    assert "teachers resnet14: failed: epoch 1, step 2 of 4: not finite" in printed
    assert printed.count("seed1: failed: its teacher failed") == 2
    assert len(list(Path("runs/bench/plan").rglob("summary.json"))) == 1  # the student alone


@pytest.mark.slow
def test_a_dry_run_lists_the_cells_of_every_shipped_plan(capsys: pytest.CaptureFixture[str]) -> None:
    from spotkd.experiments import shipped_plans

    assert bench("--dry-run") == 0
    printed = capsys.readouterr().out
    for name, path in shipped_plans().items():
        all_cells = cells(read_plan(path))
        assert f"{name}: {len(all_cells)} runs, about " in printed
        for cell in all_cells:
            assert f"  {cell}: " in printed
    assert not Path("runs/bench/cifar100-homogeneous").exists()


def test_an_estimate_follows_the_options(bright: Path) -> None:
    from spotkd.experiments.estimate import estimate_seconds
    from spotkd.options import ModelOptions, TrainOptions, with_values

    config = TrainOptions(model=ModelOptions("resnet8"), epochs=10)
    config = with_values(config, {"data.name": "cifar100"})  # which is not there, and need not be
    once = estimate_seconds(config)
    config = with_values(config, {"epochs": 20})
    assert estimate_seconds(config) == pytest.approx(2 * once)
    config = with_values(config, {"data.limit": 10_000, "data.val_share": 0.1})
    assert estimate_seconds(config) == pytest.approx(2 * once * 0.2 * 0.9)
    config = with_values(config, {"model.name": "resnet56"})
    assert estimate_seconds(config) > 2 * once * 0.2 * 0.9


def test_an_estimate_follows_finished_runs(bright: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own kind where there are some; else the timings are corrected by those of other kinds."""
    from spotkd.experiments import grid as module
    from spotkd.experiments.grid import Grid

    Path("plan.yaml").write_text(PLAN.replace("seeds: [1]", "seeds: [1, 2]"))
    grid = Grid(read_plan(Path("plan.yaml")), bright / "grid")
    kd = [cell for cell in grid.cells if cell.distiller == "kd"]
    (other, *_) = [cell for cell in grid.cells if cell.distiller == "at"]
    monkeypatch.setattr(module, "estimate_seconds", lambda options: 100.0)
    monkeypatch.setattr(Grid, "finished", lambda self, cell: cell == kd[0])
    machine = describe_machine(torch.device("cpu"))
    found = SimpleNamespace(result=SimpleNamespace(machine=machine, seconds=20.0))
    monkeypatch.setattr(Grid, "run", lambda self, cell: found)
    started = module._STARTUP_SECONDS
    assert grid.estimate(kd[1]) == started + 20
    assert grid.estimate(other) == started + 100 * 0.2
    found.result.machine = "another"
    assert Grid(grid.plan, grid.folder).estimate(kd[1]) == started + 100


def test_a_busy_machine_is_named(
    bright: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spotkd.experiments import estimate

    Path("plan.yaml").write_text(PLAN)
    for load, named in ((100.0, True), (0.0, False)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        estimate.machine_load.cache_clear()
        assert bench("plan.yaml", "--dry-run") == 0
        assert ("This machine is busy (100.0 programs want" in capsys.readouterr().out) == named
    estimate.machine_load.cache_clear()


def test_mistakes(bright: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(PLAN)
    for arguments, message in (
        (["bench"], "plan is missing: name a YAML file or one of .*glyph94"),
        (["bench", "plan.yaml", "--jobs", "0"], "jobs is 0: it must be at least 1"),
        (["bench", "plan.yml"], r"plan\.yml: no such plan"),
        (["report", "plan.yaml"], "spotkd bench"),
        (["report", "glyph94", "--out", "x", "--jobs", "2"], "jobs"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        import re

        assert re.search(message, error), error


@pytest.mark.slow
def test_two_benches_do_not_work_in_one_folder(bright: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    Path("plan.yaml").write_text(PLAN)
    Path("runs/bench/plan").mkdir(parents=True)
    with FileLock("runs/bench/plan/.lock"):
        assert bench("plan.yaml") == 2
    assert "another 'spotkd bench' is running there" in capfd.readouterr().err
    assert not json.loads(json.dumps([str(path) for path in Path("runs").rglob("summary.json")]))
