"""How the time of a SAKD step grows: with the batch, the spots, either network, CRD's negatives and the classes.

    python benchmarks/scaling.py                                     # the picture in the docs and its figures
    python benchmarks/scaling.py --only batch spots --rounds 3 --csv scaling.csv --picture scaling.png
    python benchmarks/scaling.py --device cuda --precision bf16-mixed

One quantity is varied at a time, and all its steps live in one process and take turns, so that a drift of the machine's
speed meets all. Each is fitted twice to the medians of the rounds:

- the slope in a log-log plot: 1 is linear growth, less is better. What does not grow flattens it;
- the line ``t = a + b n``, by relative errors, which has that constant in it. Growth faster than linear shows as a last
  slope (between the two largest ``n``) above 1, or as ``a`` below 0.

Spots are blocks: both networks are cut into nine stages of one block (three of the teacher's) each, the first always
among the spots, so that the routing networks are equally long. The size of a network is what its forward pass computes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common import SHAPE, Step, a_batch, in_turn
from spotkd import Batch, SpotKD, create_model, fold_batchnorm
from spotkd.runtime.device import choose_precision
from spotkd.stages import StagedModel
from step import SAMPLES, SHIPPED, shipped

HERE = Path(__file__).parent
BLOCKS = 9  # of resnet20


@dataclass(frozen=True)
class Setting:
    """A step."""

    teacher: str = "resnet56"
    student: str = "resnet20"
    distiller: str = "at"
    batch: int = 64
    classes: int = 100
    spots: int | None = None  # so many, of networks that are cut into blocks; None for the distiller's own
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """One quantity and the steps in which it varies."""

    title: str
    unit: str
    points: dict[float, Setting]


def operations(name: str) -> float:
    """Millions of operations of a forward pass of one image, two a multiplication."""
    model = create_model(name, 100).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *SHAPE))
    return float(counter.get_total_flops()) / 1e6


def axes() -> dict[str, Callable[[], Axis]]:
    usual, small = Setting(), Setting("resnet20", "resnet8")
    crd = replace(small, distiller="crd")
    depths = (8, 14, 20, 32, 44, 56)

    def of(values: Sequence[int], change: Callable[[int], Setting]) -> dict[float, Setting]:
        return {float(n): change(n) for n in values}

    return {
        "batch": lambda: Axis("batch size", "images", of((16, 32, 64, 128, 256), lambda n: replace(usual, batch=n))),
        "spots": lambda: Axis("spots of AT", "spots", of((1, 2, 3, 5, 9), lambda n: replace(usual, spots=n))),
        "student": lambda: Axis(
            "size of the student",
            "MFLOP forward, resnet8 to resnet56",
            {operations(f"resnet{d}"): replace(usual, student=f"resnet{d}") for d in depths},
        ),
        "teacher": lambda: Axis(
            "size of the teacher",
            "MFLOP forward, resnet20 to resnet110",
            {operations(f"resnet{d}"): replace(usual, teacher=f"resnet{d}") for d in (*depths[2:], 110)},
        ),
        "negatives": lambda: Axis(
            "negatives of CRD",
            "negatives",
            of((256, 1024, 4096, 8192, 16384), lambda n: replace(crd, options={"negatives": n})),
        ),
        "classes": lambda: Axis(
            "classes", "classes", of((10, 30, 100, 300, 1000), lambda n: replace(small, classes=n))
        ),
    }


class InBlocks(StagedModel):
    """A ResNet for CIFAR whose blocks, after the stem, make nine stages of equally many."""

    stage_names = ("stem", *(f"block{i}" for i in range(1, BLOCKS + 1)), "pool", "linear")

    def __init__(self, network: StagedModel) -> None:
        super().__init__()
        self.network = network

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        stem, *_, pool, linear = self.network.stages()
        blocks = [block for group in ("layer1", "layer2", "layer3") for block in getattr(self.network, group)]
        each = len(blocks) // BLOCKS
        return (stem, *(nn.Sequential(*blocks[i : i + each]) for i in range(0, len(blocks), each)), pool, linear)


def step_of(setting: Setting, device: str, precision: str) -> Step:
    torch.manual_seed(0)
    teacher, student = (create_model(name, setting.classes) for name in (setting.teacher, setting.student))
    spots = None
    if setting.spots is not None:
        teacher, student = InBlocks(teacher), InBlocks(student)
        spots = [(i, i) for i in np.linspace(1, BLOCKS, setting.spots).astype(int).tolist()]
    method = SpotKD(
        fold_batchnorm(teacher, SHAPE).model.to(device),
        student.to(device),
        setting.distiller,
        image_shape=SHAPE,
        labels=torch.arange(SAMPLES, device=device) % setting.classes,
        policy_bias=1.0,
        spots=spots,
        options=setting.options,
    ).train()
    method.to(memory_format=SHIPPED.layout)  # type: ignore[call-overload]
    images, _, indices = a_batch(SAMPLES, setting.batch, device)
    assert indices is not None
    return shipped(method, Batch(images, indices % setting.classes, indices), precision)


@dataclass(frozen=True)
class Fit:
    """What the medians of the rounds say."""

    slope: float
    constant: float  # ms
    per_unit: float  # ms
    off: float  # largest relative deviation from the line
    last: float  # slope between the two largest

    @classmethod
    def of(cls, n: np.ndarray, ms: np.ndarray) -> Fit:
        per_unit, constant = np.polyfit(n, ms, 1, w=1 / ms)
        off = np.abs((constant + per_unit * n) / ms - 1).max()
        slopes = np.diff(np.log(ms)) / np.diff(np.log(n))
        return cls(float(np.polyfit(np.log(n), np.log(ms), 1)[0]), constant, per_unit, float(off), float(slopes[-1]))


def row(axis: Axis, rounds: np.ndarray) -> str:
    """A row of the table, from ``(rounds, points)`` milliseconds."""
    n, ms = np.array(list(axis.points)), np.median(rounds, axis=0)
    fit, each = Fit.of(n, ms), [Fit.of(n, one) for one in rounds]
    slopes, lasts = sorted(f.slope for f in each), sorted(f.last for f in each)
    return (
        f"| {axis.title} | {n[0]:.4g} to {n[-1]:.4g} | {ms[0]:.0f} to {ms[-1]:.0f} "
        f"| {fit.slope:.2f} ({slopes[0]:.2f} to {slopes[-1]:.2f}) | {fit.last:.2f} ({lasts[0]:.2f} to {lasts[-1]:.2f}) "
        f"| {fit.constant:.0f} + {fit.per_unit:.2g} n | {fit.off:.0%} |"
    )


def draw(axis: Axis, rounds: np.ndarray, panel: Axes) -> None:
    n, ms = np.array(list(axis.points)), np.median(rounds, axis=0)
    fit = Fit.of(n, ms)
    line = np.geomspace(n[0], n[-1])
    spread = np.abs(np.stack([rounds.min(0), rounds.max(0)]) - ms)
    panel.errorbar(n, ms, spread, fmt="o", color="#0072B2", markersize=5, capsize=3, label="measured", zorder=3)
    panel.plot(line, fit.constant + fit.per_unit * line, "--", color="#D55E00", label="a + b n")
    panel.plot(line, ms[-1] * line / n[-1], ":", color="0.5", label="proportional")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_ylim(min(ms[0], rounds.min()) / 2, 1.4 * rounds.max())
    panel.set_title(f"{axis.title}: slope {fit.slope:.2f}", loc="left", fontsize=10)
    panel.set_xlabel(axis.unit)
    panel.set_xticks(n, [f"{value:.0f}" for value in n], rotation=30)
    for set_formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:.0f}" if f"{value:.0e}"[0] in "1235" else ""))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = axes()
    parser.add_argument("--only", nargs="+", default=list(known), choices=list(known), metavar="AXIS")
    parser.add_argument("--precision", choices=["auto", "32", "bf16-mixed"], default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "scaling.csv")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "assets" / "scaling.png")
    arguments = parser.parse_args()
    device, precision = arguments.device, choose_precision(arguments.precision, torch.device(arguments.device))
    print(f"{device}, {precision}, torch {torch.__version__}, {arguments.rounds} rounds.\n")
    print("| growing | n | ms | log-log slope | last slope | a + b n, ms | off by at most |\n" + 7 * "|---" + "|")
    rows: list[tuple[str, float, int, float]] = []
    columns = min(3, len(arguments.only))
    lines = -(-len(arguments.only) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.1 * lines), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, key in zip(panels, arguments.only, strict=False):
        axis = known[key]()
        steps = {str(n): step_of(setting, device, precision) for n, setting in axis.points.items()}
        times = in_turn(steps, arguments.rounds, device)
        rows += [(key, float(n), turn, ms) for n, own in times.items() for turn, ms in enumerate(own, 1)]
        rounds = np.array(list(times.values())).T
        print(row(axis, rounds), flush=True)
        draw(axis, rounds, panel)
    for panel in panels[len(arguments.only) :]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("ms a step")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(arguments.picture)
    with arguments.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("axis", "n", "round", "ms"))
        writer.writerows((key, f"{n:g}", turn, f"{ms:.2f}") for key, n, turn, ms in rows)


if __name__ == "__main__":
    main()
