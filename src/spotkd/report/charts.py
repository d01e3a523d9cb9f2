"""What a figure shows, on the page and for papers, and its geometry on the page.

The page's charts are SVG that is drawn here, with the table of their numbers behind them; a few lines of script add
hovering and toggles. That is crisp in print, light (kilobytes, where a chart library takes megabytes in every page),
follows the colours of the page, and can be read by a screen reader and by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite

from matplotlib.ticker import MaxNLocator

from ..analysis.palette import MARKERS, LineStyle, line_style

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 24, 36  # margins
_MOST_MARKERS = 8  # points of a line that get a marker


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
        roles: what each line's run is, of :data:`ROLES`, which gives it its colour; empty for lines of one run.
        ranges: lowest and highest of several runs by name, as far as a line is their mean.
    """

    key: str
    title: str
    unit: str
    epochs: Sequence[int]
    lines: Mapping[str, Sequence[float | None]]
    share: bool = False
    note: str = ""
    roles: Sequence[str] = ()
    ranges: Mapping[str, Sequence[tuple[float, float] | None]] = field(default_factory=dict)

    @property
    def styles(self) -> list[LineStyle]:
        """The style of each line, on the page and on paper."""
        return [line_style(number, self.roles[number] if self.roles else None) for number in range(len(self.lines))]


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
    """A mark on an axis: its value, where it stands in the picture, and its label."""

    value: float
    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A line as it is drawn: its path, where its markers stand, its style, and the area between lowest and highest."""

    name: str
    path: str
    marks: list[tuple[float, float]]
    colour: int
    dash: str
    marker: str
    area: str


class Drawing:
    """A chart's axes, which the page and figures for papers share, and its geometry in a picture of the page.

    The vertical axis ends at ticks, so that no value lies outside of the grid.
    """

    def __init__(self, chart: LineChart) -> None:
        self.chart = chart
        values = [v for line in chart.lines.values() for v in line if v is not None and isfinite(v)]
        values += [v for line in chart.ranges.values() for pair in line if pair is not None for v in pair]
        ticks = value_ticks(values or [0.0], chart.share)
        self.low, self.high = ticks[0], ticks[-1]
        self.first, self.last = min(chart.epochs), max(chart.epochs)
        texts = label_ticks([100 * t for t in ticks] if chart.share else ticks)
        self.y_ticks = [
            Tick(t, self.y(t), f"{text} %" if chart.share else text) for t, text in zip(ticks, texts, strict=True)
        ]
        whole = MaxNLocator(5, integer=True).tick_values(self.first, self.last)
        self.x_ticks = [Tick(t, self.x(t), f"{t:.0f}") for t in whole if self.first <= t <= self.last and t == int(t)]
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
        style = self.chart.styles[number]
        dash, (_, marker) = " ".join(f"{length:g}" for length in style.dash), MARKERS[style.marker]
        return Curve(name, "".join(path), marks, style.colour, dash, marker, self._area(name))

    def _area(self, name: str) -> str:
        """From the lowest to the highest values of a line's runs; empty where there is one run."""
        pairs = zip(self.chart.epochs, self.chart.ranges.get(name, ()), strict=False)
        found = [(self.x(epoch), self.y(pair[0]), self.y(pair[1])) for epoch, pair in pairs if pair is not None]
        there = [f"{x} {low}" for x, low, _ in found]
        back = [f"{x} {high}" for x, _, high in reversed(found)]
        return f"M{'L'.join(there + back)}z" if found else ""


def value_ticks(values: Sequence[float], share: bool = False) -> list[float]:
    """Round numbers of which the first and the last enclose all values; from 0 where that is near."""
    low, high = (0.0, 1.0) if share else (min(values), max(values))
    if 0 <= low < 0.5 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        air = 0.05 * abs(high) or 1.0
        low, high = low - air, high + air
    return [float(t) for t in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def label_ticks(ticks: Sequence[float]) -> list[str]:
    """Labels that say exactly these numbers, with equally many decimals; very small and large ones as powers of ten."""
    step = ticks[1] - ticks[0]
    size = max(map(abs, ticks))
    if size >= 1e5 or size < 1e-3:
        return [f"{0.0 if abs(t) < 1e-6 * step else t:.6g}" for t in ticks]
    digits = next(d for d in range(12) if all(abs(round(t, d) - t) <= 1e-6 * step for t in ticks))
    return [f"{round(t, digits) + 0.0:.{digits}f}" for t in ticks]


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    chosen = [round(i * (count - 1) / (most - 1)) for i in range(most)]
    assert all(a < b for a, b in pairwise(chosen))
    return chosen
