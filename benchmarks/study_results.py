"""The numbers of :mod:`study`, from its rows: paired differences, pooled, and the rule for the default. Needs SciPy."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COLUMNS = (
    "set", "seed", "distiller", "hazard", "strategy", "epochs", "val", "test", "dose", "refused_damaged",
    "refused_intact", "step_ms", "seconds",
)  # fmt: skip
BASE = "always"
NOT_WORSE, DEAREST = -0.3, 1.1  # the rule for the default: points on clean data at least; step at most
RESAMPLES = 2000
SAKD = {"published": "adaptive", "scaled": "adaptive"}  # what the strategy of these is called
Row = dict[str, str]


class Effect(NamedTuple):
    """A mean of paired differences in points, with its 95 % interval where there are enough, and their number."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        between = "" if self.low is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{self.mean:+.1f}{between} (n = {self.n})"


def read_rows(path: Path) -> list[Row]:
    """The rows of a study; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Results:
    """Test accuracies by (set, seed, distiller, hazard, strategy), and costs of a step over ``always``."""

    def __init__(self, rows: Iterable[Row], costs: Iterable[Row] = ()) -> None:
        self.costs = {row["strategy"]: float(row["cost"]) for row in costs}
        self.rows = {(r["set"], r["seed"], r["distiller"], r["hazard"], r["strategy"]): r for r in rows}
        students = [key for key in self.rows if key[2]]
        self.sets, self.distillers, self.hazards, self.strategies = (
            list(dict.fromkeys(key[place] for key in students)) for place in (0, 2, 3, 4)
        )
        self.hazards.sort(key=lambda hazard: hazard != "none")

    def values(self, name: str, hazard: str, strategy: str, column: str = "test") -> list[float]:
        """All of a strategy's numbers under a hazard on a set."""
        chosen = (r for (s, _, d, h, where), r in self.rows.items() if d and (s, h, where) == (name, hazard, strategy))
        return [float(row[column]) for row in chosen if row[column]]

    def differences(
        self, name: str, hazard: str, strategy: str, other: str = BASE, distiller: str | None = None
    ) -> list[float]:
        """Strategy minus another one, each beside that of the same seed and distiller; of all distillers for None."""
        found = []
        for (s, seed, d, h, where), row in self.rows.items():
            beside = self.rows.get((s, seed, d, h, other))
            if d and (s, h, where) == (name, hazard, strategy) and distiller in (None, d) and beside is not None:
                found.append(float(row["test"]) - float(beside["test"]))
        return found

    def seconds(self, name: str) -> list[float]:
        """Wall time of the set's students."""
        return [float(row["seconds"]) for key, row in self.rows.items() if key[2] and key[0] == name]


def pool(differences: Sequence[float]) -> Effect | None:
    """Mean over seeds and distillers; the interval by a bootstrap over these pairs (BCa needs three or more)."""
    from scipy.stats import bootstrap

    if not differences:
        return None
    mean = statistics.fmean(differences)
    if len(differences) < 3 or len(set(differences)) == 1:
        return Effect(mean, None, None, len(differences))
    found = bootstrap(
        (np.array(differences),), np.mean, n_resamples=RESAMPLES, method="BCa", random_state=np.random.default_rng(0)
    )
    low, high = found.confidence_interval
    return Effect(mean, float(low), float(high), len(differences))


def corrected(families: dict[Any, list[float]]) -> dict[Any, float]:
    """P values of "no difference" (Student's t), corrected for their number (Benjamini and Yekutieli)."""
    from scipy.stats import false_discovery_control, ttest_1samp

    tested = {key: ttest_1samp(values, 0).pvalue for key, values in families.items() if len(set(values)) > 1}
    if not tested:
        return {}
    return dict(zip(tested, false_discovery_control(list(tested.values()), method="by").tolist(), strict=True))


class Candidate(NamedTuple):
    """What the rule for the default asks of a strategy."""

    strategy: str
    clean: Effect
    cost: float
    gain: Effect

    @property
    def qualifies(self) -> bool:
        """Neither worse than ``always`` on clean data nor much dearer."""
        return self.clean.low is not None and self.clean.low > NOT_WORSE and self.cost <= DEAREST


def candidates(results: Results) -> list[Candidate]:
    """All strategies that were trained on clean data and under hazards, the largest gain first."""
    found = []
    for strategy in results.strategies:
        clean = pool([x for name in results.sets for x in results.differences(name, "none", strategy)])
        hazards = [h for h in results.hazards if h != "none"]
        gain = pool([x for name in results.sets for h in hazards for x in results.differences(name, h, strategy)])
        cost = results.costs.get(SAKD.get(strategy, strategy))
        if strategy != BASE and clean is not None and gain is not None and cost is not None:
            found.append(Candidate(strategy, clean, cost, gain))
    return sorted(found, key=lambda each: -each.gain.mean)


def choose_default(results: Results) -> str | None:
    """The strategy that the rule chooses; it was written down before the numbers were looked at."""
    return next((each.strategy for each in candidates(results) if each.qualifies), None)


class OverTeachers(NamedTuple):
    """Of a strategy under a hazard on a set: paired differences to ``always`` over several teachers, and means.

    Attributes:
        set, hazard, strategy: of the students.
        differences: by teacher, one for each of its students.
        rows: all of its students.
    """

    set: str
    hazard: str
    strategy: str
    differences: dict[str, list[float]]
    rows: list[Row]

    def __str__(self) -> str:
        """Mean and 95 % interval, Student's over the means of the teachers: what holds for other teachers."""
        return _between_teachers(self.differences)

    def mean(self, column: str, digits: int = 3) -> str:
        """Over all students; a dash where there is none."""
        values = [float(row[column]) for row in self.rows if row[column]]
        return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def over_teachers(rows: Iterable[Row], part: str) -> Iterator[OverTeachers]:
    """All strategies of the plan ``trust``, on ``val`` or ``test`` images; sets in the order of their names."""
    students = [row for row in rows if row["distiller"]]
    found: dict[tuple[str, str, str], OverTeachers] = {}
    accuracy = {(r["set"], r["hazard"], r["seed"], r["strategy"]): float(r[part]) for r in students}
    for row in students:
        name = row["set"].partition("@")[0]
        beside = accuracy.get((row["set"], row["hazard"], row["seed"], BASE))
        each = found.setdefault(
            (name, row["hazard"], row["strategy"]), OverTeachers(name, row["hazard"], row["strategy"], {}, [])
        )
        each.rows.append(row)
        if beside is not None:
            each.differences.setdefault(row["set"], []).append(float(row[part]) - beside)
    order = list(dict.fromkeys(key[2] for key in found))
    yield from sorted(found.values(), key=lambda each: (each.set, each.hazard != "none", order.index(each.strategy)))


def summary_lines(rows: Iterable[Row], part: str) -> Iterator[str]:
    """The same, one line each."""
    for each in over_teachers(rows, part):
        words = [f"{key} {each.mean(key)}" for key in (part, "dose", "refused_damaged", "refused_intact")]
        yield f"{each.set:8} {each.hazard:9} {each.strategy:20} {each!s:38} {'  '.join(words)}"


def _between_teachers(differences: dict[str, list[float]]) -> str:
    from scipy.stats import t

    means = [statistics.fmean(values) for values in differences.values()]
    count = sum(map(len, differences.values()))
    if len(means) < 2:
        return f"{means[0]:+.2f} (1 teacher, n = {count})" if means else "-"
    if not any(map(any, differences.values())):
        return f"0 ({len(means)} teachers, n = {count})"
    half = float(t.ppf(0.975, len(means) - 1)) * statistics.stdev(means) / len(means) ** 0.5
    return f"{statistics.fmean(means):+.2f} +- {half:.2f} ({len(means)} teachers, n = {count})"
