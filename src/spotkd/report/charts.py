"""What a figure shows, on the page and for papers, and its geometry on the page.

The page's charts are SVG that is drawn here, with the table of their numbers behind them; a few lines of script add
hovering and toggles. That is crisp in print, light (kilobytes, where a chart library takes megabytes in every page),
follows the colours of the page, and can be read by a screen reader and by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, log10

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 24, 36  # margins
STYLES = 6  # colours and markers, after which they begin again
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MARKERS = (  # around the origin
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "M-3-3h6v6h-6z",
    "M0-4L4 3H-4z",
    "M0-4.5L4.5 0L0 4.5L-4.5 0z",
    "M0 4L4-3H-4z",
    "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
)
_MOST_MARKERS = 10  # points of a line that get a marker


@dataclass(frozen=True)
class LineChart:
    """Lines over epochs.

    Attributes:
        key: names its files.
        title: what it shows.
        unit: of the vertical axis.
        epochs: where the lines have values.
        lines: values by name; None where a line has none.
        share: whether the axis runs from 0 to 1 and is written in percent.
        note: what to know about it.
    """

    key: str
    title: str
    unit: str
    epochs: Sequence[int]
    lines: Mapping[str, Sequence[float | None]]
    share: bool = False
    note: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Probabilities by row and column, from 0 to 1; None where there is none.

    Attributes:
        key: names its files.
        title: what it shows.
        corner: what the rows and the columns are.
        rows, columns: their names.
        values: a list a row.
        note: what to know about it.
    """

    key: str
    title: str
    corner: tuple[str, str]
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    note: str = ""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A line as it is drawn: its path, where its markers stand, and its style."""

    name: str
    path: str
    marks: list[tuple[float, float]]
    style: int
    dash: str
    marker: str


class Drawing:
    """A chart's geometry in a picture of ``WIDTH`` by ``HEIGHT``."""

    def __init__(self, chart: LineChart) -> None:
        self.chart = chart
        values = [v for line in chart.lines.values() for v in line if v is not None and isfinite(v)] or [0.0]
        self.low, self.high = (0.0, 1.0) if chart.share else _padded(min(values), max(values))
        self.first, self.last = min(chart.epochs), max(chart.epochs)
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        digits = max(0, -int(log10(max(ticks[1] - ticks[0], 1e-9)) - 0.999))
        inside = [float(t) for t in ticks if self.low - 1e-9 <= t <= self.high + 1e-9]
        self.y_ticks = [
            Tick(self.y(t), f"{t:.0%}".replace("%", " %") if chart.share else f"{t:.{digits}f}") for t in inside
        ]
        whole = MaxNLocator(6, integer=True).tick_values(self.first, self.last)
        self.x_ticks = [Tick(self.x(t), str(int(t))) for t in whole if self.first <= t <= self.last and t == int(t)]
        self.curves = [self._curve(number, name, line) for number, (name, line) in enumerate(chart.lines.items())]

    def x(self, epoch: float) -> float:
        inner = WIDTH - LEFT - RIGHT
        return round(
            LEFT + inner * ((epoch - self.first) / (self.last - self.first) if self.last > self.first else 0.5), 1
        )

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low), 1)

    def _curve(self, number: int, name: str, line: Sequence[float | None]) -> Curve:
        points = [
            None if value is None or not isfinite(value) else (self.x(epoch), self.y(value))
            for epoch, value in zip(self.chart.epochs, line, strict=True)
        ]
        path, pen = [], False
        for point in points:
            if point is not None:
                path.append(f"{'L' if pen else 'M'}{point[0]} {point[1]}")
            pen = point is not None
        step = max(1, -(-len(points) // _MOST_MARKERS))
        marks = [point for i, point in enumerate(points) if point is not None and i % step == number % step]
        style = number % STYLES
        return Curve(
            name, "".join(path), marks, style, DASHES[(number + number // STYLES) % len(DASHES)], MARKERS[style]
        )


def _padded(low: float, high: float) -> tuple[float, float]:
    """A range with some air; from 0 where that is near."""
    if 0 <= low < 0.5 * high:
        low = 0.0
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - (air if low else 0.0), high + air


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    chosen = [round(i * (count - 1) / (most - 1)) for i in range(most)]
    assert all(a < b for a, b in pairwise(chosen))
    return chosen
