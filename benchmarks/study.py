"""Where to distil: students of every strategy, beside the same student of `always`, under hazards.

    python benchmarks/study.py --out benchmarks/results/study --files FOLDER --minutes 60
    python benchmarks/study.py --out benchmarks/results/study --page docs/study.md

Every cell is one student: a data set, a seed, a distiller, a hazard and a strategy. Seed by seed and distiller by
distiller all strategies are trained under all hazards on all sets, so that what is finished is always a balanced,
smaller study. A finished cell appends a row to ``results.csv``, and the command goes on with the cells that have none;
one command at a time uses a folder. A fifth of the training images is held out (``val``) to choose on; test images are
only counted. All students of a cell's seed begin alike, and meet the same images in the same order.

Strategies are what ``--strategy`` takes, all with the published weights of the distiller; ``alone`` has no teacher;
``published`` is SAKD as in the paper (bias 10, for pairs of one kind), ``scaled`` the same with
``policy.schedule scaled``; ``random@trust`` and ``constant@trust`` have the dose that ``trust`` had in the same cell.
Hazards are what ``--hazard`` takes. Needs PyTorch, NumPy and safetensors; the page SciPy and matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from balance import BATCH, Images, accuracy, fit, load, networks
from balance import _prepare as prepare
from spotkd.data import Dataset, ImageSet
from spotkd.data.hazards import damage
from spotkd.losses import Losses
from spotkd.method import SpotKD
from spotkd.options.grammar import parse_hazards
from spotkd.routing import PolicyPace, scaled_decay
from spotkd.stages import Batch, StagedModel
from study_page import COLUMNS, read_rows, write_page

SETS = {"emoji10": (60, 60), "glyph94": (20, 5), "digits": (20, 8), "emoji": (20, 20)}  # epochs of teacher, student
FACES = 50  # of glyph94
DISTILLERS = ("at", "kd", "fitnet", "sp", "rkd", "pkt", "cc", "vid", "nst", "ft", "crd")
HAZARDS = ("none", "wrong:0.4", "scale:30", "subgroup:0.4")
STRATEGIES = (
    "always", "trust+balance", "trust", "balance", "published", "scaled", "random:0.5", "random@trust",
)  # fmt: skip
BIAS = 10.0  # of the paper, for pairs of one kind
RATE = argparse.Namespace(lr=0.1, schedule="onecycle")


class Cell(NamedTuple):
    """One student."""

    set: str
    seed: int
    distiller: str
    hazard: str
    strategy: str


class Outcome(NamedTuple):
    """Of a cell: accuracies, mean weight, what was refused in the last epoch, and processor time of a step."""

    val: float
    test: float
    dose: float
    refused_damaged: float | None
    refused_intact: float | None
    step_ms: float


def cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    """All of them, in their order."""
    for seed in range(1, chosen.seeds + 1):
        yield from (Cell(name, seed, "", "none", "alone") for name in chosen.sets)
        for distiller in chosen.distillers:
            for hazard in chosen.hazards:
                for strategy in chosen.strategies:
                    yield from (Cell(name, seed, distiller, hazard, strategy) for name in chosen.sets)


class Watch:
    """Mean weights of a run, and what was refused in its last epoch; summed without waiting."""

    def __init__(self, is_damaged: Tensor | None, steps: int) -> None:
        self.is_damaged, self.steps = is_damaged, steps
        self.doses: list[Tensor] = []
        self.counts: list[Tensor] = []

    def add(self, mask: Tensor, batch: Batch) -> None:
        self.doses.append(mask.mean())
        if self.is_damaged is not None and batch.indices is not None:
            damaged, refused = self.is_damaged[batch.indices], (mask < 0.5).float().mean(1)
            parts = [part.sum() for part in (refused * damaged, damaged, refused * ~damaged, ~damaged)]
            self.counts.append(torch.stack([p.float() for p in parts]))

    def read(self) -> tuple[float, float | None, float | None]:
        dose = float(torch.stack(self.doses).mean())
        if not self.counts:
            return dose, None, None
        sums = torch.stack(self.counts[-self.steps :]).sum(0)
        return dose, float(sums[0] / sums[1]), float(sums[2] / sums[3])


def with_damage(data: Images, hazard: str, seed: int) -> tuple[Images, Any, Tensor | None]:
    """The images with damaged labels, what the teacher sees of them, and which samples are damaged."""
    images, labels = data.train
    whole = Dataset("study", ImageSet(images, labels), ImageSet(images[:0], labels[:0]), ("",) * data.classes, (), ())
    damaged = damage(whole, parse_hazards(hazard), seed)
    assert damaged.train.labels is not None
    data = data._replace(train=(images, damaged.train.labels))
    view = damaged.teacher_view
    if view is None:
        return data, None, None

    def see(x: Tensor, indices: Tensor) -> Tensor:
        if view.instead is not None:
            instead = view.instead[indices]
            x = torch.where((instead == indices).view(-1, 1, 1, 1), x, images[instead])
        return x if view.lens is None else x + view.lens

    return data, see, view.is_damaged


def make_method(cell: Cell, data: Images, teacher: StagedModel, student: StagedModel, dose: float) -> SpotKD:
    """The method of a cell, before hazards; ``dose`` is that of the strategy whose dose it has, if any."""
    kind, _, other = cell.strategy.partition("@")
    strategy = {"published": "adaptive", "scaled": "adaptive"}.get(kind, f"{kind}:{min(dose, 1.0)}" if other else kind)
    return SpotKD(
        teacher, student, cell.distiller, strategy, image_shape=tuple(data.train[0].shape[1:]),
        labels=data.train[1].cpu(), options={"negatives": 1024} if cell.distiller == "crd" else {},
        policy_bias={"published": BIAS, "scaled": 3.0}.get(kind, 0.0),
        pace=PolicyPace() if kind == "scaled" else None,
    )  # fmt: skip


def train_student(cell: Cell, data: Images, folder: Path, dose: float) -> Outcome:
    """Train the student of a cell."""
    torch.manual_seed(cell.seed)
    teacher, student = networks(cell.set, data.classes)
    epochs = SETS[cell.set][1]
    steps_an_epoch = -(-len(data.train[1]) // BATCH)
    steps = epochs * steps_an_epoch
    hazard = None if cell.hazard == "none" else cell.hazard
    data, see, is_damaged = with_damage(data, hazard, cell.seed) if hazard else (data, None, None)
    watch = Watch(is_damaged, steps_an_epoch)
    started = time.process_time()
    if cell.strategy == "alone":
        fit(lambda b: F.cross_entropy(student(b.images), b.labels), student, student.parameters(), data, epochs, RATE,
            cell.seed)  # fmt: skip
        seconds = time.process_time() - started
        return Outcome(
            accuracy(student, data.val), accuracy(student, data.test), 0.0, None, None, 1e3 * seconds / steps
        )
    teacher.load_state_dict(torch.load(folder / f"teacher-{cell.set}.pt", weights_only=True))
    method = make_method(cell, data, teacher, student, dose)
    method.teacher_view = see
    method.scale_distiller(parse_hazards(hazard).get("scale", 1.0))
    if method.preparation is not None:
        prepare(method, data, cell.seed)
    decay = scaled_decay(steps, RATE.lr / 2) if cell.strategy == "scaled" else 1e-3
    torch.manual_seed(cell.seed)  # decisions are drawn alike, whatever was built before

    def loss(batch: Batch) -> Tensor:
        losses: Losses = method(batch)
        watch.add(losses.mask, batch)
        return losses.total

    started = time.process_time()
    fit(loss, method, method.parameter_groups(RATE.lr, policy_weight_decay=decay), data, epochs, RATE, cell.seed)
    step = 1e3 * (time.process_time() - started) / steps
    return Outcome(accuracy(student, data.val), accuracy(student, data.test), *watch.read(), step)


def train_teacher(name: str, data: Images, folder: Path) -> None:
    """Train the teacher of a set, once for all its students."""
    torch.manual_seed(0)
    teacher, _ = networks(name, data.classes)
    fit(lambda b: F.cross_entropy(teacher(b.images), b.labels), teacher, teacher.parameters(), data, SETS[name][0],
        RATE, 0)  # fmt: skip
    scores = [round(accuracy(teacher, part), 3) for part in (data.val, data.test)]
    written = folder / f"teacher-{name}.part"
    torch.save(teacher.state_dict(), written)
    written.replace(folder / f"teacher-{name}.pt")
    _append(folder, [name, 0, "", "none", "teacher", SETS[name][0], *scores, "", "", "", "", ""])


def load_images(name: str, files: Path) -> Images:
    """As :func:`balance.load`, with fewer faces of glyph94."""
    data = load(name, files, torch.device("cpu"))
    if name != "glyph94":
        return data
    kept = FACES * 94 * len(data.train[1]) // (100 * 94)
    return data._replace(train=(data.train[0][:kept], data.train[1][:kept]))


def missing_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Those without a row."""
    found = {_cell(row) for row in read_rows(chosen.out / "results.csv")}
    return [cell for cell in cells(chosen) if cell not in found]


def _cell(row: dict[str, str]) -> Cell:
    return Cell(row["set"], int(row["seed"]), row["distiller"], row["hazard"], row["strategy"])


def _append(folder: Path, row: list[Any]) -> None:
    path = folder / "results.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([COLUMNS, row] if is_new else [row])


def work(chosen: argparse.Namespace) -> None:
    """Train what is missing until nothing is, or the time is over."""
    torch.set_num_threads(1)
    until = time.time() + 60 * chosen.minutes
    sets: dict[str, Images] = {}
    for cell in missing_cells(chosen):
        if time.time() > until:
            return
        if cell.set not in sets:
            sets[cell.set] = load_images(cell.set, chosen.files)
            if not (chosen.out / f"teacher-{cell.set}.pt").exists():
                train_teacher(cell.set, sets[cell.set], chosen.out)
        _, _, other = cell.strategy.partition("@")
        doses = {_cell(row): row["dose"] for row in read_rows(chosen.out / "results.csv")}
        dose = doses.get(cell._replace(strategy=other), "") if other else ""
        if other and not dose:
            continue
        started = time.time()
        try:
            found = train_student(cell, sets[cell.set], chosen.out, float(dose or 0))
        except (ValueError, RuntimeError) as error:  # a distiller that these networks do not suit
            print(f"{cell}: {str(error)[:200]}", flush=True)
            continue
        numbers = ["" if value is None else round(value, 4) for value in found]
        _append(chosen.out, [*cell, SETS[cell.set][1], *numbers, round(time.time() - started, 1)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--files", type=Path, default=Path(), help="folder of glyph94.npz, emoji.npz and digits.npz")
    parser.add_argument("--sets", nargs="+", default=["emoji10", "glyph94"], choices=list(SETS))
    parser.add_argument("--distillers", nargs="+", default=list(DISTILLERS))
    parser.add_argument("--hazards", nargs="+", default=list(HAZARDS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--page", type=Path, help="write this page, and its figures beside it, from the rows")
    arguments = parser.parse_args()
    if arguments.page:
        left = [cell.set for cell in missing_cells(arguments)]
        write_page(arguments.out, arguments.page, left)
    else:
        arguments.out.mkdir(parents=True, exist_ok=True)
        work(arguments)
