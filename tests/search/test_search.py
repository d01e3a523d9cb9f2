"""The space, the study's memory, and whole searches that are killed and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from spotkd.cli import main
from spotkd.data import DataSpec, load_data
from spotkd.errors import SpotkdError
from spotkd.options import DataOptions, DistillOptions, ModelOptions, SearchOptions
from spotkd.options.grammar import parse_duration
from spotkd.runs.folder import RunFolder
from spotkd.search import runner
from spotkd.search.space import Space, describe, make_space, trial_options
from spotkd.search.study import Study

from ..experiments.conftest import DATA

SPACE = Space(["at", "kd", "sp"], ["always", "adaptive"])


def study_in(folder: Path, prune: bool = True) -> Study:
    return Study(folder, SPACE, "random", prune, seed=1)


def drawn(folder: Path, stops: tuple[int, ...]) -> list[dict[str, Any]]:
    """The choices of eight trials, with the study opened anew at some."""
    folder.mkdir()
    study, found = study_in(folder), []
    for number in range(8):
        if number in stops:
            study = study_in(folder)
        trial = study.begin()
        found.append(study.choose(trial))
        study.finish(trial, float(number))
    return found


def test_a_duration_is_read() -> None:
    assert [parse_duration(text) for text in ("90s", "20min", "1.5h")] == [90, 1200, 5400]
    for wrong in ("20", "0min", "-1h", "soon"):
        with pytest.raises(SpotkdError, match="budget is"):
            parse_duration(wrong)


def test_the_first_runs_are_the_default_and_kd_and_leave_the_options_as_they_are() -> None:
    default, kd = SPACE.first
    base = DistillOptions(distiller="at", beta=7.0, options={"a": 1})
    assert trial_options(base, default) == base
    assert trial_options(base, kd) == DistillOptions()
    assert Space(["kd"], ["always"]).first == [kd]
    options = make_space(SearchOptions(distiller="vid", strategy="random:0.3"))
    assert (options.distillers[0], options.strategies[0]) == ("vid", "random:0.3")


def test_choices_become_options_and_words() -> None:
    choices = {"distiller": "at", "strategy": "always", "rate": 0.5, "logits": 2.0, "weight": 0.1}
    options = trial_options(DistillOptions(), choices)
    assert (options.optim.lr, options.alpha, options.beta) == (0.025, 2.0, 100.0)  # of 0.05, 1 and AT's 1000
    assert describe(DistillOptions(), choices) == "at, always, lr 0.025, alpha 2, beta 100"
    with pytest.raises(SpotkdError, match="no-such"):
        make_space(SearchOptions(distillers="no-such"))


def test_a_search_that_is_interrupted_draws_as_one_that_is_not(tmp_path: Path) -> None:
    whole = drawn(tmp_path / "whole", ())
    assert drawn(tmp_path / "again", (1, 2, 5)) == whole
    assert whole[:2] == SPACE.first
    assert len({str(choices) for choices in whole}) == 8


def test_an_interrupted_trial_keeps_its_choices_and_what_it_reached(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    choices = study.choose(study.begin())
    [trial] = study_in(tmp_path).unfinished()
    assert study_in(tmp_path).choose(trial) == choices
    assert not study.should_stop(trial, [10.0, 20.0])
    again = study_in(tmp_path)
    again.should_stop(trial, [10.0, 20.0, 30.0])
    again.finish(trial, 30.0)
    assert again.ranked[0].intermediate_values == {1: 10.0, 2: 20.0, 3: 30.0}
    assert again.unfinished() == []


def test_runs_that_are_behind_are_stopped_but_never_the_first(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    stopped = []
    for number in range(20):
        trial = study.begin()
        study.choose(trial)
        accuracies = [0.0 if number in (1, *range(10, 20)) else 90.0] * 27
        behind = [epoch for epoch in range(1, 28) if study.should_stop(trial, accuracies[:epoch])]
        if behind:
            stopped.append(number)
            study.stop(trial)
        else:
            study.finish(trial, accuracies[-1])
    assert len(stopped) >= 5
    assert min(stopped) >= 10
    assert study.ranked[0].number == 0


def test_another_search_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    study.check_options({"seed": 1, "data": "a"})
    study_in(tmp_path).check_options({"seed": 1, "data": "a"})
    with pytest.raises(SpotkdError, match="another data"):
        study.check_options({"seed": 1, "data": "b"})
    (tmp_path / "study.log").write_text('{"op_code": "x"}\n[]\n')
    with pytest.raises(SpotkdError, match=r"study\.log: damaged"):
        study_in(tmp_path)


def test_concealed_test_images_are_the_validation_images(bright: Path) -> None:
    shown = load_data(DataSpec(DATA, val_share=0.25))
    hidden = load_data(DataSpec(DATA, val_share=0.25, conceal_test=True))
    assert hidden.val is not None
    assert hidden.test is hidden.val
    assert len(hidden.test) == 16 != len(shown.test)
    with pytest.raises(SpotkdError, match="no validation images"):
        load_data(DataSpec(DATA, conceal_test=True))


def test_a_search_needs_a_teacher_and_an_end() -> None:
    with pytest.raises(SpotkdError, match="budget and runs are missing"):
        runner.run_search(SearchOptions(teacher=ModelOptions(checkpoint="t")), None)  # type: ignore[arg-type]
    with pytest.raises(SpotkdError, match=r"teacher\.checkpoint"):
        runner.run_search(replace(SearchOptions(runs=1), data=DataOptions()), None)  # type: ignore[arg-type]


SEARCH = [
    *("search", "--teacher", "teacher", "--student", "resnet8", "--data", DATA, "--epochs", "4", "--batch_size", "16"),
    *("--logger", "none", "--distillers", "at", "--strategies", "always", "--out", "found", "--data.val_share", "0.25"),
]


@pytest.mark.process
@pytest.mark.slow
def test_a_search_killed_in_the_middle_goes_on(bright: Path, capfd: pytest.CaptureFixture[str]) -> None:
    teacher = ["train", "--model", "resnet8", "--data", DATA, "--epochs", "2", "--batch_size", "16", "--out", "teacher"]
    assert main([*teacher, "--logger", "none", "--quiet"]) == 0
    command = [*SEARCH, "--runs", "4", "--prune=false"]
    process = subprocess.Popen([sys.executable, "-m", "spotkd.cli", *command], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not Path("found/run-001/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in Path("found").rglob("summary.json")}
    assert Path("found/run-000/summary.json") in before
    capfd.readouterr()
    assert main(command) == 0
    printed = capfd.readouterr().out
    assert "1 are resumed" in printed or "2 runs are done already" in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is run twice
    runs = [RunFolder(path) for path in sorted(Path("found").glob("run-*"))]
    assert len(runs) == 4
    for run in runs:  # whose results are of the validation images
        assert run.result.scores.images == 16
        assert run.result.protocol == "best on validation, measured on validation"
    best = max(run.result.scores.top1 for run in runs)
    assert f"validation top-1 {best:.2f} %" in printed
    assert "on the 32 test images, used once" in printed
    assert "the same with its test images: spotkd distill" in printed
    assert Path("found/report.html").stat().st_size > 10_000
    assert Path("found/leaderboard.md").read_text().count("\n| ") == 6  # the heading, its rule, and four runs
    journal = Path("found/study.log").read_text()
    assert main(command) == 0  # all is done: no run, no second look at the test images
    assert "tested" not in Path("found/study.log").read_text()[len(journal) :]
    assert main([*command, "--seed", "3"]) == 2
    assert "another seed" in capfd.readouterr().err


@pytest.mark.parametrize("distiller", ["kd", "dkd", "dist", "at"])
def test_only_a_distiller_with_a_weight_gets_one(distiller: str) -> None:
    class Chooser:
        def suggest_categorical(self, name: str, choices: list[str]) -> str:
            return choices[0]

        def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
            return 2.0

    choices = Space([distiller], ["always"]).choose(Chooser())
    assert ("weight" in choices) == (distiller == "at")
    assert (trial_options(DistillOptions(), choices).beta is not None) == (distiller == "at")


@pytest.mark.process
@pytest.mark.slow
def test_runs_side_by_side_here_and_on_a_cluster(bright: Path, capfd: pytest.CaptureFixture[str]) -> None:
    teacher = ["train", "--model", "resnet8", "--data", DATA, "--epochs", "2", "--batch_size", "16", "--out", "teacher"]
    assert main([*teacher, "--logger", "none", "--quiet"]) == 0
    command = [*SEARCH, "--runs", "3", "--sampler", "random", "--prune=false"]
    assert main([*command, "--out", "here", "--jobs", "2"]) == 0
    printed = capfd.readouterr().out
    assert [printed.count(f"[{number:3}] ") for number in range(3)] == [1, 1, 1]
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'spotkd[cluster]'")
    on_ray = [*command, "--out", "there", "--engine", "ray", "--cluster.address", "local", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "spotkd", *on_ray], capture_output=True, text=True, check=False,
        env=os.environ | {"HOME": str(bright)},  # where Ray leaves a token
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("there/leaderboard.md").read_bytes() == Path("here/leaderboard.md").read_bytes()
