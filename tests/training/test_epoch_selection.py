"""Which epoch is the result, and what the test images are used for."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning_fabric import Fabric
from safetensors import safe_open

from spotkd import DATASETS, MODELS, Dataset, Loader, SpotkdError, create_model
from spotkd.data import DataSpec
from spotkd.options import ModelOptions, OptimOptions, Select, TrainOptions, with_values
from spotkd.runs.summary import Summary
from spotkd.training import evaluate, train

from ..conftest import TinyNet


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch, tiny_data: Dataset) -> None:
    """A data set whose labels are half wrong, on which accuracy goes up and down."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.randint(0, 5, (40,), generator=generator)
    labels = torch.where(torch.rand(40, generator=generator) < 0.5, wrong, torch.arange(40) % 5)
    train_split = dataclasses.replace(tiny_data.train, labels=labels)  # type: ignore[type-var]
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: dataclasses.replace(tiny_data, train=train_split))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))


def trained(out: Path, select: Select, val_share: float = 0.0, seed: int = 0) -> tuple[Summary, list[dict[str, float]]]:
    config = TrainOptions(model=ModelOptions("tinynet4"), optim=OptimOptions(lr=0.3))
    config = with_values(config, {"out": str(out), "epochs": 8, "batch_size": 8, "quiet": True, "seed": seed})
    config = with_values(config, {"data.name": "tiny", "data.val_share": val_share, "select": select})
    summary = train(config)
    with (out / "metrics.csv").open(newline="") as file:
        return summary, [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def first_best(rows: list[dict[str, float]], column: str) -> int:
    return max(range(len(rows)), key=lambda number: (rows[number][column], -number)) + 1


def saved_top1(out: Path, split: str) -> float:
    """The accuracy of the weights file on a split, measured afresh."""
    config = yaml.safe_load((out / "config.yaml").read_text())
    data = DATASETS["tiny"](DataSpec("tiny")).hold_out(config["data"]["val_share"])
    model = create_model("tinynet4", 5, out / "model.safetensors")
    images = getattr(data, split)
    return evaluate(model, Loader(data, images, 40, training=False), Fabric(accelerator="cpu", devices=1), 5).top1


def test_the_last_epoch(noisy: None, tmp_path: Path) -> None:
    summary, rows = trained(tmp_path / "r", "auto")
    assert (summary.protocol, summary.epoch, summary.epochs) == ("last epoch", 8, 8)
    assert summary.scores == summary.last
    assert str(summary) == f"test top-1 {rows[-1]['test_top1']:.2f} % after epoch 8"
    assert not (tmp_path / "r" / "best.ckpt").exists()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_epoch_on_validation_images(noisy: None, tmp_path: Path, seed: int) -> None:
    summary, rows = trained(tmp_path / "r", "auto", val_share=0.3, seed=seed)
    assert "test_top1" not in rows[0]  # nobody looked at the test images before the end
    assert summary.protocol == "best on validation"
    assert summary.epoch == first_best(rows, "val_top1")
    assert saved_top1(tmp_path / "r", "val") == pytest.approx(rows[summary.epoch - 1]["val_top1"], abs=1e-3)
    assert saved_top1(tmp_path / "r", "test") == pytest.approx(summary.scores.top1)
    written = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (written["protocol"], written["epoch"]) == ("best on validation", summary.epoch)
    assert written["last"]["top1"] == summary.last.top1
    assert f"(best on validation: epoch {summary.epoch}; after the last, 8: {summary.last.top1:.2f} %)" in str(summary)
    assert not (tmp_path / "r" / "best.ckpt").exists()
    with safe_open(tmp_path / "r" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["spotkd"])["protocol"] == "best on validation"


@pytest.mark.slow
def test_the_chosen_epoch_is_not_always_the_last(noisy: None, tmp_path: Path) -> None:
    chosen = {trained(tmp_path / str(seed), "best_val", val_share=0.3, seed=seed)[0].epoch for seed in range(4)}
    assert chosen - {8}


@pytest.mark.parametrize("val_share", [0.0, 0.3])
def test_the_best_epoch_on_test_images_as_the_literature_does(noisy: None, tmp_path: Path, val_share: float) -> None:
    summary, rows = trained(tmp_path / "r", "best_test", val_share)
    assert summary.protocol == "best on test"
    assert summary.epoch == first_best(rows, "test_top1")
    assert summary.scores.top1 == pytest.approx(max(row["test_top1"] for row in rows), abs=1e-3)
    assert summary.last.top1 == pytest.approx(rows[-1]["test_top1"], abs=1e-3)
    assert saved_top1(tmp_path / "r", "test") == pytest.approx(summary.scores.top1)


def test_no_validation_images_to_choose_on(noisy: None, tmp_path: Path) -> None:
    with pytest.raises(SpotkdError, match=r"select is best_val: tiny has no validation images.*--data\.val_share 0\.1"):
        trained(tmp_path / "r", "best_val")
    assert not (tmp_path / "r").exists()


def test_the_last_epoch_with_validation_images(noisy: None, tmp_path: Path) -> None:
    summary, rows = trained(tmp_path / "r", "last", val_share=0.3)
    assert "val_top1" in rows[0]
    assert (summary.protocol, summary.epoch, summary.scores) == ("last epoch", 8, summary.last)
