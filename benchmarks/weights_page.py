"""The tables of ``weights.py``, from its rows, between two marks of a page. Needs SciPy."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

COLUMNS = ("set", "seed", "distiller", "weight", "epochs", "device", "val", "test", "seconds")
START, END = "<!-- made by benchmarks/weights.py --page: change that -->", "<!-- end of what is made -->"
ALONE, KD = ("alone", ""), ("kd", "")
TITLES = {"auto": "`--balance auto`", "published": "published"}
Row = dict[str, str]
Student = tuple[str, str]  # distiller and weight


class Difference(NamedTuple):
    """Between students of the same seeds, in points: mean, 95 % interval (Student's t; none for one seed), number."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" if self.low is None else f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def is_below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high is not None and self.high < 0


def read_rows(path: Path) -> list[Row]:
    """The rows of a study; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Results:
    """Test accuracies in percent by set, student and seed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.found: dict[tuple[str, Student], dict[str, float]] = {}
        self.epochs: dict[tuple[str, bool], str] = {}
        for row in rows:
            self.found.setdefault((row["set"], (row["distiller"], row["weight"])), {})[row["seed"]] = float(row["test"])
            self.epochs[row["set"], row["distiller"] == "teacher"] = row["epochs"]
        self.sets = list(dict.fromkeys(name for name, _ in self.found))
        self.distillers = list(dict.fromkeys(student[0] for _, student in self.found if student[1]))

    def values(self, name: str, student: Student) -> list[float]:
        """Of all seeds."""
        return list(self.found.get((name, student), {}).values())

    def difference(self, name: str, student: Student, control: Student) -> Difference | None:
        """None without a seed that both have."""
        one, other = self.found.get((name, student), {}), self.found.get((name, control), {})
        return mean_difference([one[seed] - other[seed] for seed in one if seed in other])


def mean_difference(values: Sequence[float]) -> Difference | None:
    """The mean of paired differences with its interval; None of none."""
    from scipy.stats import t as student_t

    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Difference(mean, None, None, 1)
    half = float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return Difference(mean, mean - half, mean + half, len(values))


def write_page(rows: Sequence[Row], path: Path, planned: int) -> None:
    """Replace what stands between the marks of a page.

    Args:
        rows: of a study.
        path: of the page, which has both marks.
        planned: cells that the study has when it is complete.

    Raises:
        SystemExit: the page has no marks.
    """
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"{path} has not both marks: {START} and {END}")
    made = "\n".join(page_lines(Results(rows), len(rows), planned))
    path.write_text(f"{before}{START}\n\n{made}\n{END}{after}", encoding="utf-8")


def page_lines(results: Results, done: int, planned: int) -> Iterator[str]:
    """The tables in Markdown."""
    yield _paragraph(f"""
        {done} of {planned} networks are trained so far. Test top-1 in percent: mean ± standard deviation (number of
        seeds). In brackets the 95 % interval of the mean difference in points, by Student's t over seeds: students of
        a seed begin alike and meet the same images in the same order. Intervals are not corrected for the number of
        rows: of 20 true zeros, one is expected to lie outside. `kd` is what `spotkd distill` does without options,
        so its row is that of the default, too.
    """)
    yield from _summary(results)
    for name in results.sets:
        yield from _set_lines(results, name)


def _summary(results: Results) -> Iterator[str]:
    yield _row(["set", "weight", "distillers", "mean ≥ `kd`", "below `kd`", "mean ≥ alone", "below alone", "seeds"])
    yield "|---" * 8 + "|"
    for name in results.sets:
        for weight, title in TITLES.items():
            students = [(d, weight) for d in results.distillers if results.values(name, (d, weight))]
            if students:
                counts = [_count([results.difference(name, s, control) for s in students]) for control in (KD, ALONE)]
                seeds = [len(results.values(name, s)) for s in students]
                shown = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
                yield _row([name, title, str(len(students)), *counts[0], *counts[1], shown])
    yield "\nBelow: the whole interval is.\n"


def _count(differences: Sequence[Difference | None]) -> list[str]:
    found = [each for each in differences if each is not None]
    return [str(sum(each.mean >= 0 for each in found)), str(sum(each.is_below for each in found))]


def _set_lines(results: Results, name: str) -> Iterator[str]:
    teacher = results.values(name, ("teacher", ""))
    yield f"### {name}\n"
    if teacher:
        epochs, short = (results.epochs.get((name, is_teacher), "-") for is_teacher in (True, False))
        yield f"Teacher {teacher[0]:.1f} % ({epochs} epochs); students {short} epochs.\n"
    yield _row(["distiller", "weight", "top-1", "over `kd`", "over alone", "over the published weight"])
    yield "|---" * 6 + "|"
    for student in (ALONE, KD, *((d, w) for d in results.distillers for w in TITLES)):
        values = results.values(name, student)
        if values:
            controls = [KD, ALONE, (student[0], "published") if student[1] == "auto" else None]
            cells = [
                str(results.difference(name, student, c) or "-")
                if c not in (None, student) and student != ALONE
                else "-"
                for c in controls
            ]
            title = student[0] if student == ALONE else f"`{student[0]}`"
            yield _row([title, TITLES.get(student[1], "-"), describe(values), *cells])
    yield ""


def describe(values: Sequence[float]) -> str:
    """Mean, standard deviation where there is one, and number."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread} ({len(values)})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _paragraph(text: str) -> str:
    return fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False) + "\n"
