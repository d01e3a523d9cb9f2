"""The command line as a user meets it."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from spotkd import create_model
from spotkd.cli import main
from spotkd.models import save_weights

SMALL = ["--data.limit", "188", "--epochs", "1", "--quiet", "true", "--batch-size", "32"]


def run(*arguments: str) -> int:
    return main(list(arguments))


def test_train_then_distill_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(tmp_path / "teacher")
    assert run("train", "--model", "resnet8", "--out", teacher, *SMALL) == 0
    assert "test top-1" in capsys.readouterr().out
    rows = []
    for name in ("a", "b"):
        out = tmp_path / name
        options = ["--teacher", "resnet8", "--teacher.checkpoint", teacher, "--student=resnet8", "--out", str(out)]
        assert run("distill", *options, "--distiller", "at", "--policy.bias", "scaled", *SMALL) == 0
        with (out / "metrics.csv").open(newline="") as file:
            rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert rows[0] == rows[1]
    assert "distilled in it: layer1" in capsys.readouterr().out
    assert run("evaluate", str(tmp_path / "a")) == 0
    assert f"top-1 {float(rows[0][-1]['test_top1']):.2f} %" in capsys.readouterr().out
    # The run's own configuration repeats it; the command line overrides it.
    repeat = ["--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "c"), "--seed", "5"]
    assert run("distill", *repeat) == 0
    repeated = yaml.safe_load((tmp_path / "c" / "config.yaml").read_text())
    assert (repeated["seed"], repeated["policy"]["bias"], repeated["data"]["limit"]) == (5, "scaled", 188)


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
    ("distil",): "unknown command 'distil': did you mean distill?",
    ("train", "--modle", "resnet8"): "unrecognized arguments: --modle resnet8",
    ("train", "--optim.learning_rate", "1"): "unrecognized arguments: --optim.learning_rate 1",
    ("train", "--epochs", "ten"): 'Parser key "epochs"',
    ("train", "--epochs", "0"): "epochs is 0: it must be at least 1",
    ("train", "--batch-size", "-4"): "batch_size is -4",
    ("train", "--seed", "-1"): "seed is -1",
    ("train", "--optim.schedule", "cosine"): 'Parser key "optim.schedule"',
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
    (*TRAINED, "--policy.gamma", "0"): "gamma is 0.0: it must be above 0",
    (*TRAINED, "--temperature", "-1"): "temperature is -1.0",
    (*TRAINED, "--policy.target_share", "60"): "target_share is 60.0",
    (*TRAINED, "--policy.lr", "0"): "policy.lr is 0.0",
    ("train", "--optim.lr", "nan"): 'Parser key "optim.lr"',
    ("train", "--optim.weight_decay", "-1"): "optim.weight_decay is -1.0",
    ("train", "--optim.momentum", "1"): "optim.momentum is 1.0",
    ("train", "--optim.milestones", "[9, 3]"): "optim.milestones is [9, 3]",
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
    with pytest.raises(SystemExit, match="0"):
        run(command, "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 1029


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, spotkd.cli; assert spotkd.cli.main(['--help']) == 0;"
        "sys.exit([m for m in ('torch', 'lightning_fabric', 'matplotlib') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "train", "distill", "evaluate"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["demo", "train", "distill", "evaluate"])
def test_every_option_has_a_line_of_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(command, "--help")
    text = capsys.readouterr().out
    options = re.split(r"\n  (?=--|checkpoint)", text[text.index("\noptions:") :])
    assert len(options) > 5
    bare = [option for option in options if re.match(r"\S+( [A-Z_{][^ ]*)?\s+\(type: ", option)]
    assert not bare, f"options without help: {bare}"
