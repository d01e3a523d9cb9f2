"""A plan's results as CSV, for further computation: a row a method, and a row a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict

from ..escaping import escape_csv
from ..statistics import mean_interval
from .plan import Cell, Plan
from .results import Result, ResultsByMethod, distilled_everywhere, paired_difference, student_alone


def method_csv(plan: Plan, groups: ResultsByMethod) -> str:
    """Means, deviations and differences of every method of the plan."""
    return _csv(_method_row(method, plan, groups) for method in groups)


def result_csv(results: Iterable[Result]) -> str:
    """Every finished run."""
    return _csv(_result_row(result) for result in results)


def _csv(rows: Iterable[dict[str, object]]) -> str:
    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: escape_csv(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _method_row(method: Cell, plan: Plan, groups: ResultsByMethod) -> dict[str, object]:
    results = groups[method]
    chosen = mean_interval([result.top1 for result in results])
    last = mean_interval([result.last_top1 for result in results])
    row: dict[str, object] = asdict(method)
    del row["seed"]
    row |= {
        "planned": 1 if method.kind == "teacher" else len(plan.seeds),
        "n": len(results),
        "mean": chosen and chosen.mean,
        "std": chosen and chosen.std,
        "last_mean": last and last.mean,
        "last_std": last and last.std,
        "protocol": "; ".join(sorted({result.protocol for result in results})),
    }
    for name, baseline in (("to_always", distilled_everywhere(method)), ("to_alone", student_alone(method))):
        compared = method.kind == "distill" and baseline != method
        difference = paired_difference(results, groups.get(baseline, [])) if compared else None
        low, high = (difference and difference.interval) or (None, None)
        row |= {f"{name}_n": difference and difference.n, name: difference and difference.mean}
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row


def _result_row(result: Result) -> dict[str, object]:
    row = asdict(result)
    del row["guesses"]  # a remark, no measurement
    return {**row.pop("cell"), **row}
