"""Differences with their intervals as a chart: what lies to the right of 0 helped, what crosses it is not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..analysis.palette import ROLES
from .charts import LEFT, RIGHT, TOP, WIDTH, Tick, label_ticks, value_ticks
from .effects import Effect
from .groups import Group

_ROW, _FOOT = 38, 34  # heights of a row and of what stands below the last one
_MOST_LETTERS = 54  # of a label, beyond which it leaves the picture


@dataclass(frozen=True)
class IntervalRow:
    """A difference: what is compared with what, its value and its 95 % interval, and the role of the former."""

    label: str
    difference: float
    interval: tuple[float, float]
    role: str


@dataclass(frozen=True)
class IntervalChart:
    """Differences of accuracies in points.

    Attributes:
        key: names its files.
        title: what it shows.
        rows: from the top.
        note: what to know about it.
    """

    key: str
    title: str
    rows: Sequence[IntervalRow]
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A row as it is drawn: where its line runs, where its mark stands, and its colour."""

    row: IntervalRow
    text: str
    y: float
    low: float
    middle: float
    high: float
    colour: int


class IntervalDrawing:
    """The geometry of an interval chart, whose axis encloses all intervals and 0."""

    def __init__(self, chart: IntervalChart) -> None:
        self.height = TOP + _ROW * len(chart.rows) + _FOOT
        values = [0.0, *(value for row in chart.rows for value in (row.difference, *row.interval))]
        ticks = value_ticks(values)
        self.low, self.high = ticks[0], ticks[-1]
        self.ticks = [Tick(t, self.x(t), text) for t, text in zip(ticks, label_ticks(ticks), strict=True)]
        self.zero = self.x(0.0)
        self.bars = [self._bar(number, row) for number, row in enumerate(chart.rows)]

    def x(self, value: float) -> float:
        left = LEFT // 2
        return round(left + (WIDTH - RIGHT - left) * (value - self.low) / (self.high - self.low), 1)

    def _bar(self, number: int, row: IntervalRow) -> Bar:
        low, high = row.interval
        text = row.label if len(row.label) <= _MOST_LETTERS else f"{row.label[: _MOST_LETTERS - 1]}…"
        place = TOP + _ROW * number + 24
        return Bar(row, text, place, self.x(low), self.x(row.difference), self.x(high), ROLES.index(row.role))


def interval_chart(groups: Sequence[Group], effects: Mapping[str, Sequence[Effect]]) -> IntervalChart | None:
    """Each configuration beside its controls; None where no difference has an interval."""
    rows = [
        IntervalRow(f"{group.name} vs {effect.control.group.name}", effect.difference, effect.interval, group.role)
        for group in groups
        for effect in effects.get(group.name, ())
        if effect.interval is not None
    ]
    note = "Points of test accuracy. A line that crosses 0 shows no clear difference."
    return IntervalChart("differences", "Differences and their 95 % intervals", rows, note) if rows else None
