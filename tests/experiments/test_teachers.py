"""A recipe finds its teacher, or trains it first."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from spotkd.cli import main
from spotkd.experiments import find_or_train_teacher, find_teacher, teacher_options
from spotkd.options import DistillOptions, TrainOptions, result_differences, result_options
from spotkd.recipes import resolved

from .conftest import DATA

RECIPE = f"{DATA}/at/resnet14-resnet8"
SMALL = ["--epochs", "1", "--batch_size", "16", "--quiet", "--policy.bias", "0"]


def wanted(**options: object) -> TrainOptions:
    config = resolved(f"{DATA}/single/resnet8", {"epochs": 1, "quiet": True, **options})
    assert isinstance(config, TrainOptions)
    return config


def test_what_decides_what_is_learnt() -> None:
    config = wanted()
    for same in (
        replace(config, out="x", quiet=False, overwrite=True, eval_batch_size=7, accelerator="cpu", recipe=None),
        replace(config, data=replace(config.data, root="elsewhere", workers=2)),
        replace(config, optim=replace(config.optim, milestones=[1]) if config.optim.milestones else config.optim),
    ):
        assert result_options(same) == result_options(config)
    for other, keys in (
        (replace(config, seed=1), ["seed"]),
        (replace(config, select="best_test"), ["select"]),
        (replace(config, data=replace(config.data, limit=3, val_share=0.1)), ["data.limit", "data.val_share"]),
        (replace(config, optim=replace(config.optim, lr=1.0)), ["optim.lr"]),
        (replace(config, epochs=240), ["epochs", "optim.milestones"]),
    ):
        assert result_differences(config, other) == keys


def test_the_teachers_own_run() -> None:
    config = resolved("cifar100/at/resnet56-resnet20", {"seed": 7, "epochs": 60, "data": {"root": "/d", "limit": 500}})
    assert isinstance(config, DistillOptions)
    teacher = teacher_options(config)
    assert (teacher.recipe, teacher.model.name) == ("cifar100/single/resnet56", "resnet56")
    assert (teacher.epochs, teacher.optim.milestones, teacher.seed) == (60, [38, 45, 52], 1029)
    assert (teacher.data.root, teacher.data.limit) == ("/d", 500)


def test_found_again_or_trained(bright: Path) -> None:
    said: list[str] = []
    first = find_or_train_teacher(wanted(), said.append)
    assert first.parent == Path("runs/teachers")
    assert "no run under runs/ matches" in said[0]
    assert "training it in" in said[0]
    said.clear()
    assert find_or_train_teacher(wanted(quiet=True, eval_batch_size=3), said.append) == first
    top1 = json.loads((first / "summary.json").read_text())["scores"]["top1"]
    assert said == [f"teacher: resnet8 of {first}, test top-1 {top1:.2f} %"]
    other = find_or_train_teacher(wanted(seed=5), said.append)
    assert other != first
    also = find_or_train_teacher(
        wanted(batch_size=32), said.append
    )  # of one name with the first, and another run all the same
    assert len({first, other, also}) == 3
    assert find_teacher(wanted(batch_size=32)) == also
    # An unfinished run, one with damaged files, and folders of others are no teachers.
    (first / "summary.json").unlink()
    (other / "config.yaml").write_text("model: [")
    (Path("runs") / "notes").mkdir()
    (Path("runs") / "notes" / "config.yaml").write_text("nothing")
    assert find_teacher(wanted()) is None
    assert find_teacher(wanted(seed=5)) is None
    assert find_or_train_teacher(wanted(), said.append) == first  # begun anew where it was interrupted


def test_two_who_need_one_teacher_train_it_once(bright: Path) -> None:
    said: list[str] = []
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(find_or_train_teacher(wanted(), said.append))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len([line for line in said if "training it" in line]) == 1


@pytest.mark.slow
def test_on_the_command_line(bright: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--recipe", RECIPE, "--out", "one", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert f"teacher: no run under runs/ matches {DATA}/single/resnet14; training it in runs/teachers/" in printed
    assert "distilled in the last epoch" in printed
    assert main(["distill", "--recipe", RECIPE, "--out", "two", "--seed", "2", *SMALL]) == 0
    assert "teacher: resnet14 of runs/teachers/" in capsys.readouterr().out
    # The run's own configuration repeats it, and names the teacher.
    assert main(["distill", "--config", "two/config.yaml", "--out", "three"]) == 0
    assert "teacher: " not in capsys.readouterr().out
    two, three = (json.loads(Path(name, "summary.json").read_text())["scores"] for name in ("two", "three"))
    assert two == three
    given = ["--teacher.checkpoint", "runs/nowhere"]
    assert main(["distill", "--recipe", RECIPE, "--out", "four", *SMALL, *given]) == 2
    assert "runs/nowhere: no such checkpoint" in capsys.readouterr().err
