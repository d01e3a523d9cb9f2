"""An inspection as files, CSV for spreadsheets and Parquet for data frames, and in words."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from ..errors import SpotkdError
from ..escaping import escape_csv, escape_terminal
from ..files import atomic_write
from ..formatting import format_signed
from .decisions import Inspection

_MOST_LISTED = 5  # classes at either end


def columns(inspection: Inspection) -> dict[str, Any]:
    """The columns of the table, by name; numbers as arrays."""
    spots = inspection.spots
    files = {} if inspection.files is None else {"file": list(inspection.files)}
    return {
        "index": np.arange(len(inspection)),
        **files,
        "label": inspection.labels,
        "class": [inspection.classes[label] for label in inspection.labels],
        **{f"p_{spot}": inspection.probability[:, i] for i, spot in enumerate(spots)},
        **{f"teacher_{spot}": inspection.decisions[:, i].astype(np.int8) for i, spot in enumerate(spots)},
        "teacher_loss": inspection.teacher_loss,
        "student_loss": inspection.student_loss,
        "teacher_correct": inspection.teacher_correct.astype(np.int8),
        "student_correct": inspection.student_correct.astype(np.int8),
    }


def class_columns(inspection: Inspection) -> dict[str, Any]:
    """The columns of the table of classes, by name."""
    means = inspection.class_means()
    return {
        "label": np.arange(len(inspection.classes)),
        "class": list(inspection.classes),
        "images": np.bincount(inspection.labels, minlength=len(inspection.classes)),
        **{f"p_{spot}": means[:, i] for i, spot in enumerate(inspection.spots)},
        **{
            name: _mean_by_class(inspection, values)
            for name, values in (
                ("teacher_loss", inspection.teacher_loss),
                ("student_loss", inspection.student_loss),
                ("teacher_correct", inspection.teacher_correct),
                ("student_correct", inspection.student_correct),
            )
        },
    }


def _mean_by_class(inspection: Inspection, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    counts = np.bincount(inspection.labels, minlength=len(inspection.classes))
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = np.bincount(inspection.labels, values, len(inspection.classes)) / counts
    return means


def write_tables(inspection: Inspection, folder: Path) -> Iterator[str]:
    """Write ``inspect-SPLIT.csv``, the same as ``.parquet`` where pyarrow is there, and ``inspect-SPLIT-classes.csv``.

    A CSV holds every float32 in full. Text that a spreadsheet would run as a formula gets an apostrophe.

    Yields:
        A line about each file.

    Raises:
        SpotkdError: a file cannot be written.
    """
    table = columns(inspection)
    name = f"inspect-{inspection.split}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield _write_csv(table, folder / f"{name}.csv")
        yield _write_csv(class_columns(inspection), folder / f"{name}-classes.csv")
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            yield "no Parquet file, since pyarrow is not installed: pip install 'spotkd[parquet]'"
            return
        with atomic_write(folder / f"{name}.parquet") as temporary:
            parquet.write_table(pyarrow.table({name: _as_text(values) for name, values in table.items()}), temporary)
        yield f"{folder / name}.parquet: the images once more"
    except OSError as error:
        raise SpotkdError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _write_csv(table: Mapping[str, Any], path: Path) -> str:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(escape_csv, table))
        writer.writerows(zip(*map(_format_column, table.values()), strict=True))
    return f"{path}: {len(next(iter(table.values())))} rows"


def _as_text(values: Any) -> Any:
    """Names of files and classes as UTF-8 can say them; numbers as they are."""
    if isinstance(values, np.ndarray):
        return values
    return [value.encode("utf-8", "backslashreplace").decode() for value in values]


def _format_column(values: Any) -> list[str]:
    if isinstance(values, np.ndarray):
        return ["" if value != value else f"{value:.9g}" for value in values.tolist()]  # nan: there is no such number
    return [escape_csv(value) for value in values]


def describe(inspection: Inspection) -> Group:
    """What a person wants to know first: the spots, what their probabilities go with, the classes at either end."""
    what = "P(teacher)" if inspection.learnt else "weight of a sample"
    lines: list[Table | str] = [f"{len(inspection)} {inspection.split} images, un-augmented, {inspection.when}"]
    if not inspection.learnt:
        alike = "treats every sample alike, and P is what it does"
        does = "weighs samples, and P is the weight" if inspection.varies else alike
        lines.append(f"strategy {inspection.strategy} has no policy: it {does}")
    if inspection.strategy == "anti":
        lines.append("strategy anti distils the complement: where P is high, the student is not distilled")
    spots = Table(Column("spot"), *(Column(name, justify="right") for name in (f"mean {what}", "share above 0.5")))
    for spot, mean, share in zip(inspection.spots, inspection.means(), inspection.decisions.mean(0), strict=True):
        spots.add_row(escape(escape_terminal(spot)), f"{mean:.3f}", f"{share:.1%}")
    lines.append(spots)
    if inspection.varies:
        lines += [_correlations(inspection), _extreme_classes(inspection)]
    return Group(*lines)


def _correlations(inspection: Inspection) -> Table:
    found = inspection.correlations()
    table = Table(
        Column("correlation of P with"),
        *(Column(escape(escape_terminal(s)), justify="right") for s in inspection.spots),
    )
    for name, values in found.items():
        table.add_row(name, *(format_signed(float(value)) for value in values))
    return table


def _extreme_classes(inspection: Inspection) -> Table:
    table = Table(Column("spot"), Column("classes most to the teacher"), Column("classes most to the student"))
    for spot, means in zip(inspection.spots, inspection.class_means().T, strict=True):
        order = [int(label) for label in np.argsort(-means, kind="stable") if not np.isnan(means[label])]
        ends = (order[:_MOST_LISTED], order[: -_MOST_LISTED - 1 : -1])
        texts = (
            ", ".join(f"{escape_terminal(inspection.classes[label])} {means[label]:.2f}" for label in end)
            for end in ends
        )
        table.add_row(escape(escape_terminal(spot)), *map(escape, texts))
    return table
