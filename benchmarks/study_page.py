"""The page and the figures of :mod:`study`, from its rows. Needs SciPy and matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from study_results import (
    BASE,
    DEAREST,
    NOT_WORSE,
    OverTeachers,
    Results,
    Row,
    candidates,
    choose_default,
    corrected,
    over_teachers,
    pool,
    read_rows,
)

FIRST = "emoji10@0"  # under whose teacher the students of the main tables learnt
TRUST_QUESTION = """
    The tables above compare students of one teacher a set, on the same 559 or 9 964 test images, and their intervals
    hold for other students of that teacher on these images. Here (`--plan trust`, KD) a set has several teachers, and
    all training images that nothing else uses are validation images: 1 527 of emoji10, 5 640 of glyph94. Differences to
    `always`, mean and 95 % interval over teachers (Student's over the means of each one's students); one teacher of
    emoji10 is that of the tables above. `constant@trust` and `random@trust` have the dose of `trust`; the other names
    starting with trust are rules for samples about which the teacher errs, from `benchmarks/trust_rules.py`, which says
    by which rule one was to be chosen.
"""
PUBLISHED_GAIN = (
    "+0.26 points (50 pairs of one kind), +0.24 (49 of different kinds) on CIFAR-100, +0.43 on Tiny-ImageNet"
)


def write_page(folder: Path, path: Path, missing: Sequence[str] = ()) -> None:
    """Write the page of a study's folder, and its figures into ``assets/`` beside the page.

    Args:
        folder: has ``results.csv`` and, from ``strategy_costs.py``, ``costs.csv`` and ``costs-rkd.csv``; from
            ``--plan trust`` ``trust.csv``. Where one is not there, the page says nothing of it.
        path: of the page.
        missing: the set of each cell that has no row yet.
    """
    results = Results(read_rows(folder / "results.csv"), read_rows(folder / "costs.csv"))
    relational = {row["strategy"]: row["cost"] for row in read_rows(folder / "costs-rkd.csv")}
    figures = path.parent / "assets"
    figures.mkdir(parents=True, exist_ok=True)
    for name in results.sets:
        draw_forest(results, name, figures / f"study-forest-{name}.svg")
        draw_doses(results, name, figures / f"study-dose-{name}.svg")
    pictures = (figures / "study-refused.png").exists()
    lines = page_lines(results, missing, pictures, read_rows(folder / "trust.csv"), relational)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def page_lines(
    results: Results,
    missing: Sequence[str] = (),
    pictures: bool = False,
    trust: Sequence[Row] = (),
    of_rkd: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The page in Markdown.

    Args:
        results: the students of the main plan, and costs.
        missing: the set of each cell that has no row yet.
        pictures: whether there are any of what was refused.
        trust: rows of the plan ``trust``.
        of_rkd: costs of a step with RKD, by strategy.
    """
    costs = [f"`{name}` {cost}" for name, cost in (of_rkd or {}).items() if name != BASE]
    relational = f"With RKD, whose loss relates samples: {', '.join(costs)}." if costs else ""
    students = sum(1 for key in results.rows if key[2])
    yield "<!-- made by benchmarks/study.py --page from benchmarks/results/study: change that -->\n"
    yield "# The study: where to distil, under hazards\n"
    yield "Which strategy helps, where the teacher errs and where it does not; made again, figures included, by\n"
    yield "```\npython benchmarks/study.py --out benchmarks/results/study --page docs/study.md\n```\n"
    yield _paragraph(f"""
        {students} students so far, on {", ".join(results.sets)}, with {", ".join(results.distillers)}. Each is compared
        with the student of `{BASE}` (the published weight of the distiller, every sample at every spot) of the same
        seed, distiller and [hazard](commands.md#spotkd-distill), which began alike and met the same images in the same
        order. Test top-1 in points: mean, [95 % interval by a bootstrap over seeds and distillers], number of pairs. No
        test image chose an epoch. Intervals from few pairs are too narrow: treat those of fewer than ten as a hint.
        (`--balance auto`, the default of `distill`, makes of `always` what is called `balance` here.)
    """)
    yield replication(results)
    yield from default_lines(results)
    for name in results.sets:
        yield from _set_lines(results, name)
    yield from trust_lines(trust)
    if pictures:
        yield "## What is refused\n"
        yield _paragraph("""
            Training images whose teacher outputs had no weight at any spot in the last epoch, each with its label and
            what the teacher takes it for (`benchmarks/refused.py`; AT, `trust+balance`, seed 1). Below, for 40 % the
            teacher sees another picture. In training they are shifted by up to two pixels, so a picture may have been
            refused that the teacher knows when it stands still.
        """)
        yield "![Refused pictures](assets/study-refused.png)\n"
    yield "## What a step costs\n"
    yield from _table(["strategy", "step, over `always`"], [[f"`{s}`", f"{c:.2f}"] for s, c in results.costs.items()])
    yield _paragraph(f"""
        Processor time on one thread, the median of rounds in which all take turns: AT, resnet20 → resnet8, 16 pixels,
        batch 64, `benchmarks/strategy_costs.py`. `adaptive` is what is called `published` above; `confidence` has two
        teachers and is measured by `always` of both, whose row is measured by that of one; `semckd` is a distiller with
        weights of its own. {relational}
    """)
    yield "## How it was made\n"
    yield _paragraph("""
        `python benchmarks/study.py --out benchmarks/results/study` trains what is missing, and `--page docs/study.md`
        writes this page; its docstring says what a cell is. `published` is SAKD as in the paper, `scaled` the same with
        `--policy.schedule scaled`; `random@NAME` distils a random share as large as NAME had in the same cell, with its
        balance. glyph94: 50 typefaces, resnet20 → resnet8, 16 pixels, 5 epochs; emoji10: 10 classes, small
        convolutional networks, 60 epochs; one-cycle, rate 0.1.
    """)
    yield _paragraph("""
        Its limits: one teacher a set, so seeds are those of students alone; two sets, small networks, short runs. For
        lack of time the plan was cut after its first 23 students had been seen, to glyph94 and four strategies (later
        five), and how the rule pools was written then too. What the rule says has changed while students were added:
        `trust+balance` with 5 and 6 pairs on clean data, `balance` with 7, `trust+balance` with 9. The rows of `kd`
        came last. So it is not settled, and the last seed may lack a distiller. Constants of `trust` and `balance` come
        from pilots on the same sets. Confirm on data of your own.
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


def default_lines(results: Results) -> Iterator[str]:
    """The rule for the default, and what it chooses."""
    chosen = choose_default(results)
    answer = f"`{chosen}`" if chosen else "none yet"
    yield _paragraph(f"""
        **The rule for the default**, written down before this study: among strategies whose pooled difference to
        `{BASE}` on clean data has a lower bound above {NOT_WORSE} points and whose step costs at most {DEAREST} times
        as much, the one with the largest gain under hazards. By these students: {answer}.
    """)
    yield from _table(
        ["strategy", "clean data", "step", "under hazards", "qualifies"],
        [
            [f"`{c.strategy}`", str(c.clean), f"{c.cost:.2f}", str(c.gain), "yes" if c.qualifies else "no"]
            for c in candidates(results)
        ],
    )
    clean = {name: pool(results.differences(name, "none", chosen)) for name in results.sets} if chosen else {}
    worse = [
        f"{name} {effect}" for name, effect in clean.items() if effect and effect.high is not None and effect.high < 0
    ]
    harm = (
        f"On clean data {answer} lies below `{BASE}` on {', '.join(worse)}, with one teacher and on the same test "
        "images; see [below](#trust-under-several-teachers) for others."
    )
    yield _paragraph(f"""
        The default of `distill` is still `always` with `--balance auto`, that is `balance`. Strategies are pooled over
        the cells that they have, and `balance` has no rows of `kd`, on which it does nothing and so makes no
        difference.
        {harm if worse else ""}
    """)


def trust_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What `trust` does under several teachers, and what it might do instead where they err."""
    if not rows:
        return
    yield "## Trust, under several teachers\n"
    yield _paragraph(TRUST_QUESTION)
    every = {part: list(over_teachers(rows, part)) for part in ("val", "test")}
    head = ["set", "hazard", "strategy", "validation images", "test images", "dose", "refused: damaged", "intact"]
    lines = []
    for on_val, on_test in zip(every["val"], every["test"], strict=True):
        refused = [on_val.mean(f"refused_{kind}", 2) for kind in ("damaged", "intact")]
        first = [on_val.set, on_val.hazard, f"`{on_val.strategy}`", str(on_val), str(on_test).partition(" (")[0]]
        lines.append([*first, on_val.mean("dose", 2), *refused])
    yield from _table(head, lines)
    yield _paragraph(_trust_answer(rows, every["val"], every["test"]))


def _trust_answer(rows: Sequence[Row], on_val: Sequence[OverTeachers], on_test: Sequence[OverTeachers]) -> str:
    """What the table says about `trust`, in words."""
    clean = [(v, t) for v, t in zip(on_val, on_test, strict=True) if (v.hazard, v.strategy) == ("none", "trust")]
    costs = [f"{v.set} {v} on validation images, {str(t).partition(' (')[0]} on test images" for v, t in clean]
    first = [
        f"{statistics.fmean(each.differences[FIRST]):+.1f} on {what} images"
        for pair in clean
        for each, what in zip(pair, ("validation", "test"), strict=True)
        if FIRST in each.differences
    ]
    alike = [v for v in on_val if (v.hazard, v.strategy) == ("none", "trust_places")]
    differences = {v.set: [x for those in v.differences.values() for x in those] for v in alike}
    chance = [f"{statistics.stdev(x):.1f} points on {name}" for name, x in differences.items() if len(x) > 2]
    graded = [
        f"{each.set} {each}"
        for each in over_teachers(rows, "val", "trust")
        if each.hazard != "none" and each.strategy == "trust:graded=true"
    ]
    return f"""
        On clean data, `trust` beside `{BASE}`: {"; ".join(costs)}. So no cost is shown; the intervals
        say how large one may be. (The students of `{FIRST}`: {", ".join(first)}.) Pairs differ by chance even where
        99 % of what is distilled is the same, `trust_places` and `{BASE}` by a standard deviation of
        {" and ".join(chance)}: four or five pairs cannot show a point, and if they agree, they share their teacher and
        their test images. By the rule `trust` stays as it is. To believe honest mistakes (`trust:graded=true`) makes no
        difference that these students could show; under damage, beside `trust`: {"; ".join(graded)} on validation
        images.
    """


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
    others = [(s, f"random@{s}", "At equal dose") for s in results.strategies]
    for strategy, other, why in (*others, ("trust+balance", "balance", "What trust adds")):
        paired = [(h, pool(results.differences(name, h, strategy, other))) for h in hazards]
        said = "; ".join(f"{h} {effect}" for h, effect in paired if effect)
        if said:
            yield f"{why}, `{strategy}` minus `{other}`: {said}.\n"
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
