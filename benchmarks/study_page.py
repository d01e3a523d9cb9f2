"""The page of :mod:`study`, from its rows."""

from __future__ import annotations

import csv
from pathlib import Path

COLUMNS = (
    "set", "seed", "distiller", "hazard", "strategy", "epochs", "val", "test", "dose", "refused_damaged",
    "refused_intact", "step_ms", "seconds",
)  # fmt: skip


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a study; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_page(rows: list[dict[str, str]], path: Path) -> None:
    raise NotImplementedError
