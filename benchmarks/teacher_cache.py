"""An epoch that looks up the teacher's outputs, beside one that computes them: in memory, on disk for 1 and 8 crops.

    python benchmarks/teacher_cache.py            # writes results/teacher-cache.csv and prints the table
    python benchmarks/teacher_cache.py --table    # prints it from the file

resnet56 teaches resnet20, eight batches of 64 images of noise, one thread of a CPU, float32. All kinds of epochs are
taken in turn, and the ratio is the median over the rounds of processor time, with minimum and maximum. ``filling`` is
the first epoch of each crop, which computes, stores and writes.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import a_batch, in_turn
from spotkd import Batch, SpotKD
from spotkd.runtime.device import Device, make_fabric
from spotkd.training.teacher_files import TeacherFiles
from step import SHIPPED, method_of

BATCH, BATCHES, GIB = 64, 8, 1e6
CROPS = {"memory": 1, "disk, 1 crop": 1, "disk, 8 crops": 8}
COLUMNS = ("distiller", "kind", "median", "least", "most")
Step = Callable[[], object]


def epochs_of(method: SpotKD, batches: list[Batch]) -> Step:
    """Takes one epoch after the other, as the loop does."""
    optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9)
    number = [0]

    def epoch() -> None:
        number[0] += 1
        method.start_epoch(number[0], 1000)
        for batch in batches:
            total = method(batch).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        if method.teacher_cache is not None:
            method.teacher_cache.finish_epoch()

    return epoch


def measure(name: str, rounds: int, folder: Path) -> list[tuple[object, ...]]:
    """The rows of one distiller: each kind of epoch over the one that computes the outputs."""
    asked = argparse.Namespace(device="cpu", pair=["resnet56", "resnet20"])
    images = BATCH * BATCHES
    whole = a_batch(images, images, "cpu")
    parts = zip(*(torch.split(x, BATCH) for x in whole if x is not None), strict=True)
    batches = [Batch(x.contiguous(memory_format=torch.channels_last), *rest) for x, *rest in parts]
    device = Device(make_fabric("cpu", "32"), torch.channels_last)
    steps = {"computed": epochs_of(method_of(name, asked, SHIPPED), batches)}
    filling = []
    for kind, crops in CROPS.items():
        method = method_of(name, asked, SHIPPED)
        store = TeacherFiles(str(folder / name / kind), {}, device) if kind.startswith("disk") else None
        method.cache_teacher(images, limit=GIB, crops=crops, store=store)
        steps[kind] = epochs_of(method, batches)
        for _ in range(crops):
            started = time.process_time()
            steps[kind]()
            filling.append(1e3 * (time.process_time() - started))
        for _ in range(crops):  # files are checked when they are first read
            steps[kind]()
    times = in_turn(steps, rounds, "cpu")
    shares = {kind: [a / b for a, b in zip(times[kind], times["computed"], strict=True)] for kind in CROPS}
    usual = statistics.median(times["computed"])
    shares = {"filling": [each / usual for each in filling], **shares}
    return [(name, kind, *(f"{f(x):.3f}" for f in (statistics.median, min, max))) for kind, x in shares.items()]


def print_table(path: Path) -> None:
    """The file as Markdown: a row a distiller, a column a kind."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    print(f"| distiller | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for name in dict.fromkeys(row["distiller"] for row in rows):
        mine = [row for row in rows if row["distiller"] == name]
        cells = [f"{float(r['median']):.2f} ({float(r['least']):.2f} to {float(r['most']):.2f})" for r in mine]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["kd", "sp", "fitnet", "at"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "teacher-cache.csv")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.table:
        found: list[tuple[object, ...]] = [COLUMNS]
        with tempfile.TemporaryDirectory() as place:
            for distiller in chosen.only:
                found += measure(distiller, chosen.rounds, Path(place))
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(found)
    print_table(chosen.out)
