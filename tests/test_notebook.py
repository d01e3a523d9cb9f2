"""Objects on one line of a terminal and as a table of a notebook, in which names from outside stay words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spotkd import Batch, Dataset, RunFolder, SpotKD, create_model, load_glyph94, stage
from spotkd.notebook import html_table, pair_rows


@pytest.fixture(scope="module")
def method() -> SpotKD:
    teacher, student = (create_model(name, num_classes=94) for name in ("resnet20", "resnet8"))
    return SpotKD(teacher, student, "at", "adaptive", image_shape=(3, 32, 32))


def test_one_line_each(method: SpotKD, tmp_path: Path) -> None:
    losses = method(Batch(torch.rand(4, 3, 32, 32), torch.arange(4)))
    lines = [repr(one) for one in (load_glyph94(), losses, method, method.student, RunFolder(tmp_path))]
    assert lines[0] == "Dataset('glyph94', 50008 training and 9964 test images of 3 x 32 x 32, 94 classes)"
    assert lines[1].startswith(f"Losses(total {losses.total.item():.4g} = task ")
    assert lines[1].count(" %") == len(method.spot_names)
    assert lines[2] == "SpotKD(AT, Adaptive; spots layer1, layer2, layer3, logits; CifarResNet teaches CifarResNet)"
    assert lines[3].startswith("CifarResNet(stem > layer1 > layer2 > layer3 > pool > fc, ")
    assert not any("\n" in line for line in lines)


def test_networks_stand_side_by_side(method: SpotKD) -> None:
    shown = method._repr_html_()
    row = "<tr><td>layer2</td><td>32 x 16 x 16</td><td>←</td><td>layer2</td><td>32 x 16 x 16</td></tr>"
    assert row in shown
    assert shown.count("←") == 4


def test_rows_of_networks_of_different_lengths() -> None:
    left, right = [(name, "") for name in "abc"], [(name, "") for name in "ABCDE"]
    rows = pair_rows(left, right, [(0, 2), (2, 4)])
    assert ["".join(row) for row in rows] == ["A", "B", "a←C", "bD", "c←E"]


def test_stages_with_their_shapes() -> None:
    assert "<td>layer1</td><td>16 x 32 x 32</td>" in create_model("resnet8", 10)._repr_html_()
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    mine = stage(torch.nn.Sequential(body, torch.nn.Linear(4, 5)), at=["0.0"], image_shape=(3, 20, 20))
    assert "images of 3 x 20 x 20" in mine._repr_html_()
    assert "<td>4 x 18 x 18</td>" in mine._repr_html_()


def test_names_from_outside_stay_words(tiny_data: Dataset, hostile_runs: Path) -> None:
    name: Any = "<script>alert(1)</script>"
    classes = (name, *tiny_data.classes[1:])
    for shown in (
        replace(tiny_data, name=name, classes=classes)._repr_html_(),
        html_table(name, [(name,)], [name]),
        RunFolder(hostile_runs / name)._repr_html_(),
    ):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown


def test_a_run_tells_its_result(hostile_runs: Path) -> None:
    shown = RunFolder(hostile_runs / "sakd")._repr_html_()
    assert "test top-1" in shown
    assert "distilled at logits" in shown
