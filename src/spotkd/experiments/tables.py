"""The tables of a plan's results, before they are written in any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from ..distillers import DISTILLERS
from ..formatting import format_signed, join_words
from ..published import CAUTION, published_top1
from ..registry import PYTHON
from ..statistics import interval_factor, mean_interval
from .plan import Cell, Plan
from .results import (
    BASELINE,
    Result,
    ResultsByMethod,
    distilled_everywhere,
    paired_difference,
    student_alone,
)

NO_VALUE = "-"
LAST = "last epoch"
_EPOCH_OF = {
    LAST: "after the last epoch",
    "best on validation": "at the epoch that is best on the validation images",
    "best on test": "at the epoch that is best on the test images",
}
_OPTIMISTIC = (
    "Best on test chooses the epoch on the test images, which flatters: compare such numbers only with others made "
    "the same way."
)
_PREFIX = {BASELINE: "", "adaptive": "SAKD-", "anti": "anti-SAKD-", "joint": "joint-SAKD-"}  # as the field writes
_FEW_SEEDS = 3  # with so many or fewer an interval is too wide to lean on


def method_name(distiller: str, strategy: str) -> str:
    """How the field calls it: AT, SAKD-AT, random-AT."""
    what, where = (name.rpartition(".")[2] if name.startswith(PYTHON) else name for name in (distiller, strategy))
    if not distiller.startswith(PYTHON):
        what = DISTILLERS[distiller].__name__
    return _PREFIX.get(strategy, f"{where}-") + what


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


class DataSetTables:
    """The tables of one data set of a plan."""

    def __init__(self, plan: Plan, data: str, results: ResultsByMethod) -> None:
        self.data = data
        self.results = {method: of_method for method, of_method in results.items() if method.data == data}
        self.seeds = plan.seeds
        self.pairs = plan.networks
        self.head = [["teacher", *(pair[0] for pair in self.pairs)], ["student", *(pair[1] for pair in self.pairs)]]
        self.sections = self._make_sections()
        self.protocols = sorted({result.protocol for results in self.results.values() for result in results})
        mixed = "at the epoch that each run's own protocol chooses"
        self.epoch = _EPOCH_OF.get(self.protocols[0], mixed) if len(self.protocols) == 1 else mixed

    def _make_sections(self) -> list[list[Row]]:
        """The rows, a section for the networks alone and one for each distiller."""
        alone = [
            Row("teacher's accuracy", [Cell("teacher", self.data, teacher) for teacher, _ in self.pairs]),
            Row("student alone", [Cell("alone", self.data, student=student) for _, student in self.pairs]),
        ]
        sections = {"": [row for row in alone if row.methods[0] in self.results]}
        kinds = list(dict.fromkeys((m.distiller, m.strategy, m.hazard) for m in self.results if m.kind == "distill"))
        name_counts = Counter((method_name(distiller, strategy), hazard) for distiller, strategy, hazard in kinds)
        for distiller, strategy, hazard in kinds:
            name = method_name(distiller, strategy)
            if name_counts[name, hazard] > 1:  # two of the user's own by one name
                name += f" ({distiller} {strategy})"
            methods = [
                Cell("distill", self.data, teacher, student, distiller, strategy, hazard=hazard)
                for teacher, student in self.pairs
            ]
            row = Row(f"{name}, {hazard}" if hazard else name, methods)
            sections.setdefault(f"{hazard} {distiller}", []).append(row)
        return list(sections.values())

    def tables(self) -> Iterator[Table]:
        """Accuracies, the same after the last epoch where another was chosen, and differences."""
        remarks = [*self._protocol_remarks(), *([_OPTIMISTIC] if "best on test" in self.protocols else [])]
        remarks += self._teacher_remarks()
        yield self._accuracy_table("Accuracy", self.epoch, lambda result: result.top1, remarks)
        if set(self.protocols) - {LAST}:
            yield self._accuracy_table(
                "Accuracy after the last epoch", _EPOCH_OF[LAST], lambda result: result.last_top1, []
            )
        yield from self._published_table()
        yield from self._difference_tables(f"the same distiller at every spot ({BASELINE})", distilled_everywhere)
        yield from self._difference_tables("the student alone", student_alone)

    def _published_table(self) -> Iterator[Table]:
        """The paper's own numbers for the same methods, if there are any."""

        def top1(method: Cell) -> float | None:
            pair = (method.data, method.distiller, method.teacher, method.student)
            return None if method.hazard else published_top1(*pair, method.strategy)

        sections = [[row for row in section if any(map(top1, row.methods))] for section in self.sections]
        if any(sections):
            yield self._fill(
                "In the paper", f"Test top-1 (%) in the paper's tables: {CAUTION}.", sections,
                lambda method: NO_VALUE if (found := top1(method)) is None else f"{found:.2f}", "", [],
            )  # fmt: skip

    def _accuracy_table(self, title: str, epoch: str, value: Callable[[Result], float], remarks: list[str]) -> Table:
        def text(method: Cell) -> str:
            found = mean_interval([value(result) for result in self.results[method]])
            if found is None:
                return NO_VALUE
            deviation = "" if found.std is None else f" ± {found.std:.2f}"
            return f"{found.mean:.2f}{deviation}{self._seed_count(found.n, method)}"

        seeds = ", ".join(map(str, self.seeds))
        if len(self.seeds) > 1:
            numbers = f"mean ± standard deviation over n = {len(self.seeds)} seeds ({seeds})"
        else:
            numbers = f"one run each, seed {seeds}"
        teacher = "; the teacher is one run" if any(method.kind == "teacher" for method in self.results) else ""
        caption = f"Test top-1 (%) {epoch}: {numbers}{teacher}."
        return self._fill(title, caption, self.sections, text, "are finished", remarks)

    def _difference_tables(self, what: str, baseline: Callable[[Cell], Cell]) -> Iterator[Table]:
        """The table of differences to ``baseline``, if there is any."""

        def compared(method: Cell) -> bool:
            return method.kind == "distill" and baseline(method) != method and baseline(method) in self.results

        sections = [[row for row in section if compared(row.methods[0])] for section in self.sections]
        methods = [method for row in chain(*sections) for method in row.methods]
        found = {method: paired_difference(self.results[method], self.results[baseline(method)]) for method in methods}

        def text(method: Cell) -> str:
            difference = found[method]
            if difference is None:
                return NO_VALUE
            between = difference.interval
            interval = "" if between is None else f" [{format_signed(between[0])}, {format_signed(between[1])}]"
            return f"{format_signed(difference.mean)}{interval}{self._seed_count(difference.n, method)}"

        counts = [difference.n for difference in found.values() if difference is not None]
        if not counts:
            return
        n = len(self.seeds)
        numbers = f"mean [95 % interval by Student's t], n = {n} seeds" if n > 1 else "one seed"
        caption = f"Percentage points of test top-1 {self.epoch}, paired by seed: {numbers}."
        remarks = ["Only runs under the same protocol are compared."] if len(self.protocols) > 1 else []
        yield self._fill(
            f"Difference to {what}", caption, sections, text, "have both runs", [*remarks, *interval_cautions(counts)]
        )

    def _seed_count(self, n: int, method: Cell) -> str:
        """The number of seeds where it is not the one that the caption names."""
        return f" ({n}/{len(self.seeds)})" if method.kind != "teacher" and n < len(self.seeds) else ""

    def _fill(
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

    def _teacher_remarks(self) -> list[str]:
        """Which teachers have nothing to teach."""
        found = [result.cell.teacher for result in chain(*self.results.values()) if result.guesses]
        if not found:
            return []
        names = join_words(list(dict.fromkeys(found)))
        return [f"No better on the test images than guessing: {names}. Their students learn nothing from them."]

    def _protocol_remarks(self) -> list[str]:
        """Which rows follow which protocol, if they differ."""
        if len(self.protocols) < 2:
            return []
        followers: dict[str, list[str]] = {protocol: [] for protocol in self.protocols}
        for row in chain(*self.sections):
            results = list(dict.fromkeys(result for method in row.methods for result in self.results[method]))
            for protocol, names in followers.items():
                mine = [result for result in results if result.protocol == protocol]
                runs = ", ".join(" ".join(result.cell.name_parts[1:]) for result in mine)
                if mine:  # a row of several protocols names its runs
                    names.append(row.name if mine == results else f"{row.name} ({runs})")
        which = "; ".join(f"{protocol}: {', '.join(names)}" for protocol, names in followers.items())
        return [f"The protocols are mixed, and accuracies comparable only within one. {which[0].upper()}{which[1:]}."]


def interval_cautions(counts: Sequence[int]) -> list[str]:
    """What differences over so many seeds each can and cannot show."""
    remarks = []
    if 1 in counts:
        remarks.append("A single seed has no interval: nothing tells its difference from chance.")
    several = [n for n in counts if n > 1]
    if several and min(several) <= _FEW_SEEDS:
        n = min(several)
        remarks.append(
            f"With n = {n} an interval reaches {interval_factor(n):.1f} standard deviations of the differences to "
            f"either side (with n = 10: {interval_factor(10):.1f}): it is very wide and says little."
        )
    if len(several) >= 20:
        remarks.append(
            f"Were there no differences at all, about {len(several) / 20:.0f} of these {len(several)} intervals would "
            "leave out 0 by chance."
        )
    return remarks
