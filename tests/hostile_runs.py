"""Tiny finished runs, on images whose class names mean harm, for tests of what is shown of runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spotkd.options import DataOptions, DistillOptions, ModelOptions, PolicyOptions, TrainOptions
from spotkd.training import distill, train

CLASSES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "=1+1", "{{ 7 * 7 }}", "a & b")
IMAGES = 43  # in either split; not a multiple of the batch size
DATA = f"""
import torch
from spotkd.data import Dataset, ImageSet

def make():
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange({IMAGES}) % {len(CLASSES)}
    noise = torch.randint(0, 60, ({IMAGES}, 1, 16, 16), generator=generator)
    images = (noise + 40 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    test = ImageSet(images.flip(-1), labels)
    return Dataset("hostile", ImageSet(images, labels), test, {CLASSES!r}, (0.3,), (0.3,), padding=2)
"""


@contextmanager
def hostile_data(folder: Path) -> Iterator[DataOptions]:
    """The data set's module can be imported as long as this lasts."""
    (folder / "hostile_images.py").write_text(DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield DataOptions("python:hostile_images.make")


RUNS = ("teacher", "kd", "sakd")


def make_runs(folder: Path, data: DataOptions) -> None:
    """A teacher, a student by plain KD, and one by SAKD: once for all tests, by the fixture ``hostile_runs``."""
    common: dict[str, Any] = {"data": data, "epochs": 3, "batch_size": 16, "quiet": True, "precision": "32"}
    out = {name: folder / name for name in RUNS}
    train(TrainOptions(**common, out=str(out["teacher"]), model=ModelOptions("resnet8")))
    students: dict[str, Any] = {
        "teacher": ModelOptions("resnet8", str(out["teacher"])),
        "student": ModelOptions("resnet8"),
    }
    distill(DistillOptions(**common, **students, out=str(out["kd"]), distiller="kd", strategy="always"))
    policy = PolicyOptions(bias="scaled", target_share=0.5)
    distill(
        DistillOptions(**common, **students, out=str(out["sakd"]), distiller="at", strategy="adaptive", policy=policy)
    )


@contextmanager
def copied(made: Path, folder: Path) -> Iterator[None]:
    """The runs once more, in a folder that a test may write to."""
    for name in RUNS:
        shutil.copytree(made / name, folder / name)
    with hostile_data(folder):
        yield
