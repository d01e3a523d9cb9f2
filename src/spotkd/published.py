"""The accuracies in the paper's tables, to stand beside one's own.

From the three tables as the authors' repository repeats them (``published_results.csv``): 149 pairs of networks and
distillers, each distilled at every spot ("standard") and by SAKD.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

CAUTION = "one seed each, at the epoch that is best on the test images"


class PublishedPair(NamedTuple):
    """Test top-1 in percent: of the distiller at every spot, and of SAKD."""

    standard: float
    sakd: float


@cache
def published_results() -> Mapping[tuple[str, str, str, str], PublishedPair]:
    """All of them, by data set, distiller, teacher and student."""
    text = (files("spotkd") / "published_results.csv").read_text(encoding="utf-8")
    return {
        (row["data"], row["distiller"], row["teacher"], row["student"]): PublishedPair(
            float(row["standard"]), float(row["sakd"])
        )
        for row in csv.DictReader(text.splitlines())
    }


def published_top1(data: str, distiller: str, teacher: str, student: str, strategy: str) -> float | None:
    """Test top-1 in percent; None where the paper has no number: another strategy, pair, distiller or data set."""
    found = published_results().get((data, distiller, teacher, student))
    if found is None:
        return None
    return {"always": found.standard, "adaptive": found.sakd}.get(strategy)
