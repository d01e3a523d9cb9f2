"""The page's figures for papers: PNG and SVG by matplotlib, readable without colour."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..analysis.palette import COLOURS, MARKERS, ROLES, line_style
from ..errors import SpotkdError
from ..escaping import escape_terminal
from ..files import atomic_write
from ..untrusted.images import ignore_warnings
from .charts import Drawing, HeatMap, LineChart, evenly_spaced
from .intervals import IntervalChart, IntervalDrawing

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "svg.hashsalt": "spotkd",  # the same figure gives the same file
    "text.parse_math": False,  # a name may hold dollar signs
}
_MOST_LETTERS = 24  # of a name, beyond which it crowds out the figure
_BLOCK_ROWS = 24  # of a heat map, which stand one below the other
_MOST_ROWS = 96  # beyond which a page of a paper cannot show them


Figures = Iterable[LineChart | HeatMap | IntervalChart]


def write_figures(figures: Figures, folder: Path) -> int:
    """Write every figure as ``KEY.png`` and ``KEY.svg``, and say how many there are.

    Raises:
        SpotkdError: the folder cannot be written to.
    """
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for content in figures:
            with ignore_warnings(), rc_context(_STYLE):  # type: ignore[arg-type]  # the stubs list the keys one by one
                figure = _draw(content)
                name = re.sub(r"[^A-Za-z0-9_.]+", "-", content.key)
                for ending, extra in (("png", {"Software": None}), ("svg", {"Date": None})):
                    with atomic_write(folder / f"{name}.{ending}") as path:
                        figure.savefig(path, format=ending, metadata=extra)
            count += 1
    except OSError as error:
        raise SpotkdError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return count


def _draw(content: LineChart | HeatMap | IntervalChart) -> Figure:
    if isinstance(content, LineChart):
        return _draw_lines(content)
    return _draw_heat_map(content) if isinstance(content, HeatMap) else _draw_intervals(content)


def _draw_intervals(chart: IntervalChart) -> Figure:
    drawing = IntervalDrawing(chart)
    figure = Figure(figsize=(4.6, 1.2 + 0.32 * len(chart.rows)), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=chart.title, xlabel="points of test accuracy")
    for place, (row, style) in enumerate(zip(chart.rows, map(line_style, range(len(chart.rows))), strict=True)):
        color, marker = COLOURS[ROLES.index(row.role)], MARKERS[style.marker][0]
        axes.plot(row.interval, (place, place), color=color, linewidth=1.4)
        axes.plot([row.difference], [place], color=color, marker=marker, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(drawing.low, drawing.high)
    axes.set_xticks([tick.value for tick in drawing.ticks], [tick.text for tick in drawing.ticks])
    axes.set_yticks(range(len(chart.rows)), [_shorten(row.label) for row in chart.rows])
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _draw_lines(chart: LineChart) -> Figure:
    figure = Figure(figsize=(4.6, 2.9), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=chart.title, xlabel="epoch", ylabel=chart.unit)
    drawing = Drawing(chart)
    for (name, values), style in zip(chart.lines.items(), chart.styles, strict=True):
        numbers = [np.nan if value is None else value for value in values]
        axes.plot(
            chart.epochs,
            numbers,
            label=_shorten(name),
            linewidth=1.4,
            markersize=4,
            markevery=max(1, len(values) // 10),
            **style.for_matplotlib,
        )
        if name in chart.ranges:
            low, high = zip(*((np.nan, np.nan) if pair is None else pair for pair in chart.ranges[name]), strict=True)
            axes.fill_between(chart.epochs, low, high, color=COLOURS[style.colour], alpha=0.15, linewidth=0)
    axes.set_ylim(drawing.low, drawing.high)
    axes.set_yticks([tick.value for tick in drawing.y_ticks], [tick.text for tick in drawing.y_ticks])
    axes.set_xticks([tick.value for tick in drawing.x_ticks], [tick.text for tick in drawing.x_ticks])
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _draw_heat_map(heat: HeatMap) -> Figure:
    """Black is 1 and white 0; many rows stand in blocks side by side, and few enough columns carry their numbers."""
    rows = evenly_spaced(len(heat.rows), _MOST_ROWS)
    blocks = [rows[i : i + _BLOCK_ROWS] for i in range(0, len(rows), _BLOCK_ROWS)]
    names = [_shorten(name) for name in heat.rows]
    width = len(heat.columns)
    inches = 0.3 + 0.075 * max(map(len, names)) + min(6.0, 0.4 * width)
    figure = Figure(figsize=(len(blocks) * inches + 1.2, 1.5 + 0.16 * len(blocks[0])), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    part = f" ({len(rows)} of {len(heat.rows)})" if len(rows) < len(heat.rows) else ""
    figure.suptitle(heat.title + part, x=0.02, ha="left", fontsize=9)
    columns = evenly_spaced(width, 12)
    for number, block in enumerate(blocks):
        values = np.array([[np.nan if v is None else v for v in heat.values[row]] for row in block], dtype=float)
        axes = figure.add_subplot(1, len(blocks), number + 1, xlabel=heat.corner[1])
        image = axes.imshow(values, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_xticks(columns, [_shorten(heat.columns[i]) for i in columns], rotation=45 if len(blocks) > 1 else 0)
        axes.set_yticks(range(len(block)), [names[row] for row in block], fontsize=7 if len(block) > 12 else 9)
        axes.set_ylim(len(blocks[0]) - 0.5, -0.5)
        if width <= 12:
            for (y, x), value in np.ndenumerate(values):
                if not np.isnan(value):
                    ink = "white" if value > 0.55 else "black"
                    axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=ink)
    figure.axes[0].set_ylabel(heat.corner[0])
    figure.colorbar(image, ax=figure.axes, format=PercentFormatter(1), shrink=0.8)
    return figure


def _shorten(name: str) -> str:
    name = escape_terminal(name)
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
