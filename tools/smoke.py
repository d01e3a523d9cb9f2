"""A smoke test of an installed spotkd: ``python tools/smoke.py`` trains a teacher, distils it, evaluates the student.

Everything happens on a dozen pictures in a temporary folder, in one process and within seconds. Standard library and
spotkd's own dependencies only: it runs in environments that hold nothing else.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from PIL import Image

from spotkd.cli import main

PAIR = ("--teacher", "resnet8", "--student", "resnet8")
SHORT = ("--data.image_size", "16", "--epochs", "1", "--batch_size", "4")


def write_pictures(folder: Path) -> None:
    """Four pictures for each of two classes, to train and to test on: ``folder/SPLIT/CLASS/NUMBER.png``."""
    generator = numpy.random.default_rng(1)
    for split in ("train", "val"):
        for brightness, name in ((60, "dark"), (180, "light")):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = brightness + generator.integers(0, 40, (16, 16, 3))
                Image.fromarray(pixels.astype("uint8")).save(folder / split / name / f"{number}.png")


def run(*arguments: str) -> None:
    """One command of spotkd; the smoke test ends where it fails."""
    print("$ spotkd", *arguments, flush=True)
    if status := main(arguments):
        sys.exit(status)


def smoke(folder: Path) -> None:
    """Every step from pictures to a student, in ``folder``."""
    write_pictures(folder / "pictures")
    data = ("--data", f"folder:{folder / 'pictures'}")
    teacher, student = str(folder / "teacher"), str(folder / "student")
    run("distillers")
    run("train", "--model", "resnet8", *data, *SHORT, "--out", teacher)
    run("distill", *PAIR, "--teacher.checkpoint", teacher, *data, *SHORT, "--distiller", "at", "--strategy", "adaptive",
        "--out", student)  # fmt: skip
    run("evaluate", student)


if __name__ == "__main__":
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        smoke(Path(temporary))
