"""Plans: what they hold, and what is told when something in them is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotkd import DISTILLERS, SpotkdError
from spotkd.experiments import cells, find_plan, read_plan, shipped_plans
from spotkd.experiments.plan import Cell, run_options
from spotkd.options import DistillOptions, TrainOptions

PAPER = {"fitnet", "at", "nst", "vid", "ft", "sp", "rkd", "pkt", "cc", "crd"}
GOOD = """
title: a plan
data: [glyph94]
pairs: [resnet20-resnet8, resnet14-resnet8]
distillers: {kd: [always], at: [always, adaptive]}
seeds: [1, 2]
options: {epochs: 3, batch_size: 32, data: {limit: 940}}
policy: {target_share: 0.6}
teacher: {epochs: 5}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_cells_of_a_plan(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, GOOD))
    names = [str(cell) for cell in cells(plan)]
    assert names == [
        "glyph94 teachers resnet20",
        "glyph94 teachers resnet14",
        *(
            name.format(seed)
            for seed in (1, 2)
            for name in (
                "glyph94 alone resnet8 seed{}",  # once, though two pairs have this student
                "glyph94 resnet20-resnet8 kd always seed{}",
                "glyph94 resnet20-resnet8 at always seed{}",
                "glyph94 resnet20-resnet8 at adaptive seed{}",
                "glyph94 resnet14-resnet8 kd always seed{}",
                "glyph94 resnet14-resnet8 at always seed{}",
                "glyph94 resnet14-resnet8 at adaptive seed{}",
            )
        ),
    ]
    assert len({cell.folder for cell in cells(plan)}) == len(names)


def test_options_of_a_cell(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, GOOD))
    by_name = {str(cell): run_options(plan, cell) for cell in cells(plan)}
    teacher = by_name["glyph94 teachers resnet20"]
    assert isinstance(teacher, TrainOptions)
    assert (teacher.model.name, teacher.epochs, teacher.batch_size, teacher.data.limit) == ("resnet20", 5, 32, 940)
    assert teacher.optim.milestones is None  # so few epochs have no three of them; the run finds its own
    alone = by_name["glyph94 alone resnet8 seed2"]
    assert isinstance(alone, TrainOptions)
    assert (alone.model.name, alone.epochs, alone.seed) == ("resnet8", 3, 2)
    adaptive = by_name["glyph94 resnet14-resnet8 at adaptive seed1"]
    assert isinstance(adaptive, DistillOptions)
    assert (adaptive.teacher.name, adaptive.student.name) == ("resnet14", "resnet8")
    assert (adaptive.beta, adaptive.strategy, adaptive.policy.target_share) == (1000, "adaptive", 0.6)
    always = by_name["glyph94 resnet14-resnet8 at always seed1"]
    assert isinstance(always, DistillOptions)
    assert always.policy.target_share is None


def test_hazards_are_crossed_with_all_that_is_distilled(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, GOOD + 'hazards: [none, "wrong:0.4"]\n'))
    by_name = {str(cell): cell for cell in cells(plan)}
    assert len(by_name) == 2 + 2 * (1 + 2 * 6)
    damaged = by_name["glyph94 resnet20-resnet8 at adaptive wrong:0.4 seed1"]
    options = run_options(plan, damaged)
    assert isinstance(options, DistillOptions)
    assert (options.hazard, options.policy.target_share) == ("wrong:0.4", 0.6)
    assert damaged.folder.parts[-2:] == ("wrong-0.4", "seed1")
    assert damaged.teacher_cell == by_name["glyph94 teachers resnet20"]
    clean = run_options(plan, by_name["glyph94 resnet20-resnet8 at adaptive seed1"])
    assert isinstance(clean, DistillOptions)
    assert clean.hazard is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: a plan\n", ""), "title"),
        (("seeds: [1, 2]", "seeds: [1, 1]"), r"seeds is \[1, 1\]: give at least one, each once"),
        (("seeds: [1, 2]", "seeds: []"), "seeds is"),
        (("seeds: [1, 2]", "seeds: [one]"), "seeds"),
        (("[glyph94]", "[glyph95]"), "glyph95.*did you mean glyph94"),
        (("resnet14-resnet8", "resnet14"), "pairs has resnet14: give TEACHER-STUDENT"),
        (("resnet14-resnet8", "resnet13-resnet8"), "resnet13"),
        (("at: [always", "att: [always"), "unknown distiller 'att'"),
        (("adaptive]", "adaptiv]"), "unknown strategy 'adaptiv': did you mean adaptive"),
        (("epochs: 3", "epoch: 3"), "epoch"),
        (("target_share", "target"), "target"),
        (("title:", "titel: x\ntitle:"), "titel"),
        (("title:", "hazards: [none, fog:1]\ntitle:"), "hazard is fog:1: it must be wrong"),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    path = written(tmp_path, GOOD.replace(*change))
    with pytest.raises(SpotkdError, match=message) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_finding_a_plan(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert find_plan(str(path)) == ("mine", path)
    assert find_plan("glyph94")[0] == "glyph94"
    with pytest.raises(SpotkdError, match=r"unknown plan 'glyph95': did you mean glyph94"):
        find_plan("glyph95")
    with pytest.raises(SpotkdError, match=r"nowhere\.yaml: no such plan; .* shipped one: .*glyph94"):
        find_plan("nowhere.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_plans())
def test_shipped_plans_resolve(name: str) -> None:
    plan = read_plan(find_plan(name)[1])
    all_cells = cells(plan)
    assert {cell.kind for cell in all_cells} == {"teacher", "alone", "distill"}
    for cell in all_cells:
        assert run_options(plan, cell).seed == (cell.seed if cell.seed is not None else 1029)


@pytest.mark.slow
def test_the_papers_tables_are_shipped() -> None:
    def grid(name: str) -> tuple[set[str], set[str], set[tuple[str, str]]]:
        plan = read_plan(find_plan(name)[1])
        methods = {(cell.distiller, cell.strategy) for cell in cells(plan) if cell.kind == "distill"}
        return set(plan.data), set(plan.pairs), methods

    both = {(name, strategy) for name in PAPER for strategy in ("always", "adaptive")} | {("kd", "always")}
    data, pairs, methods = grid("cifar100-homogeneous")
    assert data == {"cifar100"}
    assert pairs == {
        "resnet56-resnet20", "resnet110-resnet32", "resnet32x4-resnet8x4", "wrn_40_2-wrn_16_2", "vgg13-vgg8",
    }  # fmt: skip
    assert methods == both
    data, pairs, methods = grid("cifar100-heterogeneous")
    assert data == {"cifar100"}
    assert pairs == {
        "vgg13-MobileNetV2", "ResNet50-MobileNetV2", "ResNet50-vgg8", "resnet32x4-resnet32", "wrn_40_2-ShuffleNetV1",
    }  # fmt: skip
    assert methods == both
    data, pairs, methods = grid("tiny-imagenet")
    assert data == {"tiny-imagenet"}
    assert pairs == {
        "resnet56-resnet20", "resnet110-resnet20", "wrn_40_2-wrn_16_2", "vgg13-vgg8", "vgg13-MobileNetV2",
    }  # fmt: skip
    assert methods == both
    _, _, methods = grid("cifar100-ablation")
    assert methods == {(n, s) for n in PAPER for s in ("always", "random", "anti", "adaptive")} | {("kd", "always")}


@pytest.mark.slow
def test_the_full_study_of_glyph94() -> None:
    plan = read_plan(find_plan("glyph94")[1])
    methods = {(cell.distiller, cell.strategy) for cell in cells(plan) if cell.kind == "distill"}
    assert {distiller for distiller, _ in methods} == set(DISTILLERS)
    assert {strategy for _, strategy in methods} == {"adaptive", "anti", "random", "always", "never", "joint"}
    assert len(plan.seeds) == 5


def test_the_first_table() -> None:
    plan = read_plan(find_plan("glyph94-small")[1])
    rows = [(cell.distiller, cell.strategy) for cell in cells(plan) if cell.kind == "distill" and cell.seed == 1]
    names = [(name, strategy) for name in ("fitnet", "at", "sp", "rkd") for strategy in ("always", "adaptive")]
    assert rows == [("kd", "always"), *names]
    assert (plan.pairs, plan.seeds, plan.options["data"], plan.alone) == (
        ["resnet20-resnet8"], [1, 2], {"limit": 9400}, True,
    )  # fmt: skip


def test_folders_of_data_with_a_path_in_its_name() -> None:
    cell = Cell("distill", "folder:/data/my birds", "resnet20", "resnet8", "at", "always", 1)
    assert cell.folder == Path("folder--data-my birds", "resnet20-resnet8", "at", "always", "seed1")
