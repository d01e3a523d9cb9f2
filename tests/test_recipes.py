"""The paper's experiments by name, against its tables written out here by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from spotkd import DISTILLERS, MODELS, STRATEGIES, SpotkdError
from spotkd.cli import main
from spotkd.data import _ALIASES
from spotkd.options import DistillOptions, OptimOptions, TrainOptions, milestones, read_options
from spotkd.recipes import Recipe, describe, is_papers, parse, recipe_names, resolved

# Teacher, student, of one architecture, the student's rate.
CIFAR100 = [
    ("resnet56", "resnet20", True, 0.05),
    ("resnet110", "resnet32", True, 0.05),
    ("resnet32x4", "resnet8x4", True, 0.05),
    ("wrn_40_2", "wrn_16_2", True, 0.05),
    ("vgg13", "vgg8", True, 0.05),
    ("vgg13", "MobileNetV2", False, 0.01),
    ("ResNet50", "MobileNetV2", False, 0.01),
    ("ResNet50", "vgg8", False, 0.05),
    ("resnet32x4", "resnet32", False, 0.05),
    ("wrn_40_2", "ShuffleNetV1", False, 0.01),
]
TINY = [
    ("resnet56", "resnet20", True, 0.05),
    ("resnet110", "resnet20", True, 0.05),
    ("wrn_40_2", "wrn_16_2", True, 0.05),
    ("vgg13", "vgg8", True, 0.05),
    ("vgg13", "MobileNetV2", False, 0.01),
]
# Weight, and gamma on CIFAR-100 and Tiny-ImageNet.
METHODS = {
    "at": (1000, 2, 2),
    "cc": (0.02, 1, 2),
    "crd": (0.8, 1, 2),
    "fitnet": (1, 1, 2),
    "ft": (200, 1, 2),
    "nst": (50, 1, 2),
    "pkt": (30000, 1, 2),
    "rkd": (1, 2, 2),
    "sp": (3000, 1, 2),
    "vid": (1, 2, 2),
}
SINGLE = {
    "cifar100": [
        "MobileNetV2", "ResNet50", "ShuffleNetV1", "resnet20", "resnet32", "resnet56", "resnet110", "resnet8x4",
        "resnet32x4", "vgg8", "vgg13", "wrn_16_2", "wrn_40_2",
    ],
    "tiny-imagenet": [
        "MobileNetV2", "resnet20", "resnet56", "resnet110", "vgg8", "vgg13", "wrn_16_2", "wrn_40_2",
    ],
}  # fmt: skip
BATCH_32 = {"cifar100/nst/ResNet50-MobileNetV2", "cifar100/nst/wrn_40_2-ShuffleNetV1"}
DISTILLATIONS = [
    (f"{data}/{method}/{teacher}-{student}", data, method, teacher, student, homogeneous, lr)
    for data, pairs in (("cifar100", CIFAR100), ("tiny-imagenet", TINY))
    for method in METHODS
    for teacher, student, homogeneous, lr in pairs
]


def distillation(name: str, **overrides: object) -> DistillOptions:
    config = resolved(name, overrides)
    assert isinstance(config, DistillOptions)
    return config


def single(name: str, **overrides: object) -> TrainOptions:
    config = resolved(name, overrides)
    assert isinstance(config, TrainOptions)
    return config


def test_all_171_are_listed_once() -> None:
    names = recipe_names()
    singles = [f"{data}/single/{model}" for data, models in SINGLE.items() for model in models]
    assert len(DISTILLATIONS) == 150
    assert len(singles) == 21
    assert sorted(names) == sorted([*(row[0] for row in DISTILLATIONS), *singles])
    assert sum(name.startswith("cifar100/") for name in names) == 10 * 10 + 13
    assert sum(name.startswith("tiny-imagenet/") for name in names) == 10 * 5 + 8


def test_what_is_the_papers() -> None:
    assert all(map(is_papers, recipe_names()))
    name = "cifar100/at/resnet56-resnet20"
    papers = {strategy for strategy in STRATEGIES if is_papers(f"{name}/{strategy}")}
    assert papers == {"adaptive", "anti", "random", "always", "joint"}
    for other in ("cifar100/at/resnet56-resnet8", "glyph94/at/resnet56-resnet20", "cifar100/dkd/resnet56-resnet20"):
        assert not is_papers(other)
        assert describe(other).startswith("not the paper's, ")
    assert not is_papers("cifar10/single/resnet20")


@pytest.mark.parametrize("row", DISTILLATIONS, ids=lambda row: row[0])
def test_a_distillation_is_as_published(row: tuple[str, str, str, str, str, bool, float]) -> None:
    name, data, method, teacher, student, homogeneous, lr = row
    beta, gamma_cifar, gamma_tiny = METHODS[method]
    config = distillation(name)
    assert (config.data.name, config.distiller, config.strategy) == (data, method, "adaptive")
    assert (config.teacher.name, config.student.name) == (teacher, student)
    assert (config.alpha, config.beta, config.temperature) == (1, beta, 4)
    assert (config.epochs, config.seed) == (240, 1029)
    assert (config.batch_size, config.eval_batch_size) == ((32, 32) if name in BATCH_32 else (64, 64))
    optim = config.optim
    assert (optim.lr, optim.momentum, optim.weight_decay) == (lr, 0.9, 5e-4)
    assert (optim.schedule, optim.milestones) == ("multistep", [150, 180, 210])
    policy = config.policy
    assert (policy.lr, policy.weight_decay) == (lr / 2, 1e-3)
    assert policy.gamma == (gamma_cifar if data == "cifar100" else gamma_tiny)
    assert policy.bias == (10 if homogeneous else 0)
    assert parse(name).homogeneous == homogeneous
    assert (policy.share_cost, policy.target_share) == (0, None)
    prepared = (30, 0.05 if name == "cifar100/ft/ResNet50-vgg8" else 0.01) if method == "ft" else (None, None)
    assert (config.preparation.epochs, config.preparation.lr) == prepared


@pytest.mark.parametrize(("data", "model"), [(data, model) for data, models in SINGLE.items() for model in models])
def test_a_network_on_its_own_is_as_published(data: str, model: str) -> None:
    config = single(f"{data}/single/{model}")
    assert (config.data.name, config.model.name, config.model.checkpoint) == (data, model, None)
    assert (config.epochs, config.batch_size, config.eval_batch_size, config.seed) == (240, 64, 128, 1029)
    assert config.optim.lr == (0.01 if model in ("MobileNetV2", "ShuffleNetV1") else 0.05)
    assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 5e-4)
    assert config.optim.milestones == [150, 180, 210]


def test_another_length_moves_what_depends_on_it() -> None:
    config = distillation("cifar100/ft/resnet56-resnet20", epochs=60)
    assert config.optim.milestones == [38, 45, 52]
    assert config.policy.bias == pytest.approx(10**0.25)
    assert config.preparation.epochs == 8
    assert distillation("cifar100/ft/resnet56-resnet20", epochs=480).policy.bias == 10
    assert distillation("cifar100/ft/ResNet50-vgg8", epochs=60).policy.bias == 0
    given = distillation(
        "cifar100/ft/resnet56-resnet20",
        epochs=60,
        optim={"milestones": [10]},
        policy={"bias": 3},
        preparation={"epochs": 2},
    )
    assert (given.optim.milestones, given.policy.bias, given.preparation.epochs) == ([10], 3, 2)
    assert single("cifar100/single/vgg8", epochs=3).optim.milestones is None  # the run finds what fits
    for epochs in (8, 12, 30, 50, 60, 100, 163, 300, 1001):  # as without a recipe
        assert single("cifar100/single/vgg8", epochs=epochs).optim.milestones == milestones(
            OptimOptions(schedule="multistep"), epochs
        )


def test_what_follows_other_options() -> None:
    assert distillation("cifar100/at/resnet56-resnet20", optim={"lr": None}).optim.lr == 0.05  # unset: the recipe's
    config = distillation("cifar100/at/resnet56-resnet20", optim={"kind": "adamw"})  # has a rate of its own
    assert (config.optim.lr, config.policy.lr) == (0.001, 0.0005)
    config = distillation("cifar100/at/resnet56-resnet20", optim={"lr": 0.2, "schedule": "onecycle"})
    assert (config.policy.lr, config.optim.milestones) == (0.1, None)
    config = distillation("cifar100/at/resnet56-resnet20", epochs="60", optim={"lr": "1e-1"})  # YAML's 1e-1 is text
    assert (config.epochs, config.optim.milestones, config.policy.lr) == (60, [38, 45, 52], 0.05)
    assert distillation("cifar100/ft/vgg13-vgg8", preparation={"checkpoint": "x"}).preparation.epochs is None


def test_strategies() -> None:
    for strategy in STRATEGIES:
        by_name = distillation(f"cifar100/at/resnet56-resnet20/{strategy}")
        by_option = distillation("cifar100/at/resnet56-resnet20", strategy=strategy)
        assert by_name == by_option
        assert by_name.strategy == strategy
        expected = {
            "adaptive": (0.025, 10, 2), "anti": (0.025, 10, 2), "joint": (0.025, 0, 2),
            "expert_choice": (0.025, 10, 2), "dual": (0.025, 10, 2),
        }.get(strategy, (None, 0, 1))  # fmt: skip
        assert (by_name.policy.lr, by_name.policy.bias, by_name.policy.gamma) == expected


@pytest.mark.parametrize("distiller", DISTILLERS)
@pytest.mark.parametrize("data", ["glyph94", "cifar10"])
def test_other_combinations_follow_the_same_rules(data: str, distiller: str) -> None:
    config = distillation(f"{data}/{distiller}/resnet20-resnet8")
    assert (config.data.name, config.optim.lr, config.policy.bias) == (data, 0.05, "scaled")
    assert config.policy.gamma == METHODS.get(distiller, (0, 1, 1))[1]
    assert (config.beta is None) == (distiller in ("kd", "dkd", "dist"))


def test_architectures() -> None:
    families = [
        ["resnet8", "resnet14", "resnet20", "resnet110"],
        ["resnet8x4", "resnet32x4"],
        ["ResNet18", "ResNet50"],
        ["vgg8", "vgg19"],
        ["wrn_16_1", "wrn_40_2"],
        ["MobileNetV2"],
        ["ShuffleNetV1"],
        ["ShuffleNetV2"],
    ]
    for (one, mine), (other, theirs) in itertools.product(enumerate(families), repeat=2):
        for teacher, student in itertools.product(mine, theirs):
            assert Recipe("cifar100", "at", teacher, student).homogeneous == (one == other), (teacher, student)
    assert all(name in MODELS for family in families for name in family)


def test_spellings_and_names_with_paths() -> None:
    for other, usual in {**_ALIASES, "CIFAR-100": "cifar100", "CIFAR100": "cifar100", "Glyph94": "glyph94"}.items():
        config = resolved(f"{usual}/at/vgg13-vgg8", {})
        assert resolved(f"{other}/at/vgg13-vgg8", {}) == config
        assert resolved(f"{usual}/at/vgg13-vgg8", {"data": {"name": other}}) == config
    recipe = parse("folder:/data/my-birds/at/vgg13-vgg8/random")
    assert recipe == Recipe("folder:/data/my-birds", "at", "vgg13", "vgg8", "random")
    assert parse("cifar10/at/vgg13-imagenet-vgg8-imagenet").teacher == "vgg13-imagenet"
    assert parse("cifar10/at/resnet20-vgg8-imagenet").student == "vgg8-imagenet"
    assert parse("python:mine.build/single/resnet8") == Recipe("python:mine.build", "", "", "resnet8", "")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cifar100/at/resnet56-resnet21", {}, "resnet21.*did you mean .*resnet20"),
        ("cifar100/att/resnet56-resnet20", {}, "unknown distiller 'att'"),
        ("cifar100/at/resnet56-resnet20/antic", {}, "unknown strategy 'antic': did you mean anti"),
        ("cifar1000/at/resnet56-resnet20", {}, "cifar1000.*did you mean cifar100"),
        ("imagenet/at/resnet56-resnet20", {}, "have none for ImageNet"),
        ("cifar100/at/resnet56", {}, "write DATA/DISTILLER/TEACHER-STUDENT"),
        ("cifar100", {}, "write DATA/DISTILLER/TEACHER-STUDENT"),
        ("", {}, "write DATA/DISTILLER/TEACHER-STUDENT"),
        ("cifar100/at/resnet56-resnet20", {"epoch": 3}, "epoch"),
        ("cifar100/at/resnet56-resnet20", {"epochs": "many"}, "epochs"),
        ("cifar100/at/resnet56-resnet20", {"optim": {"lr": "fast"}}, "lr"),
        ("cifar100/at/resnet56-resnet20", {"distiller": "rkd"}, "take recipe cifar100/rkd/resnet56-resnet20"),
        ("cifar100/at/resnet56-resnet20", {"data": {"name": "cifar10"}}, "take recipe cifar10/at/resnet56-resnet20"),
        ("cifar100/at/resnet56-resnet20", {"student": {"name": "vgg8"}}, "take recipe cifar100/at/resnet56-vgg8"),
        ("cifar100/single/vgg8", {"model": {"name": "vgg13"}}, "take recipe cifar100/single/vgg13"),
        ("cifar100/single/vgg8", {"alpha": 2}, "alpha"),
        ("cifar100/at/resnet56-resnet20", {"optim": 3}, "optim is 3: it is a section, write optim: {lr: ...}"),
        ("cifar100/at/resnet56-resnet20", {"teacher": "resnet56"}, "teacher is resnet56: it is a section"),
        ("cifar100/at/resnet56-resnet20", {"epochs": None}, "epochs is empty"),
        ("cifar100/at/resnet56-resnet20", {"optim": {"momentum": None}}, "optim.momentum is empty"),
        ("cifar100/at/resnet56-resnet20", {"strategy": 3}, "strategy"),
        ("cifar100/at/resnet56-resnet20", {"recipe": "cifar100/at/vgg13-vgg8"}, "give one of them"),
    ],
)
def test_mistakes_are_one_line(name: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(SpotkdError, match=message) as caught:
        resolved(name, overrides)
    assert "\n" not in str(caught.value)


def printed(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    assert main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, ["recipes"]).splitlines()
    assert len(lines) == 171
    assert {line.split()[0] for line in lines} == set(recipe_names())
    (line,) = [line for line in lines if line.startswith("cifar100/nst/ResNet50-MobileNetV2 ")]
    assert all(word in line for word in ("two architectures", "beta 50", "gamma 1", "lr 0.01", "batch 32", "/anti"))


def test_what_is_not_the_papers_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, ["recipes", "show", "glyph94/at/vgg13-vgg8"]).startswith("# By the paper's rules, but not")
    assert printed(capsys, ["recipes", "show", "cifar100/at/vgg13-vgg8"]).startswith("# In the paper: 73.64 %")
    assert "recipes show NAME" in printed(capsys, ["recipes", "--help"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_shown_is_a_file_for_config(strategy: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = f"cifar100/ft/ResNet50-vgg8/{strategy}"
    text = printed(capsys, ["recipes", "show", name, "--epochs", "60", "--data.root", "/d"])
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    config = distillation(name, epochs=60, data={"root": "/d"})
    assert read_options(DistillOptions, path) == config
    assert printed(capsys, ["distill", "--config", str(path), "--print_config"]) == text
    given = ["--recipe", name, "--epochs=60", "--data.root", "/d"]
    assert printed(capsys, ["distill", *given, "--print_config"]) == text
    assert printed(capsys, ["distill", *given, "--print_config=skip_null"]) == text


def test_a_network_on_its_own_is_shown_as_a_file_for_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for name in ("tiny-imagenet/single/vgg8", "glyph94/single/resnet8"):
        path.write_text(printed(capsys, ["recipes", "show", name, "--epochs", "60"]))
        assert read_options(TrainOptions, path) == single(name, epochs=60)
        assert printed(capsys, ["train", "--config", str(path), "--print_config"]) == path.read_text()


def test_options_beside_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = ["--recipe", "cifar100/at/resnet56-resnet20"]
    shown = yaml.safe_load(printed(capsys, ["distill", *recipe, "--strategy", "random", "--print_config"]))
    assert (shown["strategy"], shown["policy"]["lr"], shown["beta"]) == ("random", None, 1000)
    shown = yaml.safe_load(printed(capsys, ["distill", *recipe, "--teacher", "resnet56", "--seed=5", "--print_config"]))
    assert (shown["teacher"]["name"], shown["seed"], shown["policy"]["bias"]) == ("resnet56", 5, 10)
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: cifar100/at/resnet56-resnet20\nepochs: 120\noptim: {momentum: 0.8}\n")
    shown = yaml.safe_load(printed(capsys, ["distill", "--config", str(path), "--epochs", "60", "--print_config"]))
    assert (shown["epochs"], shown["optim"]["momentum"], shown["optim"]["milestones"]) == (60, 0.8, [38, 45, 52])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "cifar100/at/vgg13-vgg8"], "recipe cifar100/at/vgg13-vgg8 is for 'spotkd distill'"),
        (["distill", "--recipe", "cifar100/single/vgg8"], "recipe cifar100/single/vgg8 is for 'spotkd train'"),
        (
            ["distill", "--recipe", "cifar100/at/vgg13-vgg8", "--student", "vgg11"],
            "take recipe cifar100/at/vgg13-vgg11",
        ),
        (["recipes", "show"], "recipes show NAME"),
        (["recipes", "all"], "recipes show NAME"),
        (["recipes", "show", "cifar100/at/vgg13-vgg8", "--epoch", "3"], "epoch"),
        (["recipes", "show", "cifar100/at/vgg13-vgg8", "--recipe", "cifar100/at/vgg13-vgg11"], "give one of them"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("recipe", ["", "recipe: cifar100/single/vgg8\n"])
@pytest.mark.parametrize(
    "content", ["optim: 3", "optim: null", "epochs: null", "optim: {momentum: null}", "model: null"]
)
def test_a_file_with_nothing_where_something_must_be(
    content: str, recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{recipe}{content}\n")
    assert main(["train", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"spotkd: {content.partition(':')[0]}")
    with pytest.raises(SpotkdError, match=r"mine\.yaml: "):
        read_options(TrainOptions, path)
