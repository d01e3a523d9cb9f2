"""Axes tell the truth: every label is its value, nothing lies outside of the grid, and lines differ without colour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotkd.analysis.palette import COLOURS, MARKERS, ROLES, line_style
from spotkd.report.charts import BOTTOM, HEIGHT, TOP, Drawing, LineChart
from spotkd.report.figures import _draw_intervals, _draw_lines
from spotkd.report.intervals import IntervalChart, IntervalDrawing, IntervalRow

STYLE = Path(__file__).parents[2] / "src" / "spotkd" / "templates" / "page.css"
sizes = st.floats(-12, 12).map(lambda power: 10.0**power)
values = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=8)


def drawn(line: list[float], share: bool = False) -> Drawing:
    return Drawing(LineChart("k", "t", "u", list(range(1, len(line) + 1)), {"a": line}, share))


@settings(deadline=None)
@given(values, sizes)
def test_labels_are_their_values_and_enclose_the_data(line: list[float], size: float) -> None:
    line = [size * value for value in line]
    drawing = drawn(line)
    step = drawing.y_ticks[1].value - drawing.y_ticks[0].value
    for tick in drawing.y_ticks:
        assert float(tick.text) == pytest.approx(tick.value, abs=1e-3 * step)
    assert len({tick.text for tick in drawing.y_ticks}) == len(drawing.y_ticks)
    assert drawing.y_ticks[0].value <= min(line) + 1e-9 * step
    assert drawing.y_ticks[-1].value >= max(line) - 1e-9 * step
    for _, y in drawing.curves[0].marks:
        assert TOP <= y <= HEIGHT - BOTTOM


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ([0.3, 11.7], ["0.0", "2.5", "5.0", "7.5", "10.0", "12.5"]),
        ([0.1, 1.19], ["0.00", "0.25", "0.50", "0.75", "1.00", "1.25"]),
        ([0.0, 0.0005], ["0", "0.0001", "0.0002", "0.0003", "0.0004", "0.0005"]),
    ],
)
def test_steps_of_a_quarter_are_not_rounded(line: list[float], labels: list[str]) -> None:
    assert [tick.text for tick in drawn(line).y_ticks] == labels


def test_ranges_of_seeds_lie_inside() -> None:
    chart = LineChart("k", "t", "u", [1, 2], {"a": [5.0, 6.0]}, ranges={"a": [(1.0, 9.0), (2.0, 11.0)]})
    drawing = Drawing(chart)
    assert drawing.low <= 1
    assert drawing.high >= 11
    assert drawing.curves[0].area.count("L") == 3


def test_intervals_lie_inside_and_labels_are_their_values() -> None:
    rows = [IntervalRow("a vs b", 1.2, (0.4, 2.0), "adaptive"), IntervalRow("c" * 99, -7.5, (-11.0, -4.0), "kd")]
    drawing = IntervalDrawing(IntervalChart("k", "t", rows))
    assert drawing.low <= -11
    assert drawing.high >= 2
    for tick in drawing.ticks:
        assert float(tick.text) == pytest.approx(tick.value)
        assert tick.at == drawing.x(tick.value)
    first, second = drawing.bars
    assert drawing.zero < first.low < first.middle < first.high <= drawing.ticks[-1].at
    assert drawing.ticks[0].at <= second.low < second.high < drawing.zero
    assert second.text.endswith("…")
    axes = _draw_intervals(IntervalChart("k", "t", rows)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [tick.text for tick in drawing.ticks]


def test_figures_for_papers_have_the_axes_of_the_page() -> None:
    chart = LineChart("k", "t", "u", [1, 2, 3], {"a": [0.3, 9.7, 5.0], "b": [1.0, 2.0, 3.0]}, roles=["kd", "alone"])
    axes, drawing = _draw_lines(chart).axes[0], Drawing(chart)
    assert [label.get_text() for label in axes.get_yticklabels()] == [tick.text for tick in drawing.y_ticks]
    assert axes.get_ylim() == (drawing.low, drawing.high)
    assert [line.get_color() for line in axes.get_lines()] == [COLOURS[2], COLOURS[3]]


def test_twelve_lines_differ_without_colour() -> None:
    styles = [line_style(number, "adaptive") for number in range(12)]
    assert len({(style.marker, style.dash) for style in styles}) == 12
    assert {style.colour for style in styles} == {ROLES.index("adaptive")}


def test_the_page_has_the_colours_of_the_palette() -> None:
    light = re.search(r"--c0:.*", STYLE.read_text(encoding="utf-8"))
    assert light is not None
    assert tuple(re.findall(r"--c\d: (#\w+);", light[0])) == COLOURS
    assert len(COLOURS) == len(ROLES) == len(MARKERS)
