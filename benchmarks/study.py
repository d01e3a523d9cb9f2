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
``policy.schedule scaled``; ``random@trust`` and ``constant@trust`` have the dose that ``trust`` had in the same cell,
and ``random@trust+balance`` its balance, too.
Hazards are what ``--hazard`` takes. ``--plan trust`` trains other cells: what `trust` might do where the teacher errs
(``trust_rules.py``), under several teachers of a set, chosen on all training images that nothing was trained on;
``--summary`` prints its numbers. ``--jobs`` students are trained side by side, of one thread each. Needs PyTorch, NumPy
and safetensors; the page and the summary SciPy, the page matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache
from multiprocessing import get_context
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
from study_page import write_page
from study_results import COLUMNS, SAKD, read_rows, summary_lines
from trust_rules import RULES

SETS = {"emoji10": (60, 60), "glyph94": (20, 5), "digits": (20, 8), "emoji": (20, 20)}  # epochs of teacher, student
FACES = 50  # of glyph94
DISTILLERS = ("at", "kd", "fitnet", "sp", "rkd", "pkt", "cc", "vid", "nst", "ft", "crd")
HAZARDS = ("none", "wrong:0.4", "scale:30", "subgroup:0.4")
STRATEGIES = (
    "always", "trust+balance", "trust", "balance", "published", "scaled", "random:0.5", "random@trust",
)  # fmt: skip
TRUST_STRATEGIES = (
    "always", "trust", "trust:labels=false", "trust:graded=true", *RULES, "constant@trust", "random@trust",
)  # fmt: skip
TRUST_CELLS = (("emoji10", "none"), ("emoji10", "wrong:0.4"), ("glyph94", "none"), ("glyph94", "wrong:0.4"))
BIAS = 10.0  # of the paper, for pairs of one kind
RATE = argparse.Namespace(lr=0.1, schedule="onecycle")


class Cell(NamedTuple):
    """One student; its set may name one of several teachers, as ``emoji10@2``."""

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
    if chosen.plan == "trust":
        yield from trust_cells(chosen)
        return
    for seed in range(1, chosen.seeds + 1):
        yield from (Cell(name, seed, "", "none", "alone") for name in chosen.sets)
        for distiller in chosen.distillers:
            for hazard in chosen.hazards:
                for strategy in chosen.strategies:
                    yield from (Cell(name, seed, distiller, hazard, strategy) for name in chosen.sets)


def trust_cells(chosen: argparse.Namespace) -> Iterator[Cell]:
    """Those of ``--plan trust``: seed by seed, teacher by teacher, each hazard under all strategies."""
    for seed in range(1, chosen.seeds + 1):
        for number in range(1, chosen.teachers + 1):
            for name, hazard in (each for each in TRUST_CELLS if each[0] in chosen.sets):
                for strategy in TRUST_STRATEGIES:
                    yield Cell(f"{name}@{number}", seed, "kd", hazard, strategy)


def split_name(name: str) -> tuple[str, int]:
    """A set without its teacher, and the teacher's seed, 0 where it has but one."""
    plain, _, number = name.partition("@")
    return plain, int(number or 0)


class Watch:
    """Mean weights of a run, and what was refused in its last epoch; summed without waiting."""

    def __init__(self, is_damaged: Tensor | None, steps: int) -> None:
        self.is_damaged, self.steps = is_damaged, steps
        self.doses: list[Tensor] = []
        self.counts: list[Tensor] = []

    def add(self, mask: Tensor, batch: Batch) -> None:
        self.doses.append(mask.mean())
        if batch.indices is not None:
            refused = (mask < 0.5).float().mean(1)
            nobody = torch.zeros(len(mask), dtype=torch.bool)
            damaged = nobody if self.is_damaged is None else self.is_damaged[batch.indices]
            parts = [part.sum() for part in (refused * damaged, damaged, refused * ~damaged, ~damaged)]
            self.counts.append(torch.stack([p.float() for p in parts]))

    def read(self) -> tuple[float, float | None, float | None]:
        dose = float(torch.stack(self.doses).mean())
        if not self.counts:
            return dose, None, None
        sums = torch.stack(self.counts[-self.steps :]).sum(0)
        return dose, float(sums[0] / sums[1]) if self.is_damaged is not None else None, float(sums[2] / sums[3])


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
    strategy: Any = RULES[kind]() if kind in RULES else SAKD.get(kind, kind)
    if other:
        strategy = f"{kind}:{min(dose, 1.0)}" + ("+balance" if "balance" in other else "")
    return SpotKD(
        teacher, student, cell.distiller, strategy, image_shape=tuple(data.train[0].shape[1:]),
        labels=data.train[1].cpu(), options={"negatives": 1024} if cell.distiller == "crd" else {},
        policy_bias={"published": BIAS, "scaled": 3.0}.get(kind, 0.0),
        pace=PolicyPace() if kind == "scaled" else None,
    )  # fmt: skip


def train_student(cell: Cell, data: Images, folder: Path, dose: float, also: Watch | None = None) -> Outcome:
    """Train the student of a cell; ``also`` sees every step, too."""
    torch.manual_seed(cell.seed)
    name, _ = split_name(cell.set)
    teacher, student = networks(name, data.classes)
    epochs = SETS[name][1]
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
        for each in (watch, also):
            if each is not None:
                each.add(losses.mask, batch)
        return losses.total

    started = time.process_time()
    fit(loss, method, method.parameter_groups(RATE.lr, policy_weight_decay=decay), data, epochs, RATE, cell.seed)
    step = 1e3 * (time.process_time() - started) / steps
    return Outcome(accuracy(student, data.val), accuracy(student, data.test), *watch.read(), step)


def train_teacher(name: str, data: Images, folder: Path) -> list[float]:
    """Train a teacher of a set, once for all its students; its accuracies on validation and test images."""
    plain, seed = split_name(name)
    torch.manual_seed(seed)
    teacher, _ = networks(plain, data.classes)
    fit(lambda b: F.cross_entropy(teacher(b.images), b.labels), teacher, teacher.parameters(), data, SETS[plain][0],
        RATE, seed)  # fmt: skip
    written = folder / f"teacher-{name}.part"
    torch.save(teacher.state_dict(), written)
    written.replace(folder / f"teacher-{name}.pt")
    return [round(accuracy(teacher, part), 3) for part in (data.val, data.test)]


@lru_cache
def load_images(name: str, files: Path, is_large: bool = False) -> Images:
    """As :func:`balance.load`, with fewer faces of glyph94; with ``is_large`` all that is left is validated on, too."""
    data = load(name, files, torch.device("cpu"), is_large)
    if name != "glyph94":
        return data
    kept = FACES * 94 * len(data.train[1]) // (100 * 94)
    (images, labels), val = data.train, data.val
    if is_large:
        val = torch.cat([val[0], images[kept:]]), torch.cat([val[1], labels[kept:]])
    return data._replace(train=(images[:kept], labels[:kept]), val=val)


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


def run_cell(cell: Cell, chosen: argparse.Namespace, dose: float) -> list[Any] | str:
    """The row of a cell, or why there is none; a teacher's where its strategy says so."""
    torch.set_num_threads(1)
    plain, _ = split_name(cell.set)
    data, started = load_images(plain, chosen.files, chosen.plan == "trust"), time.time()
    if cell.strategy == "teacher":
        return [*cell, SETS[plain][0], *train_teacher(cell.set, data, chosen.out), "", "", "", "", ""]
    try:
        found = train_student(cell, data, chosen.out, dose)
    except (ValueError, RuntimeError) as error:  # a distiller that these networks do not suit
        return f"{cell}: {str(error)[:200]}"
    numbers = ["" if value is None else round(value, 4) for value in found]
    return [*cell, SETS[plain][1], *numbers, round(time.time() - started, 1)]


def work(chosen: argparse.Namespace) -> None:
    """Train what is missing until nothing is, or the time is over: teachers first."""
    until = time.time() + 60 * chosen.minutes
    left = missing_cells(chosen)
    names = dict.fromkeys(cell.set for cell in left if not (chosen.out / f"teacher-{cell.set}.pt").exists())
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        for stage in ([Cell(name, 0, "", "none", "teacher") for name in names], left):
            _train_all(stage, chosen, until, pool)


def _train_all(stage: Sequence[Cell], chosen: argparse.Namespace, until: float, pool: ProcessPoolExecutor) -> None:
    """Train cells in their order, as many at a time as there are processes; this process alone writes rows.

    One whose dose is that of another cell waits for that; where that has no row in the end, it has none either.
    """
    doses = {_cell(row): row["dose"] for row in read_rows(chosen.out / "results.csv")}
    running: dict[Future[list[Any] | str], Cell] = {}
    waiting = list(stage)
    while True:
        while len(running) < chosen.jobs and time.time() < until:
            ready = next((cell for cell in waiting if _dose(cell, doses)), None)
            if ready is None:
                break
            waiting.remove(ready)
            running[pool.submit(run_cell, ready, chosen, float(_dose(ready, doses)))] = ready
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            cell, row = running.pop(future), future.result()
            if isinstance(row, str):
                print(row, flush=True)
                continue
            _append(chosen.out, row)
            doses[cell] = str(row[COLUMNS.index("dose")])


def _dose(cell: Cell, doses: dict[Cell, str]) -> str:
    """That of the strategy whose dose a cell has, "0" where it needs none; empty where it is not known yet."""
    _, _, other = cell.strategy.partition("@")
    return doses.get(cell._replace(strategy=other), "") if other else "0"


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
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plan", choices=["all", "trust"], default="all")
    parser.add_argument("--teachers", type=int, default=4, help="of each set, for --plan trust")
    parser.add_argument("--summary", choices=["val", "test"], help="print paired differences of what is there")
    parser.add_argument("--page", type=Path, help="write this page, and its figures beside it, from the rows")
    arguments = parser.parse_args()
    if arguments.page:
        left = [cell.set for cell in missing_cells(arguments)]
        write_page(arguments.out, arguments.page, left)
    elif arguments.summary:
        print("\n".join(summary_lines(read_rows(arguments.out / "results.csv"), arguments.summary)))
    else:
        arguments.out.mkdir(parents=True, exist_ok=True)
        work(arguments)
