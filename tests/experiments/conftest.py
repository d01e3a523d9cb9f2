"""A small data set of one's own that runs in processes of their own can open, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Two classes, told apart by their brightness, so that a network learns something within an epoch.
MODULE = """
import torch
from spotkd import Dataset
from spotkd.data import ImageSet


def build():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 2
    noise = torch.randint(0, 120, (96, 1, 32, 32), generator=generator)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    train, test = ImageSet(images[:64], labels[:64]), ImageSet(images[64:], labels[64:])
    return Dataset("bright", train, test, ("dark", "bright"), (0.3,), (0.3,), padding=2)
"""
DATA = "python:bright_set.build"


@pytest.fixture
def bright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the data set's module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("bright_set", None)
    Path("bright_set.py").write_text(MODULE)
    return tmp_path
