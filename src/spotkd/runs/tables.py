"""The tables of a run: ``metrics.csv`` and ``decisions.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import RunError, one_line

ALL_CLASSES = "all"  # what stands in place of a class in the row of all images


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns of a table of numbers, by name; none where it has no rows.

    Raises:
        RunError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path}: damaged, it is not a table of numbers ({one_line(error)[:200]})") from error


class DecisionRow(NamedTuple):
    """Mean P(teacher) at each spot after an epoch; ``label`` is None in the rows of all images."""

    epoch: int
    label: int | None
    images: int
    means: tuple[float, ...]


@dataclass(frozen=True)
class Decisions:
    """Where the policy sent the same training images, epoch after epoch.

    Attributes:
        spots: names of the spots, in the order of :attr:`DecisionRow.means`.
        rows: for each epoch one of all images and one of every class.
    """

    spots: tuple[str, ...] = ()
    rows: tuple[DecisionRow, ...] = ()


def read_decisions(path: Path) -> Decisions:
    """The decisions in a file; empty where there is none.

    Raises:
        RunError: it is damaged.
    """
    if not path.is_file():
        return Decisions()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        rows = [
            DecisionRow(int(epoch), None if label == ALL_CLASSES else int(label), int(images), tuple(map(float, means)))
            for epoch, label, images, *means in lines
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)[:200]})") from error
    return Decisions(tuple(header[3:]), tuple(rows))
