"""Statistics of repeated measurements: means with intervals for accuracies, medians with ranges for times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple


@dataclass(frozen=True)
class MeanInterval:
    """Mean of ``n`` values and their sample standard deviation, which a single value does not have."""

    n: int
    mean: float
    std: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t; None for a single value."""
        if self.std is None:
            return None
        half = interval_factor(self.n) * self.std
        return self.mean - half, self.mean + half


def mean_interval(values: Sequence[float]) -> MeanInterval | None:
    """Their mean and standard deviation; None if there are no values."""
    if not values:
        return None
    return MeanInterval(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@cache
def interval_factor(n: int) -> float:
    """How many standard deviations of ``n`` values the 95 % interval of their mean reaches to either side."""
    from scipy.stats import t  # slow to import, and needed by nothing else

    return float(t.ppf(0.975, n - 1)) / math.sqrt(n)


class MedianRange(NamedTuple):
    """Median, lowest and highest of ``n`` measurements."""

    median: float
    lowest: float
    highest: float
    n: int

    def __str__(self) -> str:
        median, lowest, highest = (f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in self[:3])
        return f"{median} ({lowest} to {highest})"


def median_range(values: Sequence[float]) -> MedianRange:
    """Median, lowest and highest of at least one value."""
    return MedianRange(statistics.median(values), min(values), max(values), len(values))
