"""A plan's tables as Markdown, with what was run and on what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ..escaping import escape_markdown
from ..runs.folder import RunFolder
from ..templates import render_template
from .plan import Cell, Plan
from .results import Result
from .tables import Table


def markdown_report(
    plan: Plan,
    tables: dict[str, list[Table]],
    results: Sequence[Result],
    missing: Sequence[Cell],
    folder: Path,
    command: str,
) -> str:
    """The whole report.

    Args:
        plan: what was to be run.
        tables: by data set.
        results: of the finished runs.
        missing: the cells without a result.
        folder: where the runs lie; failed ones have left their reason there.
        command: the command that runs the plan.
    """
    failed = _read_failures(missing, folder)
    versions = (f"spotkd {result.spotkd}, PyTorch {result.torch}, Python {result.python}" for result in results)
    return render_template(
        "report.md",
        plan=plan,
        tables=tables,
        aligned_rows=aligned_rows,
        has_differences=any(table.title.startswith("Difference") for table in chain(*tables.values())),
        results=results,
        missing=missing,
        failed=failed,
        waiting=_describe_waiting([cell for cell in missing if cell not in failed]),
        command=command,
        options=_given_options(plan),
        epochs=_epochs(results),
        hardware=_count_distinct(f"{result.machine} ({result.device})" for result in results),
        versions=_count_distinct(versions),
    )


def aligned_rows(table: Table) -> list[list[str]]:
    """Its rows with a rule below the first, escaped, every column as wide as its widest cell."""
    rows = [list(map(_escape_name, row)) for row in table.head]
    rows += [[_escape_name(name), *values] for name, *values in chain(*table.sections)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return [list(map(str.ljust, row, widths)) for row in rows]


def _escape_name(name: str) -> str:
    return escape_markdown(" ".join(name.split()))


def _given_options(plan: Plan) -> dict[str, str]:
    """What the plan changes, as YAML on one line each."""
    given = {
        "options of every run, over its recipe's": plan.options,
        "options of the policy, where one learns": plan.policy,
        "options of the teachers": plan.teacher,
    }
    return {name: _compact_yaml(options) for name, options in given.items() if options}


def _compact_yaml(options: dict[str, Any]) -> str:
    return yaml.safe_dump(options, default_flow_style=True, sort_keys=False, width=math.inf)


def _epochs(results: Sequence[Result]) -> dict[str, list[int]]:
    """The different numbers of epochs of students and of teachers, where there are any."""
    kinds = {"students": ("alone", "distill"), "teachers": ("teacher",)}
    epochs = {
        networks: sorted({result.epochs for result in results if result.cell.kind in of_networks})
        for networks, of_networks in kinds.items()
    }
    return {networks: numbers for networks, numbers in epochs.items() if numbers}


def _count_distinct(values: Iterable[str]) -> str:
    """Each once; with the number of runs if there are several."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value}: {number} runs" for value, number in sorted(counts.items()))


def _read_failures(missing: Iterable[Cell], folder: Path) -> dict[Cell, str]:
    """The reasons of failed runs."""
    reasons = {cell: RunFolder(folder / cell.folder).error for cell in missing}
    return {cell: reason for cell, reason in reasons.items() if reason is not None}


def _describe_waiting(cells: Iterable[Cell]) -> list[str]:
    """A line for each method, with its seeds."""
    seeds: dict[Cell, list[str]] = {}
    for cell in cells:
        seeds.setdefault(replace(cell, seed=None), []).append(str(cell.seed))
    return [
        f"{method}: not run yet" + ("" if method.kind == "teacher" else f": seed {', '.join(of_method)}")
        for method, of_method in seeds.items()
    ]
