"""One palette for every picture of runs: a colour by what a run is, marker and dash by its place among the lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What a run can be, the one of interest first; its colour has the same place in COLOURS.
ROLES = ("adaptive", "always", "kd", "alone", "teacher", "other")
# After Okabe and Ito: distinct with every common colour blindness, and dark enough for thin lines on white. The page's
# style sheet has the same ones, and lighter ones for a dark page.
COLOURS = ("#0072b2", "#c04e00", "#00805d", "#b0508a", "#946200", "#59636e")
MARKERS = (  # matplotlib's name, and a path around the origin
    ("o", "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z"),
    ("s", "M-3-3h6v6h-6z"),
    ("^", "M0-4L4 3H-4z"),
    ("D", "M0-4.5L4.5 0L0 4.5L-4.5 0z"),
    ("v", "M0 4L4-3H-4z"),
    ("P", "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z"),
)
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 3), (2, 3), (8, 3, 2, 3))  # lengths of strokes and gaps


@dataclass(frozen=True)
class LineStyle:
    """How one of several lines is drawn; without colour they differ in marker or dash, up to 24 of them.

    Attributes:
        colour: its place in :data:`COLOURS`.
        marker: its place in :data:`MARKERS`.
        dash: lengths of strokes and gaps; empty for a line without gaps.
    """

    colour: int
    marker: int
    dash: tuple[float, ...]

    @property
    def for_matplotlib(self) -> dict[str, Any]:
        """Arguments of ``Axes.plot``."""
        dash = (0, tuple(length / 2 for length in self.dash)) if self.dash else "-"
        return {"color": COLOURS[self.colour], "marker": MARKERS[self.marker][0], "linestyle": dash}


def line_style(number: int, role: str | None = None) -> LineStyle:
    """The style of the line of that number, in the colour of a role where it has one."""
    colour = number % len(COLOURS) if role is None else ROLES.index(role)
    dash = DASHES[(number + number // len(MARKERS)) % len(DASHES)]
    return LineStyle(colour, number % len(MARKERS), dash)
