"""The tables of the study in ``balance.py``, out of its rows."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

COLUMNS = ("set", "seed", "distiller", "rule", "kappa", "epochs", "schedule", "lr", "val", "test", "seconds")
PUBLISHED = "none:1"
PAIRS = (  # of a distiller and a rule each
    ("`kd` - alone", ("kd", PUBLISHED), ("", PUBLISHED)),
    ("`at`, `lower:1` - `kd`", ("at", "lower:1"), ("kd", PUBLISHED)),
    ("`at` as published - `kd`", ("at", PUBLISHED), ("kd", PUBLISHED)),
    ("`reviewkd`, `lower:1` - `kd`", ("reviewkd", "lower:1"), ("kd", PUBLISHED)),
)

Key = tuple[str, str, str, str]  # set with its epochs, seed, distiller, rule


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a study; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [dict(zip(COLUMNS, row, strict=True)) for row in csv.reader(file)]


class Study:
    """Top-1 accuracies of one part (``val`` or ``test``) of the images.

    Differences are between students of one seed, so that what is compared had the same images in the same order.
    """

    def __init__(self, rows: Iterable[dict[str, str]], part: str) -> None:
        self.found: dict[Key, float] = {}
        for row in rows:
            if row["rule"] != "teacher":
                setting = "" if (row["schedule"], float(row["lr"])) == ("onecycle", 0.1) else f", {row['schedule']}"
                name = f"{row['set']}, {row['epochs']} epochs{setting}"
                rule = f"{row['rule']}:{float(row['kappa']):g}"
                self.found[name, row["seed"], row["distiller"], rule] = float(row[part])
        self.sets = sorted({key[0] for key in self.found})
        self.distillers = sorted({key[2] for key in self.found} - {"", "kd"})
        self.rules = sorted({key[3] for key in self.found if key[2] in self.distillers})

    def differences(self, name: str, student: tuple[str, str], control: tuple[str, str]) -> list[float]:
        """In points, seed by seed, between two pairs of a distiller and a rule."""
        seeds = sorted({key[1] for key in self.found if key[0] == name})
        pairs = [((name, seed, *student), (name, seed, *control)) for seed in seeds]
        return [self.found[one] - self.found[two] for one, two in pairs if one in self.found and two in self.found]

    def against(self, name: str, rule: str, base: str | None) -> list[list[float]]:
        """Differences by distiller and seed to ``kd``, to "" (no teacher), or to the distiller's published weight."""
        every = (
            (d, self.differences(name, (d, rule), (d if base is None else base, PUBLISHED))) for d in self.distillers
        )
        return [differences for _, differences in every if differences]


def describe_mean(values: Sequence[float]) -> str:
    """Mean with the half width of its 95 % interval (Student's t), where there are two or more."""
    from scipy.stats import t as student_t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.2f} ± {half:.2f}"


def is_below(differences: Sequence[float]) -> bool:
    """Whether the 95 % interval of their mean (Student's t) lies below 0. With two of them it hardly ever can."""
    from scipy.stats import t as student_t

    if len(differences) < 2:
        return False
    half = student_t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return bool(statistics.fmean(differences) + half < 0)


def print_tables(rows: Iterable[dict[str, str]], part: str) -> None:
    """What each rule gains over the published weights, over plain KD and over the student alone; then every mean."""
    study = Study(rows, part)
    print(
        f"\nDifference to the published weight of the same distiller and seed in points ({part}): mean over distillers"
    )
    print("with its 95 % interval; above; below\n")
    _print_head("rule", study.sets)
    for rule in study.rules:
        if rule != PUBLISHED:
            _print_row(rule, [_describe_gain(study.against(name, rule, None)) for name in study.sets])
    # Distillers share the control's luck here, so an interval over distillers would be too narrow.
    for base, title in (("kd", "plain KD"), ("", "the student alone")):
        print(f"\nDifference to {title} in points ({part}): mean over distillers; not below; significantly below\n")
        _print_head("rule", study.sets)
        for rule in study.rules:
            _print_row(rule, [_describe_harm(study.against(name, rule, base)) for name in study.sets])
    print(f"\nDifference between two students of the same seed in points ({part}): mean over seeds (their number)\n")
    _print_head("set", [title for title, *_ in PAIRS])
    for name in study.sets:
        found = [study.differences(name, *pair) for _, *pair in PAIRS]
        _print_row(name, [f"{describe_mean(d)} ({len(d)})" if d else "-" for d in found])
    print(f"\nTop-1 by distiller ({part}), mean over seeds (their number)\n")
    _print_head("set", ["distiller", *study.rules])
    for name, distiller in product(study.sets, ("", "kd", *study.distillers)):
        values = [[v for k, v in study.found.items() if (k[0], *k[2:]) == (name, distiller, r)] for r in study.rules]
        shown = [f"{statistics.fmean(v):.2f} ({len(v)})" if v else "-" for v in values]
        if any(values):
            _print_row(name, [distiller or "alone", *shown])


def _describe_gain(by_distiller: Sequence[Sequence[float]]) -> str:
    if not by_distiller:
        return "-"
    means = [statistics.fmean(differences) for differences in by_distiller]
    above, below = sum(mean > 0 for mean in means), sum(mean < 0 for mean in means)
    return f"{describe_mean(means)}; {above}; {below} of {len(means)} ({_describe_seeds(by_distiller)})"


def _describe_harm(by_distiller: Sequence[Sequence[float]]) -> str:
    if not by_distiller:
        return "-"
    means = [statistics.fmean(differences) for differences in by_distiller]
    not_below, below = sum(mean >= 0 for mean in means), sum(map(is_below, by_distiller))
    seeds = _describe_seeds(by_distiller)
    return f"{statistics.fmean(means):+.2f}; {not_below} of {len(means)}; {below} ({seeds})"


def _describe_seeds(by_distiller: Sequence[Sequence[float]]) -> str:
    fewest, most = min(map(len, by_distiller)), max(map(len, by_distiller))
    return f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"


def _print_head(first: str, rest: Sequence[str]) -> None:
    _print_row(first, rest)
    print("|---|" + "---|" * len(rest))


def _print_row(first: str, rest: Sequence[str]) -> None:
    print(f"| {first} | " + " | ".join(rest) + " |")
