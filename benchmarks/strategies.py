"""Where to distil: students under each strategy, with a sound teacher and with a damaged one, on several sets.

    python benchmarks/strategies.py --out runs/strategies --files DATA --seeds 3 --workers 2 --minutes 60
    python benchmarks/strategies.py --out runs/strategies --table

As ``balance.py``, whose data sets, networks and training these are: every cell is one student, the cells are in an
order in which every prefix is a balanced, smaller study, and one that was stopped goes on with the cells without a row.

Hazards: ``clean``; ``wrong:0.4``, for 40 % of the training images, always the same ones, the teacher sees another one;
``scale:30``, the distiller's weight is 30 times as large.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy import stats

from balance import SETS, Images, accuracy, fit, load, networks
from spotkd.method import SpotKD
from spotkd.routing import PolicyPace, scaled_decay
from spotkd.stages import Batch, StageOutputs

FIELDS = ("set", "seed", "distiller", "strategy", "hazard", "epochs", "val", "test", "dose", "seconds")
STRATEGIES = (
    "always", "trust+balance", "balance", "trust", "trust:labels=false+balance", "random", "adaptive", "scaled",
)  # fmt: skip
AT_LOGITS = ("always", "trust", "trust:labels=false", "random", "wsl", "ea")  # with kd, which is not balanced
HEAVY = ("always", "balance", "trust+balance")  # of those that are also tried with a weight that is too large


class Cell(NamedTuple):
    """One student; without a distiller it learns alone, and ``teacher`` is the teacher."""

    set: str
    seed: int
    distiller: str
    strategy: str
    hazard: str


class Damaged(SpotKD):
    """A teacher that sees other images in place of some."""

    other: torch.Tensor | None = None  # for every training image the one that is seen
    images: torch.Tensor

    def _observe_teacher(self, batch: Batch, cached: bool) -> StageOutputs:
        if self.other is not None and batch.indices is not None:
            seen = self.other[batch.indices]
            wrong = (seen != batch.indices).view(-1, 1, 1, 1)
            batch = batch._replace(images=torch.where(wrong, self.images[seen], batch.images))
        return super()._observe_teacher(batch, cached)


def damage(method: Damaged, hazard: str, data: Images, seed: int) -> None:
    kind, _, value = hazard.partition(":")
    if kind == "scale":
        method.beta *= float(value)
    if kind == "wrong":
        generator = torch.Generator().manual_seed(1000 + seed)
        count = len(data.train[1])
        chosen = torch.randperm(count, generator=generator)[: round(float(value) * count)]
        other = torch.arange(count)
        other[chosen] = chosen.roll(1)
        method.other, method.images = other.to(data.train[1].device), data.train[0]


def train_cell(cell: Cell, data: Images, folder: Path, device: torch.device, chosen: Any) -> tuple[float, float, float]:
    """Accuracies on validation and test images, and the mean weight of the last epochs."""
    torch.manual_seed(cell.seed)
    epochs, doses = chosen.epochs or SETS[cell.set][0], list[torch.Tensor]()
    teacher, student = (network.to(device) for network in networks(cell.set, data.classes))
    if not cell.distiller:
        network = teacher if cell.strategy == "teacher" else student
        fit(
            lambda b: F.cross_entropy(network(b.images), b.labels),
            network, network.parameters(), data, epochs, chosen, cell.seed,
        )  # fmt: skip
        if cell.strategy == "teacher":
            written = folder / f"teacher-{cell.set}.part"
            torch.save(network.state_dict(), written)
            written.replace(folder / f"teacher-{cell.set}.pt")
        return accuracy(network, data.val), accuracy(network, data.test), 0.0
    teacher.load_state_dict(torch.load(folder / f"teacher-{cell.set}.pt", map_location=device, weights_only=True))
    size, steps = SETS[cell.set][1], epochs * -(-len(data.train[1]) // 64)
    scaled = cell.strategy == "scaled"
    method = Damaged(
        teacher, student, cell.distiller, "adaptive" if scaled else cell.strategy, image_shape=(3, size, size),
        labels=data.train[1].cpu(), options={"negatives": 1024} if cell.distiller == "crd" else {},
        pace=PolicyPace() if scaled else None,
    )  # fmt: skip
    damage(method, cell.hazard, data, cell.seed)
    decay = scaled_decay(steps, chosen.lr / 2) if scaled else 1e-3
    groups = method.parameter_groups(chosen.lr, policy_weight_decay=decay)

    def loss(batch: Batch) -> torch.Tensor:
        losses = method(batch)
        doses.append(losses.mask.mean())
        total: torch.Tensor = losses.total
        return total

    fit(loss, method, groups, data, epochs, chosen, cell.seed)
    return accuracy(student, data.val), accuracy(student, data.test), float(torch.stack(doses[steps // 2 :]).mean())


def cells(chosen: argparse.Namespace) -> list[Cell]:
    found = [Cell(name, 0, "", "teacher", "clean") for name in chosen.sets]
    for seed in range(1, chosen.seeds + 1):
        found += [Cell(name, seed, "", "alone", "clean") for name in chosen.sets]
        for distiller in ("kd", *chosen.distillers):
            for strategy, name in product(AT_LOGITS if distiller == "kd" else chosen.strategies, chosen.sets):
                found += [Cell(name, seed, distiller, strategy, hazard) for hazard in ("clean", "wrong:0.4")]
                if strategy in HEAVY and distiller != "kd":
                    found.append(Cell(name, seed, distiller, strategy, "scale:30"))
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file, FIELDS))


def work(chosen: argparse.Namespace, until: float) -> None:
    """Take cells that nobody has taken, until none is left or the time is over."""
    torch.set_num_threads(1)
    device, sets = torch.device("cuda" if torch.cuda.is_available() else "cpu"), dict[str, Images]()
    done = {tuple(row[field] for field in Cell._fields) for row in read_rows(chosen.out / "results.csv")}
    for cell in cells(chosen):
        if tuple(map(str, cell)) in done:
            continue
        while cell.strategy != "teacher" and not (chosen.out / f"teacher-{cell.set}.pt").exists():
            time.sleep(1)
        if time.time() > until:
            return
        try:
            os.close(os.open(chosen.out / "taken" / "-".join(map(str, cell)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if cell.set not in sets:
            sets[cell.set] = load(cell.set, chosen.files, device)
        started = time.time()
        scores = train_cell(cell, sets[cell.set], chosen.out, device, chosen)
        row = (*cell, chosen.epochs or SETS[cell.set][0], *(round(x, 3) for x in scores), round(time.time() - started))
        with (chosen.out / "results.csv").open("a", newline="") as file:
            csv.writer(file).writerow(row)


def print_table(rows: list[dict[str, str]], part: str) -> None:
    """Mean and spread of every strategy, and its paired difference to ``always`` of the same hazard, by seeds."""
    scores = {tuple(row[field] for field in Cell._fields): float(row[part]) for row in rows}
    doses = {tuple(row[field] for field in Cell._fields): float(row["dose"]) for row in rows}
    groups = dict.fromkeys((row["set"], row["distiller"], row["hazard"], row["strategy"]) for row in rows)
    print(f"| set | distiller | hazard | strategy | n | {part} top-1 | dose | difference to always (95 %) |")
    print("|---|---|---|---|---|---|---|---|")
    for name, distiller, hazard, strategy in sorted(groups):
        keys = [key for key in scores if (key[0], key[2], key[4], key[3]) == (name, distiller, hazard, strategy)]
        mine = [scores[key] for key in keys]
        pairs = [(scores[key], scores.get((*key[:3], "always", key[4]))) for key in keys]
        apart = [x - y for x, y in pairs if y is not None]
        told = ""
        if strategy != "always" and len(apart) > 1:
            half = stats.t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5
            told = f"{statistics.mean(apart):+.2f} ± {half:.2f} (n = {len(apart)})"
        spread = f" ± {statistics.stdev(mine):.2f}" if len(mine) > 1 else ""
        dose, mean = statistics.mean(doses[key] for key in keys), statistics.mean(mine)
        row = (name, distiller or "-", hazard, strategy, len(mine), f"{mean:.2f}{spread}", f"{dose:.2f}", told)
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--files", type=Path, default=Path(), help="folder of glyph94.npz and emoji.npz")
    parser.add_argument("--sets", nargs="+", default=["emoji", "glyph94"])
    parser.add_argument("--distillers", nargs="+", default=["at", "sp"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of every set; each has its own number otherwise")
    parser.add_argument("--schedule", default="onecycle", choices=["onecycle", "multistep"])
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--part", default="val", choices=["val", "test"])
    arguments = parser.parse_args()
    if arguments.table:
        print_table(read_rows(arguments.out / "results.csv"), arguments.part)
    else:
        (arguments.out / "taken").mkdir(parents=True, exist_ok=True)
        for left in (arguments.out / "taken").iterdir():  # by workers that were stopped
            left.unlink()
        end = time.time() + 60 * arguments.minutes
        context = get_context("spawn")
        processes = [context.Process(target=work, args=(arguments, end)) for _ in range(arguments.workers)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
