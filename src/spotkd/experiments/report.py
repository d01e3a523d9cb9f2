"""The tables of a plan from its finished runs: Markdown, LaTeX, and CSV for those who compute on.

Nothing in them tells when a run was made or how long it took, so that a repeated plan gives the same files.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

import yaml

from ..distillers import DISTILLERS
from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..registry import PYTHON
from .plan import Cell, Plan, cells

NOTHING = "-"
BASELINE = "always"  # ordinary distillation, which every other strategy is compared with
LAST = "last epoch"
_EPOCH = {
    LAST: "after the last epoch",
    "best on validation": "at the epoch that is best on the validation images",
    "best on test": "at the epoch that is best on the test images",
}
_FLATTERS = (
    "Best on test chooses the epoch on the test images, which flatters: compare such numbers only with others made "
    "the same way."
)
_FIELD = {BASELINE: "", "adaptive": "SAKD-", "anti": "anti-SAKD-", "joint": "joint-SAKD-"}  # as the field writes
_FEW = 3  # up to so many seeds an interval is too wide to lean on
_LINES = 40  # of a LaTeX table, which cannot break across pages


@dataclass(frozen=True)
class Result:
    """What a finished run measured.

    Attributes:
        cell: which run of the plan it is.
        top1: test accuracy of the chosen epoch, in percent.
        last_top1: the same after the last epoch, whichever was chosen.
        protocol: how that was chosen: last epoch, best on validation, best on test.
        epoch: the chosen epoch.
        epochs: number of epochs.
        device: what it ran on, and in which precision.
        machine: the processor or GPU.
        spotkd: version of this package.
        torch: version of PyTorch.
        python: version of Python.
    """

    cell: Cell
    top1: float
    last_top1: float
    protocol: str
    epoch: int
    epochs: int
    device: str
    machine: str
    spotkd: str
    torch: str
    python: str


Runs = dict[Cell, list[Result]]  # by method: the cell without its seed


def read_results(plan: Plan, folder: Path) -> tuple[list[Result], list[Cell]]:
    """The results below ``folder`` and the cells without one, both in the plan's order.

    Raises:
        SpotkdError: a result cannot be read.
    """
    results, missing = [], []
    for cell in cells(plan):
        path = folder / cell.folder / "summary.json"
        if path.is_file():
            results.append(_read(cell, path))
        else:
            missing.append(cell)
    return results, missing


def _read(cell: Cell, path: Path) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Result(
            cell=cell,
            top1=float(content["scores"]["top1"]),
            last_top1=float(content["last"]["top1"]),
            epoch=int(content["epoch"]),
            epochs=int(content["epochs"]),
            **{key: str(content[key]) for key in ("protocol", "device", "machine", "spotkd", "torch", "python")},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise SpotkdError(
            f"{path}: damaged or not a run's result ({reason}); remove it and run the plan again"
        ) from error


def by_method(plan: Plan, results: Iterable[Result]) -> Runs:
    """The results of every method of the plan, over its seeds; empty where nothing is finished."""
    runs: Runs = {replace(cell, seed=None): [] for cell in cells(plan)}
    for result in results:
        runs[replace(result.cell, seed=None)].append(result)
    return runs


@dataclass(frozen=True)
class Spread:
    """Mean of ``n`` values and their sample standard deviation, which a single one does not have."""

    n: int
    mean: float
    std: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t."""
        if self.std is None:
            return None
        half = reach(self.n) * self.std
        return self.mean - half, self.mean + half


def spread(values: Sequence[float]) -> Spread | None:
    """Their mean and standard deviation; None if there are none."""
    if not values:
        return None
    return Spread(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


@cache
def reach(n: int) -> float:
    """How many standard deviations of ``n`` values the 95 % interval of their mean reaches to either side."""
    from scipy.stats import t  # slow to import, and needed by nothing else

    return float(t.ppf(0.975, n - 1)) / math.sqrt(n)


def paired(ours: Iterable[Result], theirs: Iterable[Result]) -> Spread | None:
    """``ours`` minus ``theirs`` over the seeds that both have under one protocol; None if there are none."""
    other = {(result.cell.seed, result.protocol): result.top1 for result in theirs}
    ours = [result for result in ours if (result.cell.seed, result.protocol) in other]
    return spread([result.top1 - other[result.cell.seed, result.protocol] for result in ours])


def _always(method: Cell) -> Cell:
    return replace(method, strategy=BASELINE)


def _alone(method: Cell) -> Cell:
    return Cell("alone", method.data, student=method.student)


def method_name(distiller: str, strategy: str) -> str:
    """How the field calls it: AT, SAKD-AT, random-AT."""
    what, where = (name.rpartition(".")[2] if name.startswith(PYTHON) else name for name in (distiller, strategy))
    if not distiller.startswith(PYTHON):
        what = DISTILLERS[distiller].__name__
    return _FIELD.get(strategy, f"{where}-") + what


@dataclass(frozen=True)
class Row:
    """A line of a table: its name and the method in each column."""

    name: str
    methods: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table with its caption, and remarks below it; sections of rows are set apart in print."""

    title: str
    caption: str
    head: list[list[str]]
    sections: list[list[list[str]]]
    remarks: list[str]


class Part:
    """The tables of one data set of a plan."""

    def __init__(self, plan: Plan, data: str, runs: Runs) -> None:
        self.data = data
        self.runs = {method: results for method, results in runs.items() if method.data == data}
        self.seeds = plan.seeds
        self.pairs = plan.networks
        self.head = [["teacher", *(pair[0] for pair in self.pairs)], ["student", *(pair[1] for pair in self.pairs)]]
        self.sections = self._sections()
        self.protocols = sorted({result.protocol for results in self.runs.values() for result in results})
        mixed = "at the epoch that each run's own protocol chooses"
        self.epoch = _EPOCH.get(self.protocols[0], self.protocols[0]) if len(self.protocols) == 1 else mixed

    def _sections(self) -> list[list[Row]]:
        """The rows, a section for the networks alone and one for each distiller."""
        alone = [
            Row("teacher's accuracy", [Cell("teacher", self.data, teacher) for teacher, _ in self.pairs]),
            Row("student alone", [Cell("alone", self.data, student=student) for _, student in self.pairs]),
        ]
        sections = {"": [row for row in alone if row.methods[0] in self.runs]}
        kinds = list(dict.fromkeys((m.distiller, m.strategy) for m in self.runs if m.kind == "distill"))
        times = Counter(method_name(*kind) for kind in kinds)
        for distiller, strategy in kinds:
            name = method_name(distiller, strategy)
            if times[name] > 1:  # two of the user's own by one name
                name += f" ({distiller} {strategy})"
            methods = [
                Cell("distill", self.data, teacher, student, distiller, strategy) for teacher, student in self.pairs
            ]
            sections.setdefault(distiller, []).append(Row(name, methods))
        return list(sections.values())

    def tables(self) -> Iterator[Table]:
        """Accuracies, the same after the last epoch where another was chosen, and differences."""
        remarks = [*self._mixed(), *([_FLATTERS] if "best on test" in self.protocols else [])]
        yield self._accuracy("Accuracy", self.epoch, lambda result: result.top1, remarks)
        if set(self.protocols) - {LAST}:
            yield self._accuracy("Accuracy after the last epoch", _EPOCH[LAST], lambda result: result.last_top1, [])
        yield from self._differences(f"the same distiller at every spot ({BASELINE})", _always)
        yield from self._differences("the student alone", _alone)

    def _accuracy(self, title: str, epoch: str, value: Callable[[Result], float], remarks: list[str]) -> Table:
        def text(method: Cell) -> str:
            found = spread([value(result) for result in self.runs[method]])
            if found is None:
                return NOTHING
            deviation = "" if found.std is None else f" ± {found.std:.2f}"
            return f"{found.mean:.2f}{deviation}{self._mark(found.n, method)}"

        seeds = ", ".join(map(str, self.seeds))
        if len(self.seeds) > 1:
            numbers = f"mean ± standard deviation over n = {len(self.seeds)} seeds ({seeds})"
        else:
            numbers = f"one run each, seed {seeds}"
        teacher = "; the teacher is one run" if any(method.kind == "teacher" for method in self.runs) else ""
        caption = f"Test top-1 (%) {epoch}: {numbers}{teacher}."
        return self._table(title, caption, self.sections, text, "are finished", remarks)

    def _differences(self, what: str, baseline: Callable[[Cell], Cell]) -> Iterator[Table]:
        """The table of differences to ``baseline``, if there is any."""

        def compared(method: Cell) -> bool:
            return method.kind == "distill" and baseline(method) != method and baseline(method) in self.runs

        sections = [[row for row in section if compared(row.methods[0])] for section in self.sections]
        methods = [method for row in chain(*sections) for method in row.methods]
        found = {method: paired(self.runs[method], self.runs[baseline(method)]) for method in methods}

        def text(method: Cell) -> str:
            difference = found[method]
            if difference is None:
                return NOTHING
            between = difference.interval
            interval = "" if between is None else f" [{_signed(between[0])}, {_signed(between[1])}]"
            return f"{_signed(difference.mean)}{interval}{self._mark(difference.n, method)}"

        counts = [difference.n for difference in found.values() if difference is not None]
        if not counts:
            return
        n = len(self.seeds)
        numbers = f"mean [95 % interval by Student's t], n = {n} seeds" if n > 1 else "one seed"
        caption = f"Percentage points of test top-1 {self.epoch}, paired by seed: {numbers}."
        remarks = ["Only runs under the same protocol are compared."] if len(self.protocols) > 1 else []
        yield self._table(
            f"Difference to {what}", caption, sections, text, "have both runs", [*remarks, *caution(counts)]
        )

    def _mark(self, n: int, method: Cell) -> str:
        """The number of seeds where it is not the one that the caption names."""
        return f" ({n}/{len(self.seeds)})" if method.kind != "teacher" and n < len(self.seeds) else ""

    def _table(
        self,
        title: str,
        caption: str,
        sections: list[list[Row]],
        text: Callable[[Cell], str],
        counted: str,
        remarks: list[str],
    ) -> Table:
        filled = [[[row.name, *map(text, row.methods)] for row in section] for section in sections if section]
        if any(cell.endswith(f"/{len(self.seeds)})") for row in chain(*filled) for cell in row[1:]):
            remarks = [f"(n/{len(self.seeds)}) marks where only n of the {len(self.seeds)} seeds {counted}.", *remarks]
        return Table(title, caption, self.head, filled, remarks)

    def _mixed(self) -> list[str]:
        """Which rows follow which protocol, if they differ."""
        if len(self.protocols) < 2:
            return []
        followers: dict[str, list[str]] = {protocol: [] for protocol in self.protocols}
        for row in chain(*self.sections):
            results = list(dict.fromkeys(result for method in row.methods for result in self.runs[method]))
            for protocol, names in followers.items():
                mine = [result for result in results if result.protocol == protocol]
                runs = ", ".join(" ".join(result.cell.parts[1:]) for result in mine)
                if mine:  # a row of several protocols names its runs
                    names.append(row.name if mine == results else f"{row.name} ({runs})")
        which = "; ".join(f"{protocol}: {', '.join(names)}" for protocol, names in followers.items())
        return [f"The protocols are mixed, and accuracies comparable only within one. {which[0].upper()}{which[1:]}."]


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # without the minus of -0.00


def caution(counts: Sequence[int]) -> list[str]:
    """What differences over so many seeds each can and cannot tell."""
    remarks = []
    if 1 in counts:
        remarks.append("A single seed has no interval: nothing tells its difference from chance.")
    several = [n for n in counts if n > 1]
    if several and min(several) <= _FEW:
        n = min(several)
        remarks.append(
            f"With n = {n} an interval reaches {reach(n):.1f} standard deviations of the differences to "
            f"either side (with n = 10: {reach(10):.1f}): it is very wide and says little."
        )
    if len(several) >= 20:
        remarks.append(
            f"Were there no differences at all, about {len(several) / 20:.0f} of these {len(several)} intervals would "
            "leave out 0 by chance."
        )
    return remarks


def write_report(plan: Plan, name: str, folder: Path, command: str) -> str:
    """Write report.md, report.csv (a row a method), runs.csv (a row a run) and report.tex into ``folder``.

    Args:
        plan: what was to be run.
        name: the plan's name.
        folder: where its runs lie.
        command: the command that runs it.

    Returns:
        The report in Markdown.

    Raises:
        SpotkdError: nothing is finished yet, or a result cannot be read.
    """
    results, missing = read_results(plan, folder)
    if not results:
        raise SpotkdError(f"{folder}: no run of the plan {name} is finished; '{command}' runs it")
    runs = by_method(plan, results)
    parts = [part for part in (Part(plan, data, runs) for data in plan.data) if part.protocols]
    tables = {part.data: list(part.tables()) for part in parts}
    markdown = _markdown(plan, tables, results, missing, folder, command)
    contents = {
        "report.md": markdown,
        "report.csv": _csv(_method_row(method, plan, runs) for method in runs),
        "runs.csv": _csv(_run_row(result) for result in results),
        "report.tex": _latex(tables, name, command),
    }
    for file, content in contents.items():
        with atomic_write(folder / file) as path:
            path.write_text(content, encoding="utf-8")
    return markdown


def _markdown(
    plan: Plan,
    tables: dict[str, list[Table]],
    results: list[Result],
    missing: list[Cell],
    folder: Path,
    command: str,
) -> str:
    blocks = [f"# {plain(plan.title)}", plain(plan.note)]
    if missing:
        total = len(results) + len(missing)
        blocks.append(f"**{len(results)} of {total} runs are finished**; the rest is listed at the end.")
    for data, of_data in tables.items():
        blocks.append(f"## {plain(data)}")
        for table in of_data:
            blocks += [f"### {table.title}", table.caption, _markdown_table(table), plain(" ".join(table.remarks))]
    if any(table.title.startswith("Difference") for of_data in tables.values() for table in of_data):
        blocks.append(
            "The seeds vary the students' runs only: every teacher is one run, so the intervals do not tell what "
            "another teacher would give."
        )
    blocks += ["## How it was made", "\n".join(f"- {line}" for line in _circumstances(plan, results, command))]
    if missing:
        blocks += ["## Not finished", "\n".join(f"- {line}" for line in _unfinished(missing, folder))]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _markdown_table(table: Table) -> str:
    """Aligned, to be read as it is, too."""
    rows = [*table.head, *chain(*table.sections)]
    rows = [[plain(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def _circumstances(plan: Plan, results: list[Result], command: str) -> Iterator[str]:
    yield f"command: `{plain_code(command)}`"
    for what, options in (
        ("options of every run, over its recipe's", plan.options),
        ("options of the policy, where one learns", plan.policy),
        ("options of the teachers", plan.teacher),
    ):
        if options:
            compact = yaml.safe_dump(options, default_flow_style=True, sort_keys=False, width=math.inf)
            yield f"{what}: `{plain_code(compact)}`"
    yield f"seeds: {', '.join(map(str, plan.seeds))}"
    for what, kinds in (("students", ("alone", "distill")), ("teachers", ("teacher",))):
        epochs = sorted({result.epochs for result in results if result.cell.kind in kinds})
        if epochs:
            yield f"epochs of the {what}: {', '.join(map(str, epochs))}"
    yield "hardware: " + plain(_distinct(f"{result.machine} ({result.device})" for result in results))
    versions = (f"spotkd {result.spotkd}, PyTorch {result.torch}, Python {result.python}" for result in results)
    yield "versions: " + plain(_distinct(versions))


def _distinct(values: Iterable[str]) -> str:
    """Each once; with the number of runs if there are several."""
    times = Counter(values)
    if len(times) == 1:
        return next(iter(times))
    return "; ".join(f"{value}: {number} runs" for value, number in sorted(times.items()))


def _unfinished(missing: list[Cell], folder: Path) -> Iterator[str]:
    """Failed runs each with its reason, the others a line a method."""
    waiting: dict[Cell, list[str]] = {}
    for cell in missing:
        path = folder / cell.folder / "error.txt"
        if path.is_file():
            reason = plain_code(path.read_text(encoding="utf-8", errors="replace"))
            yield f"{plain(str(cell))}: failed: `{reason or 'no reason given'}`"
        else:
            waiting.setdefault(replace(cell, seed=None), []).append(str(cell.seed))
    for method, seeds in waiting.items():
        yield f"{plain(str(method))}: not run yet" + ("" if method.kind == "teacher" else f": seed {', '.join(seeds)}")


def _csv(rows: Iterable[dict[str, object]]) -> str:
    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe, which makes it text there; numbers stay."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if formula else value


def plain_code(text: str) -> str:
    """The same between backticks, where only they mean anything."""
    return "".join(filter(str.isprintable, " ".join(text.split()).replace("`", "'")))


def plain(text: str) -> str:
    """A name from outside as it is to be read in Markdown: one line, no HTML, no link, no code."""
    line = " ".join(text.split()).replace("<", "&lt;").replace("](", "]\\(").replace("`", "'")
    return "".join(filter(str.isprintable, line))


def _method_row(method: Cell, plan: Plan, runs: Runs) -> dict[str, object]:
    results = runs[method]
    chosen = spread([result.top1 for result in results])
    last = spread([result.last_top1 for result in results])
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
    for name, baseline in (("to_always", _always(method)), ("to_alone", _alone(method))):
        compared = method.kind == "distill" and baseline != method
        difference = paired(results, runs.get(baseline, [])) if compared else None
        low, high = (difference and difference.interval) or (None, None)
        row |= {f"{name}_n": difference and difference.n, name: difference and difference.mean}
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row


def _run_row(result: Result) -> dict[str, object]:
    row = asdict(result)
    return {**row.pop("cell"), **row}


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        **dict.fromkeys("\n\r\t\x0b\x0c", " "),
    }
)


def tex(text: str) -> str:
    """Escaped for LaTeX; a minus before a number is one."""
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_TEX))


def _latex(tables: dict[str, list[Table]], name: str, command: str) -> str:
    lines = [f"% Made by: {' '.join(command.split())}", r"% Needs \usepackage{booktabs}."]
    for data, of_data in tables.items():
        for table in of_data:
            label = re.sub(r"[^A-Za-z0-9]+", "-", f"{name}-{data}-{table.title}").strip("-").lower()
            caption = " ".join([f"{data}. {table.title}. {table.caption}", *table.remarks])
            reference = rf"\ref{{tab:{label}}}"
            columns = len(table.head[0]) - 1
            space = "6pt" if columns <= 3 else "2.5pt"  # five pairs fit the page of the article class
            for number, rows in enumerate(_pages(table)):
                lines += [
                    "",
                    r"\begin{table}[ht]",
                    rf"\centering\footnotesize\setlength{{\tabcolsep}}{{{space}}}\setlength{{\belowcaptionskip}}{{4pt}}",
                    rf"\caption{{{f'Table~{reference}, continued.' if number else tex(caption)}}}",
                    rf"\label{{tab:{label}{f'-{number + 1}' if number else ''}}}",
                    rf"\begin{{tabular}}{{@{{}}l{'c' * columns}@{{}}}}",
                    r"\toprule",
                    *(rf"{' & '.join(map(tex, row))} \\" for row in table.head),
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
    return "\n".join(lines) + "\n"


def _pages(table: Table) -> list[list[str]]:
    """The lines of its rows, shared out among as many tables as needed; a section stays together."""
    pages: list[list[str]] = [[]]
    for section in table.sections:
        lines = [rf"{' & '.join(map(tex, line))} \\" for row in section for line in _lines(row)]
        if pages[-1] and len(pages[-1]) + len(lines) > _LINES:
            pages.append([])
        pages[-1] += [r"\addlinespace", *lines] if pages[-1] else lines
    return pages


def _lines(row: list[str]) -> list[list[str]]:
    """A row as it is printed: in wide tables the intervals stand below their means."""
    parts = [cell.partition(" [") for cell in row]
    below = [bracket.strip() + rest for _, bracket, rest in parts]
    return [[first for first, _, _ in parts], below] if len(row) > 3 and any(below) else [row]
