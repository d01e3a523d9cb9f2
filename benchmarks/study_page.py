"""The page and the figures of :mod:`study`, from its rows. Needs SciPy and matplotlib."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

COLUMNS = (
    "set", "seed", "distiller", "hazard", "strategy", "epochs", "val", "test", "dose", "refused_damaged",
    "refused_intact", "step_ms", "seconds",
)  # fmt: skip
BASE = "always"
NOT_WORSE, DEAREST = -0.3, 1.1  # the rule for the default: points on clean data at least; step at most
RESAMPLES = 2000
PUBLISHED_GAIN = (
    "+0.26 points (50 pairs of one kind), +0.24 (49 of different kinds) on CIFAR-100, +0.43 on Tiny-ImageNet"
)

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


def choose_default(results: Results) -> str | None:
    """The strategy that the rule chooses, which was written down before the numbers were looked at."""
    gains: dict[str, float] = {}
    for strategy in results.strategies:
        clean = pool([x for name in results.sets for x in results.differences(name, "none", strategy)])
        cost = results.costs.get(strategy)
        hazards = [h for h in results.hazards if h != "none"]
        harmed = [x for name in results.sets for h in hazards for x in results.differences(name, h, strategy)]
        if strategy == BASE or "@" in strategy or not harmed or cost is None or cost > DEAREST:
            continue
        if clean is not None and clean.low is not None and clean.low > NOT_WORSE:
            gains[strategy] = statistics.fmean(harmed)
    return max(gains, key=gains.__getitem__) if gains else None


def write_page(folder: Path, path: Path, missing: Sequence[str] = ()) -> None:
    """Write the page of a study's folder, and its figures into ``assets/`` beside the page.

    Args:
        folder: has ``results.csv`` and, from ``strategy_costs.py``, ``costs.csv``.
        path: of the page.
        missing: the set of each cell that has no row yet.
    """
    results = Results(read_rows(folder / "results.csv"), read_rows(folder / "costs.csv"))
    figures = path.parent / "assets"
    figures.mkdir(parents=True, exist_ok=True)
    for name in results.sets:
        draw_forest(results, name, figures / f"study-forest-{name}.svg")
        draw_doses(results, name, figures / f"study-dose-{name}.svg")
    path.write_text("\n".join(page_lines(results, missing)) + "\n", encoding="utf-8")


def page_lines(results: Results, missing: Sequence[str] = ()) -> Iterator[str]:
    """The page in Markdown."""
    students = sum(1 for key in results.rows if key[2])
    yield "<!-- made by benchmarks/study.py --page from benchmarks/results/study: change that -->\n"
    yield "# The study: where to distil, under hazards\n"
    yield _paragraph(f"""
        {students} students so far, on {", ".join(results.sets)}, with {", ".join(results.distillers)}. Each is compared
        with the student of `{BASE}` (the published weight of the distiller, every sample at every spot) of the same
        seed, distiller and [hazard](commands.md#spotkd-distill), which began alike and met the same images in the same
        order. Test top-1 in points: mean, [95 % interval by a bootstrap over seeds and distillers], number of pairs. No
        test image chose an epoch. Intervals from few pairs are too narrow: treat those of fewer than ten as a hint.
        (`--balance auto`, the default of `distill`, makes of `always` what is called `balance` here.)
    """)
    yield replication(results)
    yield default_sentence(results)
    for name in results.sets:
        yield from _set_lines(results, name)
    yield "## What a step costs\n"
    yield from _table(["strategy", "step, over `always`"], [[f"`{s}`", f"{c:.2f}"] for s, c in results.costs.items()])
    yield _paragraph("""
        Processor time on one thread, the median of rounds in which all take turns: AT, resnet20 → resnet8, 16 pixels,
        batch 64, `benchmarks/strategy_costs.py`. `adaptive` is what is called `published` above.
    """)
    yield "## How it was made\n"
    yield _paragraph("""
        `python benchmarks/study.py --out benchmarks/results/study` trains what is missing, and `--page docs/study.md`
        writes this page; its docstring says what a cell is. `published` is SAKD as in the paper, `scaled` the same with
        `--policy.schedule scaled`; `random@trust` distils a random share as large as `trust` had in the same cell.
        glyph94: 50 typefaces, resnet20 → resnet8, 16 pixels, 5 epochs; emoji10: 10 classes, small convolutional
        networks, 60 epochs; one-cycle, rate 0.1.
    """)
    yield _paragraph("""
        Its limits: one teacher a set, so seeds are those of students alone; two sets, small networks, short runs. For
        lack of time the plan was cut after its first 23 students had been seen, to glyph94 and four strategies, and how
        the rule pools was written then too. Constants of `trust` and `balance` come from pilots on the same sets. So
        confirm on data of your own.
    """)
    seconds = [statistics.median(results.seconds(name) or [0.0]) for name in missing]
    if seconds:
        yield _paragraph(f"""
            The whole plan has {len(seconds)} more students on these sets: some {sum(seconds) / 3600:.0f} hours on one
            thread beside other work, as these were.
        """)


def _paragraph(text: str) -> str:
    """In lines of one width, with an empty one after it."""
    return fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False) + "\n"


def replication(results: Results) -> str:
    """What became of the published strategy."""
    parts = []
    for name in results.sets:
        effect = pool(results.differences(name, "none", "published"))
        doses = results.values(name, "none", "published", "dose")
        if effect is not None:
            parts.append(f"{name} {effect} with {100 * statistics.fmean(doses):.0f} % of all samples distilled")
    found = "; ".join(parts) or "no student has been trained yet"
    return _paragraph(f"""
        **SAKD as published, replicated at small scale:** against `{BASE}`: {found}. The paper reports a mean gain of
        {PUBLISHED_GAIN}, one seed each, the best epoch chosen on test images.
    """)


def default_sentence(results: Results) -> str:
    """The rule for the default, and what it chooses."""
    chosen = choose_default(results)
    clean = [x for name in results.sets for x in results.differences(name, "none", chosen or "")]
    answer = f"`{chosen}`, on clean data {pool(clean)}" if chosen else "none yet"
    return _paragraph(f"""
        **The rule for the default**, written down before this study: among strategies whose pooled difference to
        `{BASE}` on clean data has a lower bound above {NOT_WORSE} points and whose step costs at most {DEAREST} times
        as much, the one with the largest gain under hazards. By these students: {answer}.
    """)


def _set_lines(results: Results, name: str) -> Iterator[str]:
    teacher, alone = (
        [float(row["test"]) for key, row in results.rows.items() if (key[0], key[4]) == (name, kind)]
        for kind in ("teacher", "alone")
    )
    yield f"## {name}\n"
    words = [f"{what} {statistics.fmean(v):.1f} %" for what, v in (("teacher", teacher), ("student alone", alone)) if v]
    yield _paragraph(f"""
        Test top-1: {", ".join(words)}. In brackets the number of students; where it is smaller, distillers or seeds are
        missing, so compare the differences, which are paired.
    """)
    hazards = [h for h in results.hazards if results.values(name, h, BASE)]
    yield from _table(
        ["strategy", *hazards],
        [
            [f"`{s}`", *(_mean(results.values(name, h, s)) for h in hazards)]
            for s in results.strategies
            if any(results.values(name, h, s) for h in hazards)
        ],
    )
    families = {(h, s): results.differences(name, h, s) for h in hazards for s in results.strategies if s != BASE}
    probabilities = corrected(families)
    yield f"Difference to `{BASE}`; * where it differs from 0 after correction for all of the table (p < 0.05).\n"
    rows = []
    for strategy in (s for s in results.strategies if s != BASE and any(families[h, s] for h in hazards)):
        effects = [pool(families[h, strategy]) for h in hazards]
        stars = [" *" if probabilities.get((h, strategy), 1.0) < 0.05 else "" for h in hazards]
        rows.append([f"`{strategy}`", *(f"{e}{star}" if e else "-" for e, star in zip(effects, stars, strict=True))])
    yield from _table(["strategy", *hazards], rows)
    equal = [(h, pool(results.differences(name, h, "trust", "random@trust"))) for h in hazards]
    if any(effect for _, effect in equal):
        said = "; ".join(f"{h} {effect}" for h, effect in equal if effect)
        yield f"At equal dose, `trust` minus `random@trust`: {said}.\n"
    refused = [
        [f"`{s}`", h, *(f"{100 * statistics.fmean(v):.0f} %" for v in found)]
        for h in hazards
        for s in results.strategies
        if all(found := [results.values(name, h, s, f"refused_{kind}") for kind in ("damaged", "intact")])
    ]
    if refused:
        yield "Teacher outputs that were refused (less than half a weight) in the last epoch:\n"
        yield from _table(["strategy", "hazard", "of the damaged", "of the intact"], refused)
    yield f"![Differences by distiller](assets/study-forest-{name}.svg)\n"
    yield f"![Difference by dose](assets/study-dose-{name}.svg)\n"


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f} ({len(values)})" if values else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def _figure(columns: int, height: float) -> tuple[Any, Any, Callable[[Path], None]]:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "spotkd"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(3.6 * columns, height), squeeze=False, sharey=True)

    def save(path: Path) -> None:
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)

    return figure, axes[0], save


def draw_forest(results: Results, name: str, path: Path) -> None:
    """Differences to ``always`` by strategy and distiller, and pooled (diamonds); a panel for each hazard."""
    hazards = [h for h in results.hazards if results.values(name, h, BASE)]
    lines = [(s, d) for s in results.strategies if s != BASE for d in (*results.distillers, None)]
    lines = [(s, d) for s, d in lines if any(results.differences(name, h, s, distiller=d) for h in hazards)]
    _, panels, save = _figure(len(hazards), 0.8 + 0.22 * len(lines))
    for panel, hazard in zip(panels, hazards, strict=True):
        for place, (strategy, distiller) in enumerate(lines):
            effect = pool(results.differences(name, hazard, strategy, distiller=distiller))
            if effect is not None:
                if effect.low is not None:
                    panel.plot([effect.low, effect.high], [place, place], color="#555555", linewidth=1)
                pooled = distiller is None
                panel.plot(effect.mean, place, "D" if pooled else "o", color="#b2182b" if pooled else "#2166ac")
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_title(hazard)
        panel.set_xlabel(f"points over {BASE}")
    panels[0].set_yticks(range(len(lines)), [f"{s}, {d or 'pooled'}" for s, d in lines])
    panels[0].invert_yaxis()
    save(path)


def draw_doses(results: Results, name: str, path: Path) -> None:
    """Difference to ``always`` over the dose, a point for each student; a panel for each hazard."""
    hazards = [h for h in results.hazards if results.values(name, h, BASE)]
    _, panels, save = _figure(len(hazards), 3.0)
    for panel, hazard in zip(panels, hazards, strict=True):
        for strategy in (s for s in results.strategies if s != BASE):
            doses, gains = results.values(name, hazard, strategy, "dose"), results.differences(name, hazard, strategy)
            if len(doses) == len(gains) and gains:
                panel.plot(doses, gains, "o", label=strategy, alpha=0.7)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set_title(hazard)
        panel.set_xlabel("dose (mean weight)")
    panels[0].set_ylabel(f"points over {BASE}")
    handles = {label: h for panel in panels for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    panels[-1].legend(handles.values(), handles.keys(), fontsize=7)
    save(path)
