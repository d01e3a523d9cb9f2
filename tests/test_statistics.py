"""Means with intervals and medians with ranges, against printed tables, numpy and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spotkd.statistics import MedianRange, interval_factor, mean_interval, median_range

T = {2: 12.706, 3: 4.303, 5: 2.776}  # two-sided 95 % points of Student's t by number of values, from a printed table


@pytest.mark.parametrize("n", [2, 3, 5])
def test_statistics(n: int) -> None:
    values = np.random.default_rng(n).normal(80, 2, n)
    found = mean_interval(values.tolist())
    assert found is not None
    assert found.n == n
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    half = T[n] * np.std(values, ddof=1) / math.sqrt(n)
    assert found.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half), rel=1e-3)
    assert interval_factor(n) == pytest.approx(T[n] / math.sqrt(n), rel=1e-3)


def test_statistics_by_hand() -> None:
    two = mean_interval([1.0, 3.0])  # mean 2, standard deviation sqrt 2, of the mean 1
    assert two is not None
    assert two.interval == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)
    five = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # mean 3, standard deviation sqrt 2.5, of the mean sqrt 0.5
    assert five is not None
    assert five.interval == pytest.approx((3 - 2.776 * math.sqrt(0.5), 3 + 2.776 * math.sqrt(0.5)), abs=1e-3)
    same = mean_interval([0.5, 0.5, 0.5])
    assert same is not None
    assert same.interval == (0.5, 0.5)
    one = mean_interval([4.0])
    assert one is not None
    assert (one.n, one.mean, one.std, one.interval) == (1, 4.0, None, None)
    assert mean_interval([]) is None


def test_median_and_range() -> None:
    assert median_range([3.0, 1.0, 2.0]) == MedianRange(2.0, 1.0, 3.0, 3)
    assert str(median_range([1234.5, 0.012345])) == "617 (0.0123 to 1234)"
