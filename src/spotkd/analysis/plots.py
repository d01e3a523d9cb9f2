"""Pictures for people: one style, readable without colour (every line has its own marker and dash)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from ..data import EpochSpec, Split
from ..errors import SpotkdError
from .palette import line_style


def _axes(title: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _lines(axes: Axes, curves: Mapping[str, Sequence[float]], roles: Sequence[str | None] = ()) -> None:
    for number, (name, values) in enumerate(curves.items()):
        style = line_style(number, roles[number] if roles else None).for_matplotlib
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.8, markersize=5, **style)


def plot_accuracy(curves: Mapping[str, Sequence[float]], path: str | Path, roles: Sequence[str | None] = ()) -> None:
    """Test accuracy in percent by epoch, a line a run; with ``roles``, of :data:`ROLES`, in the colours of the page."""
    figure, axes = _axes("Test accuracy of the student by epoch", "top-1 (%)")
    _lines(axes, curves, roles)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(Path(path))


def plot_shares(curves: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """Share of training samples distilled at each spot (0 to 1) by epoch, a line a spot."""
    figure, axes = _axes("Samples distilled at each spot by epoch", "share of the training samples")
    _lines(axes, curves)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False, title="spot", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(Path(path))


def plot_decisions(
    split: Split, probability: Tensor, spots: Sequence[str], path: str | Path, count: int = 16, per_class: int = 2
) -> None:
    """A sheet of the images with the highest and the lowest P(teacher) at each spot.

    Args:
        split: ``N`` images and their labels.
        probability: ``(N, len(spots))`` P(teacher).
        spots: names of the columns.
        path: where to write the picture.
        count: images a row.
        per_class: at most so many images of a class stand in a row, so that one class does not fill it.
    """
    labels = split.labels
    if labels is None:
        raise SpotkdError("no picture of decisions: the images stream by and cannot be picked")
    count = min(count, per_class * len(set(labels.tolist())))
    figure = Figure(figsize=(0.52 * count + 2.4, 1.42 * len(spots) + 0.75), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    title = f"Where the policy sends test images: P(teacher) below each, at most {per_class} of a class in a row"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    panels = figure.subfigures(len(spots), 1, squeeze=False)[:, 0]
    for panel, spot, column in zip(panels, spots, probability.unbind(1), strict=True):
        rows = panel.subplots(2, count, squeeze=False)
        for cells, most in zip(rows, (True, False), strict=True):
            chosen = first_of_each_class(column.argsort(descending=most, stable=True), labels, per_class)[:count]
            pictures, _, _ = next(split.subset(torch.tensor(chosen)).batches(EpochSpec(count)))
            for cell, index, picture in zip(cells, chosen, pictures, strict=True):
                cell.imshow(np.squeeze(picture.permute(1, 2, 0).numpy()), cmap="gray", vmin=0, vmax=255)
                cell.set_xticks([])
                cell.set_yticks([])
                cell.set_xlabel(f"{column[index]:.2f}", fontsize=6, labelpad=1)
            side = "most to the teacher" if most else "most to the student"
            if column.max() - column.min() < 0.01:
                side = "(all the same)"
            cells[0].set_ylabel(f"{spot}\n{side}", rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(Path(path))


def first_of_each_class(order: Tensor, labels: Tensor, per_class: int) -> list[int]:
    """The indices in ``order`` without those of a class that has already been named ``per_class`` times."""
    seen: Counter[int] = Counter()
    kept = []
    for index, label in zip(order.tolist(), labels[order].tolist(), strict=True):
        seen[label] += 1
        if seen[label] <= per_class:
            kept.append(index)
    return kept
