"""Runs on disk: the same twice, evaluated right, stopped when broken."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning_fabric import Fabric

from spotkd import DATASETS, MODELS, Dataset, Loader, SpotkdError
from spotkd.files import atomic_write
from spotkd.options import (
    DistillOptions,
    ModelOptions,
    OptimOptions,
    PolicyOptions,
    RunOptions,
    TrainOptions,
    read_options,
    with_values,
)
from spotkd.runs.checkpoint import FORMAT, read_checkpoint, write_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.runtime.device import choose_precision
from spotkd.training import distill, evaluate, restore, train
from spotkd.training.assemble import open_writer

from ..conftest import TinyNet

C = TypeVar("C", bound=RunOptions)


@pytest.fixture
def tiny(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data set and two networks by name, and a trained teacher's run folder."""
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: tiny_data)
    monkeypatch.setitem(MODELS._entries, "tinynet6", lambda classes: TinyNet(6, classes))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))
    train(configured(TrainOptions(model=ModelOptions("tinynet6")), tmp_path / "teacher"))
    return tmp_path


def configured(config: C, out: Path) -> C:
    config = with_values(config, {"out": str(out), "epochs": 2, "batch_size": 12, "data.name": "tiny", "quiet": True})
    return config


def distilled(folder: Path, **options: object) -> Path:
    config = DistillOptions(
        teacher=ModelOptions("tinynet6", str(folder / "teacher")),
        student=ModelOptions("tinynet4"),
        distiller="at",
        strategy="adaptive",
    )
    for key, value in options.items():
        assert hasattr(config, key)
        config = with_values(config, {key: value})
    out = folder / f"run{len(list(folder.iterdir()))}"
    distill(configured(config, out))
    return out


def test_the_same_run_twice(tiny: Path) -> None:
    first, second = distilled(tiny), distilled(tiny)
    rows = []
    for run in (first, second):
        with (run / "metrics.csv").open(newline="") as file:
            rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2
    one, two = (read_checkpoint(run / "last.ckpt")["method"] for run in (first, second))
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = distilled(tiny, seed=1)
    assert RunFolder(other).metrics["test_loss"] != RunFolder(first).metrics["test_loss"]


def test_what_a_run_leaves(tiny: Path) -> None:
    run = distilled(tiny, strategy="adaptive", policy=PolicyOptions(bias="scaled"))
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml", "metrics.csv", "decisions.csv", "last.ckpt", "previous.ckpt", "summary.json",
        "student.safetensors", "tensorboard", ".lock",
    }  # fmt: skip
    metrics = RunFolder(run).metrics
    spots = ["layer1", "layer2", "layer3", "logits"]
    assert [name for name in metrics if name.startswith("share_")] == [f"share_{spot}" for spot in spots]
    assert all(0 <= share <= 1 for spot in spots for share in metrics[f"share_{spot}"])
    summary = json.loads((run / "summary.json").read_text())
    assert summary["protocol"] == "last epoch"
    assert summary["scores"]["top1"] == pytest.approx(metrics["test_top1"][-1], abs=1e-3)
    state = read_checkpoint(run / "last.ckpt")
    assert state["epoch"] == 2
    assert not any(key.startswith("teacher.") for key in state["method"])
    assert {"policy.linear.weight", "routing.hints.0.conv.weight"} <= set(state["method"])
    config = read_options(DistillOptions, run / "config.yaml")
    assert dataclasses.asdict(config) == yaml.safe_load((run / "config.yaml").read_text())
    assert list((run / "tensorboard").iterdir())


def test_restore_gives_the_trained_method(tiny: Path) -> None:
    run = distilled(tiny)
    method, data = restore(run)
    fabric = Fabric(accelerator="cpu", devices=1)
    scores = evaluate(method.student, Loader(data, data.test, 7, training=False), fabric, 5)
    assert scores.top1 == pytest.approx(RunFolder(run).metrics["test_top1"][-1], abs=1e-3)
    teacher = RunFolder(tiny / "teacher").metrics
    scores = evaluate(method.teacher, Loader(data, data.test, 7, training=False), fabric, 5)
    assert scores.loss == pytest.approx(teacher["test_loss"][-1], rel=1e-4)


def test_evaluation_against_a_plain_count(tiny_data: Dataset) -> None:
    torch.manual_seed(0)
    model = TinyNet(4, 5)
    loader = Loader(tiny_data, tiny_data.test, 7, training=False)
    scores = evaluate(model, loader, Fabric(accelerator="cpu", devices=1), 5)
    assert model.training
    model.eval()
    batch = next(iter(Loader(tiny_data, tiny_data.test, 40, training=False).epoch(0)))
    logits = model(batch.images)
    assert scores.top1 == pytest.approx(100 * (logits.argmax(1) == batch.labels).float().mean().item())
    assert scores.top5 == 100
    assert scores.loss == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert scores.images == 40


def test_a_broken_loss_stops_the_run(tiny: Path) -> None:
    told = (
        r"epoch 1, step [23] of 4: not finite: .*; its samples are in .*nonfinite\.json; no epoch was completed; lower"
    )
    with pytest.raises(SpotkdError, match=told):
        distilled(tiny, optim=OptimOptions(lr=1e30))


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    config = TrainOptions()
    with open_writer(tmp_path / "r", config) as run:
        run.log({"epoch": 1, "loss": 0.5})
    (tmp_path / "r" / "notes.txt").write_text("mine")
    with pytest.raises(SpotkdError, match="already holds a run"):
        open_writer(tmp_path / "r", config)
    assert RunFolder(tmp_path / "r").metrics == {"epoch": [1.0], "loss": [0.5]}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.safetensors").write_text("from elsewhere")
    with pytest.raises(SpotkdError, match=r"already holds a run \(model\.safetensors\)"):
        open_writer(tmp_path / "foreign", config)
    assert (tmp_path / "foreign" / "model.safetensors").read_text() == "from elsewhere"
    with open_writer(tmp_path / "r", TrainOptions(overwrite=True)) as run:
        assert (tmp_path / "r" / "metrics.csv").exists()  # until the new one begins
        run.begin()
        assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
            ".lock",
            "config.yaml",
            "notes.txt",
        ]


def test_a_run_does_not_bury_its_own_teacher(tiny: Path) -> None:
    config = DistillOptions(
        teacher=ModelOptions("tinynet6", str(tiny / "teacher")),
        student=ModelOptions("tinynet4"),
        distiller="at",
        strategy="adaptive",
    )
    config = with_values(config, {"overwrite": True})
    with pytest.raises(SpotkdError, match="which this run starts from, lies there"):
        distill(configured(config, tiny / "teacher"))
    assert (tiny / "teacher" / "model.safetensors").exists()


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpotkdError, match="cannot write a run there"):
        open_writer(tmp_path / "file" / "run", TrainOptions())


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert path.read_text() == "old"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(SpotkdError, match="no such file"):
        read_checkpoint(path)
    path.write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(SpotkdError, match=r"last\.ckpt"):
        read_checkpoint(path)
    torch.save({"other": 1}, path)
    with pytest.raises(SpotkdError, match="not a checkpoint of spotkd, or cut short"):
        read_checkpoint(path)
    write_checkpoint(path, {"other": 1, "format": FORMAT})
    with pytest.raises(SpotkdError, match="not a checkpoint of a training"):
        RunFolder(tmp_path).state()


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("32", cpu) == "32-true"
    assert choose_precision("bf16-mixed", cpu) == "bf16-mixed"
    assert choose_precision("auto", cpu) in ("32-true", "bf16-mixed")
    assert choose_precision("auto", torch.device("mps")) == "32-true"


@pytest.mark.parametrize("strategy", ["adaptive", "random", "never"])
def test_bfloat16_trains_too(tiny: Path, strategy: str) -> None:
    run = distilled(tiny, precision="bf16-mixed", strategy=strategy)
    assert all(torch.isfinite(torch.tensor(values)).all() for values in RunFolder(run).metrics.values())
