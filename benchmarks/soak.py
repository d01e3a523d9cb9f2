"""Trains for a long time and watches memory and open files.

    python benchmarks/soak.py --minutes 30

A resnet20 teaches a resnet8 (SAKD-AT) on 940 images of glyph94, epoch after epoch, saved every 20 steps.
Resident memory and open files are read after every epoch; the slope is a line fitted to the second half, so that what
is set up once does not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from spotkd.errors import Stopped
from spotkd.options import DistillOptions, ModelOptions, TrainOptions, with_values
from spotkd.runs.writer import RunWriter
from spotkd.training import distill, train

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--minutes", type=float, default=30.0)
options = parser.parse_args()
readings: list[tuple[float, float, int]] = []  # minutes, MB, open files
began = time.monotonic()


def read() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    files = len(list(Path("/proc/self/fd").iterdir()))
    readings.append(((time.monotonic() - began) / 60, pages * 4096 / 1e6, files))


plain = RunWriter.log


def log(self: RunWriter, *arguments: object) -> None:
    plain(self, *arguments)  # type: ignore[arg-type]
    read()
    if readings[-1][0] > options.minutes:
        raise Stopped("time is over")


with tempfile.TemporaryDirectory() as folder:
    teacher = TrainOptions(model=ModelOptions("resnet20"), epochs=1, out=f"{folder}/teacher", quiet=True)
    teacher = with_values(teacher, {"data.limit": 940})
    train(teacher)
    RunWriter.log = log  # type: ignore[method-assign,assignment]
    run = DistillOptions(
        teacher=ModelOptions("resnet20", f"{folder}/teacher"),
        student=ModelOptions("resnet8"),
        distiller="at",
        strategy="adaptive",
    )
    run = with_values(run, {"data.limit": 940, "epochs": 100_000, "out": f"{folder}/run", "quiet": True})
    run = with_values(run, {"checkpoint_every": 20, "min_teacher_top1": 0})
    with suppress(Stopped):
        distill(run)
minutes, megabytes, files = (np.array(column) for column in zip(*readings, strict=True))
half = len(minutes) // 2
slope, _ = np.polyfit(minutes[half:], megabytes[half:], 1)
print(f"{len(minutes)} epochs in {minutes[-1]:.1f} minutes")
print(
    f"memory in MB: {megabytes[0]:.0f} after an epoch, {megabytes[half]:.0f} half way, {megabytes[-1]:.0f} at the end"
)
print(f"slope of the second half: {1000 * slope:+.0f} kB a minute")
print(f"open files: {files[0]} after the first epoch, {files.max()} at most, {files[-1]} at the end")
sys.exit(0)
