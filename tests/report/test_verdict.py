"""The verdict: the right controls, the right interval, and the command of a control that is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import norm

from spotkd.data import load_data
from spotkd.errors import SpotkdError
from spotkd.models import build_model
from spotkd.models.weights import read_metadata
from spotkd.options import DistillOptions, ModelOptions, OptimOptions, PolicyOptions, TrainOptions, parser_for
from spotkd.options.values import with_values
from spotkd.report import verdict
from spotkd.report.compare import Comparison
from spotkd.report.verdict import describe, is_comparable, judge, paired_interval
from spotkd.runs.folder import RunFolder
from spotkd.training.build import data_spec
from spotkd.training.controls import control_options, differences_to_control

from ..conftest import in_memory
from ..hostile_runs import copied


@pytest.fixture
def runs(hostile_runs: Path, tmp_path: Path) -> Iterator[Path]:
    with copied(hostile_runs, tmp_path):
        yield tmp_path


def counted(both: int, only_before: int, only_after: int, neither: int) -> Comparison:
    return Comparison("plain kd", "run", both, only_before, only_after, neither, 1.0, [], [])


def test_controls_differ_in_one_thing_each() -> None:
    options = DistillOptions(
        distiller="at",
        strategy="adaptive",
        beta=10,
        epochs=7,
        policy=PolicyOptions(gamma=2),
        optim=OptimOptions(lr=0.2),
        student=ModelOptions("resnet14"),
    )
    found = control_options(options)
    assert list(found) == ["at at every spot", "plain kd", "the student alone"]
    assert found["at at every spot"] == replace(options, strategy="always", policy=PolicyOptions())
    kd, alone = found["plain kd"], found["the student alone"]
    assert isinstance(kd, DistillOptions)
    assert (kd.distiller, kd.strategy, kd.beta) == ("kd", "always", None)
    assert isinstance(alone, TrainOptions)
    assert alone.model.name == "resnet14"
    assert {(control.epochs, control.optim.lr) for control in found.values()} == {(7, 0.2)}


@pytest.mark.parametrize(
    ("distiller", "strategy", "expected"),
    [("kd", "always", ["the student alone"]), ("at", "always", ["plain kd", "the student alone"])],
)
def test_no_run_is_its_own_control(distiller: str, strategy: str, expected: list[str]) -> None:
    assert list(control_options(DistillOptions(distiller=distiller, strategy=strategy))) == expected


@pytest.mark.parametrize("cells", [(40, 3, 17, 240), (0, 0, 0, 10), (5, 12, 12, 271), (100, 200, 40, 660)])
def test_the_interval_is_agresti_and_mins(cells: tuple[int, int, int, int]) -> None:
    # Their estimate is the plain one of a table with a half more in every cell.
    both, worse, better, neither = (cell + 0.5 for cell in cells)
    n = both + worse + better + neither
    outcomes, weights = np.array([1.0, -1.0, 0.0]), np.array([better, worse, both + neither]) / n
    mean = float(outcomes @ weights)
    half = norm.ppf(0.975) * np.sqrt(((outcomes - mean) ** 2 @ weights) / n)
    assert paired_interval(counted(*cells)) == pytest.approx(
        (100 * (cells[2] - cells[1]) / sum(cells), 100 * (mean - half), 100 * (mean + half)), abs=1e-4
    )


@pytest.mark.parametrize(
    ("cells", "answer"),
    [((0, 2, 40, 100), "better than"), ((0, 40, 2, 100), "worse than"), ((0, 20, 24, 100), "no difference shown to")],
)
def test_the_answer_follows_the_interval(cells: tuple[int, int, int, int], answer: str) -> None:
    line = describe(counted(*cells), Path("runs/kd"))
    assert line.startswith(f"{answer} plain kd (runs/kd): ")
    assert line.endswith(f"{sum(cells)} test images")


def test_controls_in_the_same_folder_are_found_and_measured(runs: Path) -> None:
    lines = list(judge(runs / "sakd"))
    assert len(lines) == 3
    assert f"plain kd ({runs / 'kd'})" in lines[0]
    assert f"the student alone ({runs / 'teacher'})" in lines[1]
    data = load_data(data_spec(RunFolder(runs / "sakd").options.data))
    images = ((in_memory(data.test).images.float() / 255 - 0.3) / 0.3).expand(-1, 3, -1, -1)
    right = {}
    for name in ("kd", "teacher", "sakd"):
        with torch.inference_mode():
            logits = build_model("resnet8", 5, runs / name, data.image_shape).eval()(images)
        right[name] = (logits.argmax(1) == in_memory(data.test).labels).double().mean().item()
    for name, line in (("kd", lines[0]), ("teacher", lines[1])):
        assert f": {100 * (right['sakd'] - right[name]):+.2f} points" in line.replace("+-", "-")


def test_the_command_of_a_missing_control_makes_it(runs: Path) -> None:
    line = list(judge(runs / "sakd"))[-1]
    head, command = line.split(": ", 1)
    assert head == "not compared with at at every spot, which this makes"
    words = shlex.split(command)
    assert words[:2] == ["spotkd", "distill"]
    options = parser_for(DistillOptions).parse_args(words[2:])
    wanted = control_options(RunFolder(runs / "sakd").distill_options)["at at every spot"]
    assert (options.strategy, options.distiller, options.epochs) == ("always", "at", wanted.epochs)
    assert options.policy.target_share is None
    assert options.out == str(runs / "sakd-always")


def test_runs_that_are_named_are_compared_once(runs: Path) -> None:
    lines = list(judge(runs / "sakd", [str(runs / "kd"), str(runs / "teacher")]))
    assert [line.count(" points") for line in lines] == [1, 1, 0]


def test_a_policys_options_are_no_difference_where_there_is_no_policy() -> None:
    """Runs of former versions say ``published``, which is the default no more."""
    mine = DistillOptions(distiller="at", strategy="adaptive", student=ModelOptions("resnet8"))
    wanted = control_options(mine)["at at every spot"]
    assert isinstance(wanted, DistillOptions)
    former = replace(wanted, policy=PolicyOptions(schedule="published"))
    assert differences_to_control(wanted, former) == []
    assert differences_to_control(wanted, replace(former, seed=7, epochs=3)) == ["epochs", "seed"]


def test_a_run_that_trains_other_networks_is_no_control(runs: Path) -> None:
    config = runs / "kd" / "config.yaml"
    config.write_text(config.read_text().replace("student:\n  name: resnet8", "student:\n  name: resnet14"))
    lines = list(judge(runs / "sakd", [str(runs / "kd")]))
    assert not any("plain kd (" in line for line in lines)
    assert any("not compared, since it is another student" in line for line in lines)


def test_what_is_no_distillation_has_no_verdict(runs: Path) -> None:
    with pytest.raises(SpotkdError, match="is a run of 'spotkd train'"):
        list(judge(runs / "teacher"))


def test_a_teacher_that_knows_no_more_than_the_student_is_named(runs: Path) -> None:
    assert not any("little to teach" in line for line in judge(runs / "sakd"))  # both are one kind of network
    alone = RunFolder(runs / "teacher")
    weak = replace(RunFolder(runs / "sakd").distill_options, student=ModelOptions("resnet14"))
    weak = replace(weak, teacher=ModelOptions("resnet8", str(alone.path)))
    noted = replace(weak.data, **read_metadata(alone.path)["data_options"])
    top1 = f"{alone.result.scores.top1:.2f} %"
    (line,) = verdict._describe_weak_teacher(replace(weak, data=noted), alone)
    assert line.startswith(f"its teacher gets {top1} right, the student alone {top1}: it has little to teach")
    gone = replace(weak, teacher=ModelOptions("resnet8", str(runs / "gone")))
    assert not list(verdict._describe_weak_teacher(gone, alone))


def test_a_control_may_be_normalised_otherwise(runs: Path) -> None:
    config = runs / "teacher" / "config.yaml"
    noted = yaml.safe_load(config.read_text())
    noted["data"] |= {"mean": [0.4], "std": [0.2]}  # as measured, before a teacher's were taken
    config.write_text(yaml.safe_dump(noted))
    assert any("the student alone" in line for line in judge(runs / "sakd") if "not compared" not in line)


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({"data.val_share": 0.3}, True),  # the test images stay
        ({"data.conceal_test": True}, False),
        ({"data.limit": 7}, False),
    ],
)
def test_concealed_test_images_are_other_images(changes: dict[str, object], comparable: bool) -> None:
    mine = with_values(DistillOptions(student=ModelOptions("resnet8")), {"data.val_share": 0.2})
    theirs = with_values(TrainOptions(model=ModelOptions("resnet8")), {"data.val_share": 0.2} | changes)
    assert is_comparable(mine, theirs) is comparable


def test_concealed_images_are_alike_where_as_many_were_held_out() -> None:
    mine = with_values(DistillOptions(), {"data.conceal_test": True, "data.val_share": 0.2})
    alike = with_values(DistillOptions(), {"data.conceal_test": True, "data.val_share": 0.2, "seed": 3})
    assert is_comparable(mine, alike)
    assert not is_comparable(mine, with_values(alike, {"data.val_share": 0.1}))
