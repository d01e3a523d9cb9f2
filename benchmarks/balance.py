"""Which rule for the weight of a distiller does least harm: students of many distillers under each, on several sets.

    python benchmarks/balance.py --out runs/balance --seeds 3 --workers 2 --minutes 60
    python benchmarks/balance.py --out runs/balance --table

Every cell is one student: a data set, a seed, a distiller and a rule. The cells are in an order in which every prefix
is a smaller study; workers take them one after the other and append a row to ``results.csv``. A study that was stopped
goes on with the cells that have no row yet, beside the weights of its teachers; one command at a time uses a folder. A
fifth of the training images is held out to choose on (``val``); test images are only counted. Needs PyTorch, NumPy and
safetensors; the table needs SciPy.

Rules, all on the gradients that the distiller sends into the student (:mod:`spotkd.balance`): ``none``, the published
weight; ``lower``, at most kappa times the pull of labels and logits; ``both``, kappa times it; ``ratio``, a loss
of at most kappa times that of labels and logits; ``uncertainty``, a learnt weight (Kendall et al., 2018).
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balance_table import print_tables, read_rows
from spotkd.balance import EVERY, Balance
from spotkd.method import SpotKD
from spotkd.models import create_model
from spotkd.stages import Batch, StagedModel
from spotkd.staging import stage

DISTILLERS = (
    "at", "fitnet", "sp", "rkd", "cc", "pkt", "vid", "nst", "reviewkd", "dist", "dkd", "crd", "ofd", "ab", "ft", "fsp",
    "kdsvd",
)  # fmt: skip
BATCH = 64
SETS: dict[str, tuple[int, int]] = {"emoji10": (60, 32), "emoji": (20, 16), "glyph94": (20, 16), "digits": (20, 16)}


class Cell(NamedTuple):
    """One student; a teacher where there is no distiller and ``rule`` says so."""

    set: str
    seed: int
    distiller: str
    rule: str
    kappa: float


class Images(NamedTuple):
    """A data set on the device: normalised images of three parts, and their labels."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    flips: bool


def load(name: str, files: Path, device: torch.device, is_large: bool = False) -> Images:
    """Read ``glyph94.npz``, ``emoji.npz`` or ``digits.npz`` in a folder; ``emoji10`` is a small set out of emoji.

    With ``is_large`` all training images of the classes of emoji10 that it does not use are validation images, too.
    """
    found = np.load(files / f"{name.removesuffix('10') if name == 'emoji10' else name}.npz")
    x, y, x_test, y_test = (found[key] for key in ("train_images", "train_labels", "test_images", "test_labels"))
    dice = np.random.default_rng(0)
    if name == "glyph94":
        x, y = x[: 94 * 100], y[: 94 * 100]
    if name == "emoji10":
        counts = np.bincount(y)
        chosen = np.argsort(-counts)[:10]
        parts = []
        for images, labels, part in ((x, y, slice(120)), (x_test, y_test, slice(60)), (x, y, slice(120, None))):
            picked = np.concatenate([np.flatnonzero(labels == label)[part] for label in chosen])
            renamed = np.searchsorted(np.sort(chosen), labels[picked])
            parts += [images[picked], renamed]
        x, y, x_test, y_test, *unused = parts
    size = SETS[name][1]

    def tensors(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255
        pixels = pixels[:, None] if pixels.dim() == 3 else pixels
        return F.adaptive_avg_pool2d(pixels, size).expand(-1, 3, -1, -1), torch.from_numpy(labels.astype(np.int64)).to(
            device
        )

    order = dice.permutation(len(y))
    held = len(y) // 5
    train, val = tensors(x[order[held:]], y[order[held:]]), tensors(x[order[:held]], y[order[:held]])
    test = tensors(x_test, y_test)
    if name == "emoji10" and is_large:
        val = tuple(map(torch.cat, zip(val, tensors(*unused), strict=True)))  # type: ignore[assignment]
    mean, std = train[0].mean((0, 2, 3), keepdim=True), train[0].std((0, 2, 3), keepdim=True)
    shown = [((images - mean) / std, labels) for images, labels in (train, val, test)]
    return Images(shown[0], shown[1], shown[2], int(y.max()) + 1, name.startswith("emoji"))


def small_network(widths: Sequence[int], classes: int) -> StagedModel:
    """Three convolutions, as a user's own network might be."""
    blocks = [
        nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in zip((3, *widths), widths, strict=False)
    ]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return stage(network, at=["0", "1", "2"], image_shape=(3, SETS["emoji10"][1], SETS["emoji10"][1]))


def networks(name: str, classes: int) -> tuple[StagedModel, StagedModel]:
    """Teacher and student of a set."""
    if name == "emoji10":
        return small_network((32, 64, 128), classes), small_network((8, 16, 32), classes)
    return create_model("resnet20", classes), create_model("resnet8", classes)


class Both(Balance):
    """Weights that may also be raised."""

    def limit(self, factors: Tensor) -> Tensor:
        return factors.clamp(max=1e4)


class Ratio(Balance):
    """A ratio of losses in place of one of gradients."""

    def measure(
        self, reference: Tensor, distiller: Tensor, features: Any, attached: Any, is_of_all: bool = False
    ) -> None:
        if self.training and torch.is_grad_enabled():
            if self._steps % EVERY == 0:
                ratio = self.kappa * reference.detach() / distiller.detach().abs().clamp(min=1e-12)
                self.weights.copy_(ratio.clamp(max=1.0).expand_as(self.weights))
            self._steps += 1


class Uncertainty(Balance):
    """``exp(-s) * L + s`` with a learnt ``s``, which takes steps of its own."""

    def measure(
        self, reference: Tensor, distiller: Tensor, features: Any, attached: Any, is_of_all: bool = False
    ) -> None:
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                log_variance = -self.weights.log()
                slope = 1 - self.weights * distiller.detach().abs()
                self.weights.copy_((-(log_variance - 0.05 * slope).clamp(-7, 14)).exp())


RULES: dict[str, type[Balance]] = {"lower": Balance, "both": Both, "ratio": Ratio, "uncertainty": Uncertainty}


def batches(images: Tensor, labels: Tensor, flips: bool, generator: torch.Generator) -> Iterator[Batch]:
    """One pass in random order, with random shifts of up to two pixels and, where it makes sense, mirrored."""
    order = torch.randperm(len(labels), generator=generator).to(images.device)
    for indices in order.split(BATCH):  # type: ignore[no-untyped-call]
        if len(indices) < 2:
            continue
        x = images[indices]
        dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
        x = torch.roll(F.pad(x, (2, 2, 2, 2)), (dy, dx), (2, 3))[:, :, 2:-2, 2:-2]
        if flips:
            flip = (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5).to(x.device)
            x = torch.where(flip, x.flip(3), x)
        yield Batch(x, labels[indices], indices)


@torch.inference_mode()
def accuracy(network: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    network.eval()
    found = torch.cat([network(x).argmax(1) for x in part[0].split(2048)])  # type: ignore[no-untyped-call]
    return 100 * float((found == part[1]).float().mean())


def fit(
    loss: Callable[[Batch], Tensor],
    module: nn.Module,
    parameters: Any,
    data: Images,
    epochs: int,
    chosen: Any,
    seed: int,
) -> None:
    """SGD under a one-cycle or the paper's schedule."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(data.train[1]) // BATCH)
    optimizer = torch.optim.SGD(parameters, lr=chosen.lr, momentum=0.9, weight_decay=5e-4)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if chosen.schedule == "onecycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, chosen.lr, total_steps=steps + 1, cycle_momentum=False
        )
    else:
        drops = [round(steps * share) for share in (5 / 8, 6 / 8, 7 / 8)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops)
    for epoch in range(1, epochs + 1):
        module.train()
        if isinstance(module, SpotKD):
            module.start_epoch(epoch, epochs)
        for batch in batches(*data.train, data.flips, generator):
            optimizer.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def train_cell(cell: Cell, data: Images, folder: Path, device: torch.device, chosen: Any) -> tuple[float, float]:
    """Accuracies on validation and test images."""
    torch.manual_seed(cell.seed)
    epochs = epochs_of(cell.set, chosen)
    teacher, student = (network.to(device) for network in networks(cell.set, data.classes))
    if not cell.distiller:
        network = teacher if cell.rule == "teacher" else student
        fit(
            lambda b: F.cross_entropy(network(b.images), b.labels),
            network,
            network.parameters(),
            data,
            epochs,
            chosen,
            cell.seed,
        )
        if cell.rule == "teacher":
            written = folder / f"teacher-{cell.set}.part"
            torch.save(network.state_dict(), written)
            written.replace(folder / f"teacher-{cell.set}.pt")
        return accuracy(network, data.val), accuracy(network, data.test)
    teacher.load_state_dict(torch.load(folder / f"teacher-{cell.set}.pt", map_location=device, weights_only=True))
    size = SETS[cell.set][1]
    options = {"negatives": 1024} if cell.distiller == "crd" else {}
    strategy = "adaptive" if cell.rule.startswith("adaptive") else "always"
    rule = cell.rule.removeprefix("adaptive-")
    method = SpotKD(
        teacher, student, cell.distiller, strategy, image_shape=(3, size, size), labels=data.train[1].cpu(),
        options=options, balanced=rule != "none",
    )  # fmt: skip
    if method.balance is not None:
        method.balance = RULES[rule](len(method.balance.weights), cell.kappa).to(device)
    if method.preparation is not None:
        _prepare(method, data, cell.seed)
    groups = method.parameter_groups(chosen.lr)
    fit(lambda b: method(b).total, method, groups, data, epochs, chosen, cell.seed)
    return accuracy(student, data.val), accuracy(student, data.test)


def _prepare(method: SpotKD, data: Images, seed: int) -> None:
    preparation, generator = method.preparation, torch.Generator().manual_seed(seed)
    assert preparation is not None
    with method.preparing() as parameters:
        optimizer = torch.optim.SGD(
            parameters, preparation.lr, preparation.momentum, weight_decay=preparation.weight_decay
        )
        for _ in range(3):
            for batch in batches(*data.train, data.flips, generator):
                optimizer.zero_grad()
                method.preparation_loss(batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def cells(chosen: argparse.Namespace) -> list[Cell]:
    """All of them: teachers first, then seed by seed, distiller by distiller, each under all rules on all sets."""
    rules = [(rule.partition(":")[0], float(rule.partition(":")[2] or 1)) for rule in chosen.rules]
    found = [Cell(name, 0, "", "teacher", 0.0) for name in chosen.sets]
    for seed in range(1, chosen.seeds + 1):
        found += [Cell(name, seed, distiller, "none", 1.0) for name in chosen.sets for distiller in ("", "kd")]
        found += [
            Cell(name, seed, distiller, rule, kappa)
            for distiller, (rule, kappa), name in product(chosen.distillers, rules, chosen.sets)
        ]
    return found


def epochs_of(name: str, chosen: argparse.Namespace) -> int:
    return int(chosen.epochs or SETS[name][0])


def missing_cells(chosen: argparse.Namespace) -> list[Cell]:
    """Those without a row of the same epochs, schedule and rate, and teachers without weights."""
    rows = read_rows(chosen.out / "results.csv")
    found = set()
    for row in rows:
        cell = Cell(row["set"], int(row["seed"]), row["distiller"], row["rule"], float(row["kappa"]))
        setting = (int(row["epochs"]), row["schedule"], float(row["lr"]))
        if setting == (epochs_of(cell.set, chosen) if cell.set in SETS else 0, chosen.schedule, chosen.lr):
            found.add(cell)
        elif cell.set in chosen.sets:
            raise SystemExit(f"{chosen.out} holds {cell.set} under {setting}: set these, or choose another --out")
    teachers = {name for name in chosen.sets if (chosen.out / f"teacher-{name}.pt").exists()}
    for cell in found:
        if cell.distiller and cell.set in chosen.sets and cell.set not in teachers:
            raise SystemExit(
                f"{chosen.out}/teacher-{cell.set}.pt is not there, which taught its students: another --out"
            )
    return [c for c in cells(chosen) if c not in found or (c.rule == "teacher" and c.set not in teachers)]


def work(number: int, chosen: argparse.Namespace, until: float) -> None:
    """Take cells that nobody has taken, until none is left or the time is over."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sets: dict[str, Images] = {}
    for cell in missing_cells(chosen):
        name = "-".join(str(part) for part in cell) + f"-{chosen.schedule}-{chosen.lr:g}"
        needed = chosen.out / f"teacher-{cell.set}.pt"
        if cell.distiller:
            while not needed.exists() and time.time() < until:
                time.sleep(0.5)
        if time.time() > until:
            return
        try:
            os.close(os.open(chosen.out / "taken" / name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if cell.set not in sets:
            sets[cell.set] = load(cell.set, chosen.files, device)
        started = time.time()
        try:
            val, test = train_cell(cell, sets[cell.set], chosen.out, device, chosen)
        except (ValueError, RuntimeError) as error:  # a distiller that these networks do not suit
            print(f"{cell}: {str(error)[:200]}", flush=True)
            continue
        row = (
            *cell,
            epochs_of(cell.set, chosen),
            chosen.schedule,
            chosen.lr,
            round(val, 3),
            round(test, 3),
            round(time.time() - started, 1),
        )
        with (chosen.out / "results.csv").open("a", newline="") as file:
            csv.writer(file).writerow(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/balance"))
    parser.add_argument("--files", type=Path, default=Path(), help="folder of glyph94.npz, emoji.npz and digits.npz")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--distillers", nargs="+", default=list(DISTILLERS))
    parser.add_argument(
        "--rules", nargs="+", default=["none", "lower:1", "lower:3", "lower:0.3", "both:1", "ratio:1", "uncertainty"]
    )
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
        print_tables(read_rows(arguments.out / "results.csv"), arguments.part)
    else:
        (arguments.out / "taken").mkdir(parents=True, exist_ok=True)
        missing_cells(arguments)  # an answer before the workers start
        for left in (arguments.out / "taken").iterdir():  # by workers that were stopped
            left.unlink()
        end = time.time() + 60 * arguments.minutes
        context = get_context("spawn")
        processes = [context.Process(target=work, args=(n, arguments, end)) for n in range(arguments.workers)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
