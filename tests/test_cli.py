"""The command line as a user meets it."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from spotkd import DATASETS, DISTILLERS, MODELS, STRATEGIES, create_model
from spotkd.cli import main
from spotkd.cli.arguments import read
from spotkd.data import ImageSet, load_data
from spotkd.data.spec import DataSpec
from spotkd.distillers import CRD
from spotkd.models import save_weights
from spotkd.registry import Registry
from spotkd.runs.folder import RunFolder
from spotkd.training import restore
from spotkd.untrusted.torch_files import load_tensors

from .conftest import few_glyphs, in_memory, instead_of_glyph94

pytestmark = pytest.mark.usefixtures("untrained_teachers")

SMALL = ["--data.limit", "188", "--epochs", "1", "--quiet", "true", "--batch-size", "32"]


def run(*arguments: str) -> int:
    return main(list(arguments))


@pytest.mark.slow
def test_train_then_distill_twice(few_faces: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(tmp_path / "teacher")
    assert run("train", "--model", "resnet8", "--out", teacher, *SMALL) == 0
    assert "test top-1" in capsys.readouterr().out
    rows = []
    for name in ("a", "b"):
        out = tmp_path / name
        options = ["--teacher", "resnet8", "--teacher.checkpoint", teacher, "--student=resnet8", "--out", str(out)]
        assert (
            run("distill", *options, "--distiller", "at", "--strategy", "adaptive", "--policy.bias", "scaled", *SMALL)
            == 0
        )
        with (out / "metrics.csv").open(newline="") as file:
            rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert rows[0] == rows[1]
    assert "distilled in the last epoch: layer1" in capsys.readouterr().out
    assert run("evaluate", str(tmp_path / "a")) == 0
    assert f"top-1 {float(rows[0][-1]['test_top1']):.2f} %" in capsys.readouterr().out
    # The run's own configuration repeats it; the command line overrides it.
    repeat = ["--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "c"), "--seed", "5"]
    assert run("distill", *repeat) == 0
    repeated = yaml.safe_load((tmp_path / "c" / "config.yaml").read_text())
    assert (repeated["seed"], repeated["policy"]["bias"], repeated["data"]["limit"]) == (5, "scaled", 188)


@pytest.fixture
def small_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of 16 to train on, the last one short, and one to test, at a quarter of the size."""
    data = few_glyphs(44, 16)
    train, test = (
        ImageSet(in_memory(split).images[:, :, ::2, ::2].contiguous(), in_memory(split).labels)
        for split in (data.train, data.test)
    )
    instead_of_glyph94(dataclasses.replace(data, train=train, test=test), monkeypatch)


# Every distiller with two strategies, every strategy with some distillers; the policy, which learns, with one distiller
# of each kind: logits, every map, one map, pairs of maps, the embedding, all maps together, a memory, a preparation.
KINDS = ("kd", "at", "sp", "fsp", "rkd", "reviewkd", "crd", "ft")
FIXED = [strategy for strategy in STRATEGIES if strategy != "adaptive"]
# Every strategy with two distillers, every distiller with a strategy, however many there are of each.
COVERING = {
    ([*DISTILLERS][(number + shift) % len(DISTILLERS)], strategy)
    for number, strategy in enumerate(FIXED)
    for shift in (0, len(DISTILLERS) // 2)
}
COVERING |= {(name, FIXED[number % len(FIXED)]) for number, name in enumerate(DISTILLERS)}
COVERING |= {(name, "adaptive") for name in KINDS}


def test_the_covering_set_covers() -> None:
    assert {name for name, _ in COVERING} == set(DISTILLERS)
    counts = Counter(strategy for _, strategy in COVERING)
    assert set(counts) == set(STRATEGIES)
    assert min(counts.values()) >= 2


@pytest.mark.parametrize(
    ("distiller", "strategy"),
    [
        pytest.param(*chosen, marks=() if chosen in COVERING else pytest.mark.slow)
        for chosen in itertools.product(DISTILLERS, STRATEGIES)
    ],
)
def test_every_distiller_with_every_strategy(
    distiller: str, strategy: str, weights: str, small_glyphs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The covering set is among the fast tests; the whole product is slow only because it is many."""
    teacher = str(Path(weights).with_name("fitting.safetensors"))
    options = ["--teacher", "resnet8", "--teacher.checkpoint", teacher, "--out", str(tmp_path / "run")]
    chosen = ["--distiller", distiller, "--strategy", strategy, "--batch-size", "16"]
    if STRATEGIES[strategy]().needs_held_out:
        small = load_data(DataSpec("glyph94"))
        instead_of_glyph94(dataclasses.replace(small, val=small.test.subset(torch.arange(16))), monkeypatch)
    assert run("distill", *options, *chosen, "--epochs", "1", "--quiet", "true") == 0, capsys.readouterr().err
    assert "test top-1" in capsys.readouterr().out
    assert all(math.isfinite(values[-1]) for values in RunFolder(tmp_path / "run").metrics.values())
    assert run("evaluate", str(tmp_path / "run")) == 0
    method, _ = restore(tmp_path / "run")  # everything that was learnt is in the checkpoint
    saved = load_file(tmp_path / "run" / "student.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in method.student.state_dict().items())


@pytest.mark.slow
def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    lists: dict[str, Registry[Any]] = {
        "distillers": DISTILLERS,
        "strategies": STRATEGIES,
        "models": MODELS,
        "data": DATASETS,
    }
    for command, registry in lists.items():
        assert run(command) == 0
        lines = capsys.readouterr().out.splitlines()
        named = {line.split()[0]: line for line in lines}
        assert set(registry) <= set(named)
        assert all(20 < len(line) < 150 for line in lines)
        assert len(lines) - len(registry) == (3 if command in ("models", "data") else 0)  # prefixes for other sources
    assert run("models", "--all") == 2
    assert "takes no options" in capsys.readouterr().err


@pytest.mark.slow
def test_options_of_a_distiller(weights: str, few_faces: None, tmp_path: Path) -> None:
    teacher = ["--teacher", "resnet8", "--teacher.checkpoint", str(Path(weights).with_name("fitting.safetensors"))]
    small = ["--epochs", "1", "--quiet", "true", "--out", str(tmp_path / "run")]
    chosen = ["--distiller", "crd", "--options.negatives", "32", "--options.relaxed", "true"]
    assert run("distill", *teacher, *chosen, *small) == 0
    method, _ = restore(tmp_path / "run")
    assert isinstance(method.distiller, CRD)
    assert (method.distiller.draw.count, method.distiller.draw.relaxed) == (32, True)
    assert RunFolder(tmp_path / "run").metrics["loss_distill"][0] > 0


@pytest.mark.slow
def test_spots_by_name(weights: str, few_faces: None, tmp_path: Path) -> None:
    teacher = ["--teacher", "resnet8", "--teacher.checkpoint", str(Path(weights).with_name("fitting.safetensors"))]
    small = ["--epochs", "1", "--quiet", "true", "--out", str(tmp_path / "run")]
    pair = ["--student", "resnet14", "--distiller", "at"]
    assert run("distill", *teacher, *pair, "--spots", "layer1:layer2,layer3:layer3", *small) == 0
    assert restore(tmp_path / "run")[0].spots == ((1, 2), (3, 3))


@pytest.mark.slow
def test_a_preparation_is_taken_over(weights: str, few_faces: None, tmp_path: Path) -> None:
    teacher = ["--teacher", "resnet8", "--teacher.checkpoint", str(Path(weights).with_name("fitting.safetensors"))]
    common = [*teacher, "--distiller", "ft", "--epochs", "1", "--quiet", "true"]
    assert run("distill", *common, "--preparation.epochs", "2", "--out", str(tmp_path / "a")) == 0
    assert len((tmp_path / "a" / "preparation.csv").read_text().splitlines()) == 3
    first = load_tensors(tmp_path / "a" / "prepared.ckpt")
    taken = ["--preparation.checkpoint", str(tmp_path / "a"), "--out", str(tmp_path / "b")]
    assert run("distill", *common, *taken) == 0
    assert not (tmp_path / "b" / "preparation.csv").exists()
    second = load_tensors(tmp_path / "b" / "prepared.ckpt")
    for key, value in first["prepared"]["distiller"].items():  # type: ignore[index]
        assert torch.equal(value, second["prepared"]["distiller"][key])  # type: ignore[index]
    wrong = ["--student", "resnet14", "--preparation.checkpoint", str(tmp_path / "a"), "--out", str(tmp_path / "c")]
    assert run("distill", *common, *wrong) == 2


def test_code_of_ones_own(
    weights: str, few_faces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network, a distiller and a strategy from a file in the present folder."""
    monkeypatch.chdir(tmp_path)
    Path("things_of_mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from spotkd.distillers import SP\n"
        "from spotkd.routing import Decisions, Strategy\n"
        "def build(classes):\n"
        "    def block(a, b): return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())\n"
        "    return nn.Sequential(block(3, 8), block(8, 8), block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(16, classes))\n"
        "class Half(SP):\n"
        "    default_weight = 1500.0\n"
        "class First(Strategy):\n"
        "    def decide(self, logits):\n"
        "        return Decisions((torch.arange(len(logits)) < 3).float()[:, None].expand(logits.shape[:2]))\n"
    )
    small = ["--epochs", "1", "--quiet", "true", "--batch-size", "64"]
    assert run("train", "--model", "python:things_of_mine.build", *small, "--out", "teacher") == 0
    student = ["--student", "python:things_of_mine.build", "--student.at", "0,1,2,4"]
    teacher = ["--teacher", "python:things_of_mine.build", "--teacher.at", "0,1,2,4", "--teacher.checkpoint", "teacher"]
    own = ["--distiller", "python:things_of_mine.Half", "--strategy", "python:things_of_mine.First"]
    assert run("distill", *teacher, *student, *own, *small, "--out", "mine") == 0, capsys.readouterr().err
    assert RunFolder("mine").metrics["share_2"] == pytest.approx([9 / 188])
    assert run("evaluate", "mine") == 2  # a file does not get to name code to be run
    assert "say --model python:things_of_mine.build" in capsys.readouterr().err
    assert run("evaluate", "mine", "--model", "python:things_of_mine.build") == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "ten classes.safetensors"
    save_weights(
        create_model("resnet8", 10), path, {"model": "resnet8", "data": "glyph94", "classes": list("0123456789")}
    )
    fitting = create_model("resnet8", 94)
    torch.save(fitting.state_dict(), path.with_name("resnet8.pt"))
    save_weights(fitting, path.with_name("fitting.safetensors"), {"model": "resnet8", "data": "glyph94"})
    return str(path)


TRAINED = ("distill", "--teacher", "resnet8", "--teacher.checkpoint", "BARE")
MISTAKES = {
    ("distil",): "unknown command 'distil': did you mean distill",
    ("train", "--modle", "resnet8"): "unrecognized arguments: --modle resnet8: did you mean --model?",
    ("train", "--optim.learning_rate", "1"): "unrecognized arguments: --optim.learning_rate 1: 'spotkd train --help'",
    ("train", "--epochs", "ten"): 'Parser key "epochs"',
    ("train", "--epochs", "0"): "epochs is 0: it must be at least 1",
    ("train", "--batch-size", "-4"): "batch_size is -4",
    ("train", "--seed", "-1"): "seed is -1",
    ("train", "--optim.schedule", "steps"): 'Parser key "optim.schedule"',
    ("train", "--model", "resnet21"): "unknown model 'resnet21': did you mean",
    ("train", "--data", "glyph95"): "unknown data set 'glyph95': did you mean glyph94?",
    ("train", "--data.limit", "0"): "data.limit is 0",
    ("train", "--config", "none.yaml"): "File does not exist",
    ("train", "--accelerator", "cuda"): "accelerator cuda",
    ("distill", "--strategy", "adaptive"): "teacher.checkpoint is missing",
    ("distill", "--teacher.checkpoint", "none.pt"): "none.pt: no such checkpoint",
    ("distill", "--teacher.checkpoint", "WEIGHTS"): "trained on 10 classes, and glyph94 has 94",
    (*TRAINED, "--teacher", "resnet20"): "not a checkpoint of resnet20: it lacks layer1.1",
    (*TRAINED, "--distiller", "attn"): "unknown distiller 'attn'",
    (*TRAINED, "--strategy", "adapt"): "unknown strategy 'adapt'",
    (*TRAINED, "--distiller", "kd", "--beta", "2"): "beta has no effect",
    (*TRAINED, "--distiller", "crd", "--options.negative", "9"): "'negative': did you mean negatives?",
    (*TRAINED, "--distiller", "crd", "--options.negatives", "many"): "must be of type int",
    (*TRAINED, "--distiller", "crd", "--options.negatives", "0"): "distiller crd is 0: it must be at least 1",
    (*TRAINED, "--distiller", "rkd", "--options.angle", "-1"): "distiller rkd is -1.0: it must be a finite number",
    (*TRAINED, "--distiller", "crd", "--options.tau", "0"): "give tau above 0",
    (*TRAINED, "--spots", "layer1"): "spots is layer1: give pairs of stages student:teacher",
    (*TRAINED, "--spots", "layer1:layer9"): "unknown stage in spots 'layer9'",
    (*TRAINED, "--spots", "layer2:layer1,layer1:layer2"): "from shallow to deep",
    (*TRAINED, "--student.at", "layer1"): "at has no effect: resnet8 comes with its stages",
    (*TRAINED, "--preparation.epochs", "3"): "preparation.epochs has no effect",
    (*TRAINED, "--distiller", "ft", "--preparation.lr", "0"): "preparation.lr is 0.0",
    (*TRAINED, "--distiller", "fsp", "--student", "resnet8x4"): "as many channels in the student as in the teacher",
    ("train", "--model", "python:no_such_module.f"): "no_such_module",
    (*TRAINED, "--policy.gamma", "0"): "gamma is 0.0: it must be above 0",
    (*TRAINED, "--temperature", "-1"): "temperature is -1.0",
    (*TRAINED, "--policy.target_share", "60"): "target_share is 60.0",
    (*TRAINED, "--policy.lr", "0"): "policy.lr is 0.0",
    ("train", "--optim.lr", "nan"): 'Parser key "optim.lr"',
    ("train", "--optim.weight_decay", "-1"): "optim.weight_decay is -1.0",
    ("train", "--optim.momentum", "1"): "optim.momentum is 1.0",
    ("train", "--optim.schedule", "multistep", "--epochs", "9", "--optim.milestones", "[9, 3]"):
        "optim.milestones is [9, 3]",
    (*TRAINED, "--strategy", "always", "--policy.target_share", "0.5"): "this strategy has none",
    ("distill", "--policy.bias", "paper"): 'Parser key "policy.bias"',
    ("evaluate",): "required: checkpoint",
    ("evaluate", "none"): "none: no such checkpoint",
    ("evaluate", "BARE"): "does not note its model; name it with --model",
    ("evaluate", "WEIGHTS"): "trained on 10 classes",
    ("demo", "--faces", "0"): "faces is 0: it must lie between 1 and 532",
    ("demo", "--teacher_epochs", "0"): "teacher_epochs is 0",
    ("demo", "--epochs", "0"): "epochs is 0",
    ("evaluate", "FITTING", "--batch_size", "0"): "batch_size is 0",
    ("train", "--optim.schedule", "onecycle", "--optim.milestones", "[9]"): "onecycle has none",
    (*TRAINED, "--alpha", "1e400"): "alpha is inf: it must be a finite number",
}  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("cuda is no mistake here")
    monkeypatch.chdir(tmp_path)
    places = {"WEIGHTS": weights, "BARE": str(Path(weights).with_name("resnet8.pt"))}
    places["FITTING"] = str(Path(weights).with_name("fitting.safetensors"))
    assert run(*(places.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("spotkd: ")
    assert error.count("\n") == 1
    assert MISTAKES[arguments] in error
    assert not any(tmp_path.iterdir()), "a run that did not start leaves nothing behind"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: 3\nepoch: 3\n", "'epoch'"),
        ("optim: {lrr: 3}\n", "'lrr'"),
        ("epochs: [3\n", "parsing"),
        ("out: !!python/object/apply:os.mkdir [exploded]\n", ""),
    ],
)
def test_configuration_files(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(content)
    assert run("train", "--config", "c.yaml") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("command", ["demo", "train", "distill"])
def test_printed_configuration_is_read_back(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--print_config") == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 1029


@pytest.mark.process
def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, spotkd.cli; assert spotkd.cli.main(['--help']) == 0;"
        "sys.exit([m for m in ('torch', 'lightning_fabric', 'matplotlib') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "train", "distill", "evaluate", "bench", "report", "recipes", "data"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", ["demo", "train", "distill", "evaluate", "bench", "report"])
def test_every_option_has_a_line_of_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    options = re.split(r"\n  (?=--|checkpoint|plan)", text[text.index("\noptions:") :])
    assert len(options) > (3 if command == "report" else 5)
    bare = [option for option in options if re.match(r"\S+( [A-Z_{][^ ]*)?\s+\(type: ", option)]
    assert not bare, f"options without help: {bare}"


def test_a_network_is_named_by_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("given", "code"):
        (tmp_path / name).mkdir()
    save_weights(create_model("resnet8", 94), tmp_path / "given" / "model.safetensors", {"model": "resnet8"})
    for words in (["--teacher", str(tmp_path / "given")], [f"--teacher={tmp_path}/given/model.safetensors"]):
        teacher = read("distill", words).teacher
        assert (teacher.name, teacher.checkpoint) == ("resnet8", words[-1].removeprefix("--teacher="))
    save_weights(create_model("resnet8", 94), tmp_path / "code" / "model.safetensors", {"model": "python:os.getcwd"})
    for words, told in (
        (
            ["--teacher", str(tmp_path / "code")],
            "is a network of python:os.getcwd; write --teacher NAME --teacher.checkp",
        ),
        (["--teacher", str(tmp_path / "given"), "--teacher.checkpoint", "x"], "is given too: write --teacher NAME"),
        (["--teacher", str(tmp_path)], "holds no student.safetensors or model.safetensors"),
    ):
        assert run("distill", *words, "--student", "resnet8") == 2
        assert told in capsys.readouterr().err
