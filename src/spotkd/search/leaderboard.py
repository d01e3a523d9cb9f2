"""The runs of a search in the order of their accuracy, for a terminal and as a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..escaping import escape_terminal
from ..files import atomic_write
from ..options import DistillOptions
from .space import describe
from .study import Study

FILE = "leaderboard.md"
_HEAD = ("place", "run", "validation top-1 (%)", "what")
_SHOWN = 10  # in a terminal


def leaderboard(study: Study, base: DistillOptions) -> list[tuple[str, ...]]:
    """A row for each complete run, the best first."""
    return [
        (str(place), str(trial.number), f"{trial.value:.2f}", describe(base, trial.params))
        for place, trial in enumerate(study.ranked, 1)
    ]


def leaderboard_table(study: Study, base: DistillOptions) -> Table:
    """The best runs so far."""
    table = Table(*_HEAD)
    for row in leaderboard(study, base)[:_SHOWN]:
        table.add_row(*(escape(escape_terminal(cell)) for cell in row))
    return table


def write_leaderboard(folder: Path, study: Study, base: DistillOptions) -> Iterator[str]:
    """Write all complete runs as a table in Markdown.

    Yields:
        A line about the file.
    """
    rows = leaderboard(study, base)
    lines = ["| " + " | ".join(cells) + " |" for cells in (_HEAD, ["---"] * len(_HEAD), *rows)]
    others = len(study.trials) - len(rows)
    note = f"{len(rows)} complete runs, {others} stopped, failed or not finished. Accuracies on validation images."
    with atomic_write(folder / FILE) as path:
        path.write_text("\n".join([note, "", *lines, ""]), encoding="utf-8")
    yield f"{folder / FILE}: {note}"
