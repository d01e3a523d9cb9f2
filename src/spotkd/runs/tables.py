"""The tables of a run: ``metrics.csv``, ``decisions.csv`` and ``trial.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..errors import RunError, SpotkdError, one_line
from ..untrusted.files import read_text

DRAWN = "drawn_"  # before the name of a spot, in the columns of what chance decided
ALL_CLASSES = "all"  # what stands in place of a class in the row of all images
Row = TypeVar("Row")
MAX_COLUMNS, MAX_EPOCHS, MAX_DECISIONS = 500, 50_000, 500_000  # columns, and rows of either table


class Rows(NamedTuple):
    """A table as it stands in a file: the names of its columns, its whole rows, and what was left out."""

    header: list[str]
    rows: list[list[str]]
    remark: str | None = None


def read_rows(path: Path, most: int) -> Rows:
    """The rows of a table; a last one that was torn, since the run was killed while it was written, is left out.

    Raises:
        RunError: it cannot be read, has more than ``most`` rows, or a row in its midst has other cells than its header.
    """
    try:
        text = read_text(path, follow=False)
        whole, _, torn = text.rpartition("\n")
        lines = list(csv.reader(io.StringIO(whole, newline="")))
    except (SpotkdError, csv.Error) as error:
        raise RunError(one_line(error) if isinstance(error, SpotkdError) else f"{path}: damaged ({error})") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(set(header)) < len(header) or len(header) > MAX_COLUMNS or len(rows) > most:
        raise RunError(
            f"{path}: damaged, it is no table with at most {MAX_COLUMNS} columns, each of another name, and {most} rows"
        )
    wrong = next((number for number, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if wrong is not None:
        raise RunError(f"{path}: damaged, row {wrong} has another number of cells than the header")
    return Rows(header, rows, f"{path.name}: its last row is torn, and left out" if torn else None)


class Metrics(NamedTuple):
    """The columns of a table of numbers, by name, and what was left out."""

    columns: dict[str, list[float]]
    remark: str | None = None


def read_metrics(path: Path) -> Metrics:
    """The columns of a table of numbers; none where it has no rows.

    Raises:
        RunError: it cannot be read.
    """
    header, rows, remark = read_rows(path, MAX_EPOCHS)
    try:
        columns = [[float(cell) for cell in column] for column in zip(*rows, strict=True)]
    except ValueError as error:
        raise RunError(f"{path}: damaged, it is not a table of numbers ({one_line(error)[:200]})") from error
    return Metrics(dict(zip(header, columns, strict=False)), remark)


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
        remark: what was left out, if anything was.
    """

    spots: tuple[str, ...] = ()
    rows: tuple[DecisionRow, ...] = ()
    remark: str | None = None


def read_decisions(path: Path) -> Decisions:
    """The decisions in a file; empty where there is none.

    Raises:
        RunError: it is damaged.
    """
    header, rows, remark = _read_typed(path, _parse_decision)
    return Decisions(tuple(header[3:]), rows, remark)


def _parse_decision(cells: list[str]) -> DecisionRow:
    epoch, label, images, *means = cells
    return DecisionRow(int(epoch), None if label == ALL_CLASSES else int(label), int(images), tuple(map(float, means)))


def _read_typed(path: Path, parse: Callable[[list[str]], Row]) -> tuple[list[str], tuple[Row, ...], str | None]:
    """The names of the columns, each row by ``parse``, and what was left out; nothing where there is no file.

    Raises:
        RunError: it is damaged.
    """
    if not path.is_symlink() and not path.exists():
        return [], (), None
    header, lines, remark = read_rows(path, MAX_DECISIONS)
    try:
        return header, tuple(map(parse, lines)), remark
    except ValueError as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)[:200]})") from error


class TrialRow(NamedTuple):
    """What chance decided in an epoch for one cohort of the samples, and what followed.

    Attributes:
        epoch: counted from 1; in the first one nothing was drawn.
        cohort: which samples, in words.
        share: of the training samples that they are.
        loss: on the validation images after the epoch, the same in all rows of an epoch.
        top1: likewise, in percent.
        levels: what was drawn for each spot.
    """

    epoch: int
    cohort: str
    share: float
    loss: float
    top1: float
    levels: tuple[float, ...]


@dataclass(frozen=True)
class TrialTable:
    """The epochs of a run in which chance decided.

    Attributes:
        spots: names of the spots, in the order of :attr:`TrialRow.levels`.
        rows: for each epoch one of every cohort.
        remark: what was left out, if anything was.
    """

    spots: tuple[str, ...] = ()
    rows: tuple[TrialRow, ...] = ()
    remark: str | None = None


def read_trial(path: Path) -> TrialTable:
    """The trial in a file; empty where there is none.

    Raises:
        RunError: it is damaged.
    """
    header, rows, remark = _read_typed(path, _parse_trial)
    return TrialTable(tuple(name.removeprefix(DRAWN) for name in header[5:]), rows, remark)


def _parse_trial(cells: list[str]) -> TrialRow:
    epoch, cohort, share, loss, top1, *levels = cells
    return TrialRow(int(epoch), cohort, float(share), float(loss), float(top1), tuple(map(float, levels)))
