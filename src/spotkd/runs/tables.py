"""The tables of a run: ``metrics.csv`` and ``decisions.csv``."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import RunError, one_line
from ..untrusted.files import read_text

ALL_CLASSES = "all"  # what stands in place of a class in the row of all images


def read_metrics(path: Path, remark: Callable[[str], object] = lambda _: None) -> dict[str, list[float]]:
    """The columns of a table of numbers, by name; none where it has no rows.

    A last line that was torn, since its writer was killed, is left out.

    Args:
        path: of the file.
        remark: gets a line about what was left out.

    Raises:
        RunError: it cannot be read.
    """
    try:
        header, *lines = _read_lines(path, remark) or [[]]
        if len(set(header)) < len(header) or not all(header):
            raise ValueError("a column without a name of its own")
        rows = [dict(zip(header, map(float, line), strict=True)) for line in lines]
        return {key: [row[key] for row in rows] for key in (header if rows else ())}
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path}: damaged, it is not a table of numbers ({one_line(error)[:200]})") from error


def _read_lines(path: Path, remark: Callable[[str], object]) -> list[list[str]]:
    """The cells of every whole line."""
    whole, _, torn = read_text(path).rpartition("\n")
    if torn:
        remark(f"{path}: its last line is torn and left out")
    return list(csv.reader(whole.splitlines(keepends=True)))


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


def read_decisions(path: Path, remark: Callable[[str], object] = lambda _: None) -> Decisions:
    """The decisions in a file; empty where there is none. As in :func:`read_metrics`, a torn line is left out.

    Raises:
        RunError: it is damaged.
    """
    if not path.is_file():
        return Decisions()
    try:
        header, *lines = _read_lines(path, remark) or [[]]
        spots = tuple(header[3:])
        rows = [
            DecisionRow(int(epoch), None if label == ALL_CLASSES else int(label), int(images), tuple(map(float, means)))
            for epoch, label, images, *means in lines
        ]
        if any(len(row.means) != len(spots) for row in rows):
            raise ValueError("a line of another length than the first")
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)[:200]})") from error
    return Decisions(spots, tuple(rows))
