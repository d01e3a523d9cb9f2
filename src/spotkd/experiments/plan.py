"""A plan: a grid of runs over data sets, pairs of networks, distillers, strategies and seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import SpotkdError
from ..options import DistillOptions, TrainOptions, read_options
from ..options.grammar import parse_hazards
from ..recipes import merged, networks, resolved
from ..registry import unknown_name
from ..routing import make_strategy

NO_HAZARD = "none"
ALONE = "alone"  # in place of a pair: a student trained on labels


@dataclass
class Plan:
    """What a plan file says.

    Args:
        title: what the plan is for; the heading of its report.
        data: data sets.
        pairs: pairs of networks TEACHER-STUDENT.
        distillers: what to distil: names, or names with strategies of their own in place of all.
        strategies: where to distil.
        seeds: one run for each.
        hazards: damage under which all of them are distilled, as for --hazard; none for none.
        alone: also train every student without a teacher.
        options: options of every run, over those of its recipe; as in a file for --config.
        policy: options of the policy, for the strategies that learn.
        teacher: options of the teachers' runs, over the options of every run.
        note: a line of warning or explanation for the report.
    """

    title: str
    data: list[str]
    pairs: list[str]
    distillers: list[str] | dict[str, list[str]]
    strategies: list[str] = field(default_factory=lambda: ["always", "adaptive"])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    hazards: list[str] = field(default_factory=lambda: [NO_HAZARD])
    alone: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def networks(self) -> list[tuple[str, str]]:
        """Teacher and student of each pair."""
        return [_split_pair(pair) for pair in self.pairs]


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Attributes:
        kind: teacher, alone or distill.
        data: the data set.
        teacher: the teacher network; empty for a student alone.
        student: the student network; empty for a teacher's own run.
        distiller: what is distilled; empty where nothing is.
        strategy: where; empty where nothing is distilled.
        seed: the run's seed; None for a teacher, of which there is one.
        hazard: the damage under which is distilled; empty for none.
    """

    kind: str
    data: str
    teacher: str = ""
    student: str = ""
    distiller: str = ""
    strategy: str = ""
    seed: int | None = None
    hazard: str = ""

    @property
    def name_parts(self) -> tuple[str, ...]:
        """Its name, from the general to the particular."""
        seed = () if self.seed is None else (f"seed{self.seed}",)
        if self.kind == "teacher":
            return self.data, "teachers", self.teacher, *seed
        if self.kind == "alone":
            return self.data, ALONE, self.student, *seed
        hazard = (self.hazard,) if self.hazard else ()
        return self.data, f"{self.teacher}-{self.student}", self.distiller, self.strategy, *hazard, *seed

    def __str__(self) -> str:
        return " ".join(self.name_parts)

    @property
    def folder(self) -> Path:
        """Where its run lies, below the plan's folder."""
        return Path(*(part.replace("/", "-").replace(":", "-") for part in self.name_parts))

    @property
    def teacher_cell(self) -> Cell | None:
        """The teacher's run that must be finished first."""
        return Cell("teacher", self.data, self.teacher) if self.kind == "distill" else None


def shipped_plans() -> dict[str, Path]:
    """The plans that come with the package, by name."""
    folder = Path(str(files("spotkd") / "plans"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_plan(name: str) -> tuple[str, Path]:
    """Name and file of a plan, shipped or the user's own.

    Raises:
        SpotkdError: there is none.
    """
    path, shipped = Path(name), shipped_plans()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SpotkdError(f"{path}: no such plan; a name without .yaml is a shipped one: {', '.join(shipped)}")
        return path.stem, path
    if name not in shipped:
        raise unknown_name("plan", name, list(shipped))
    return name, shipped[name]


def read_plan(path: Path) -> Plan:
    """A plan from its file, every name in it checked.

    Raises:
        SpotkdError: an unknown key or name, a value of the wrong type, an option that a run does not take.
    """
    plan = read_options(Plan, path)
    for key in ("data", "pairs", "seeds", "hazards"):
        values = getattr(plan, key)
        if not values or len(set(values)) != len(values):
            raise SpotkdError(f"{path}: {key} is {values}: give at least one, each once")
    try:
        for strategy in (name for names in _methods(plan).values() for name in names):
            make_strategy(strategy)
        for cell in cells(plan):
            run_options(plan, cell)
    except SpotkdError as error:
        raise SpotkdError(f"{path}: {error}") from error
    return plan


def _methods(plan: Plan) -> dict[str, list[str]]:
    """Strategies by distiller."""
    if isinstance(plan.distillers, dict):
        return plan.distillers
    return dict.fromkeys(plan.distillers, plan.strategies)


def cells(plan: Plan) -> list[Cell]:
    """All runs of a plan, teachers first, then seed by seed, so that a first full table is there early."""
    return list(dict.fromkeys(_cells(plan)))  # pairs share students and teachers


def _cells(plan: Plan) -> Iterator[Cell]:
    pairs = plan.networks
    methods = _methods(plan)
    for data in plan.data:
        if methods:
            yield from (Cell("teacher", data, teacher) for teacher, _ in pairs)
    for seed in plan.seeds:
        for data in plan.data:
            for teacher, student in pairs:
                if plan.alone:
                    yield Cell("alone", data, student=student, seed=seed)
                for distiller, strategies in methods.items():
                    for strategy, hazard in product(strategies, plan.hazards):
                        damage = "" if hazard == NO_HAZARD else hazard
                        yield Cell("distill", data, teacher, student, distiller, strategy, seed, damage)


def _split_pair(pair: str) -> tuple[str, str]:
    found = networks(pair)
    if found is None:
        raise SpotkdError(f"pairs has {pair}: give TEACHER-STUDENT, as resnet56-resnet20")
    return found


def run_options(plan: Plan, cell: Cell) -> TrainOptions | DistillOptions:
    """The options of one run: its recipe's, then the plan's.

    Raises:
        SpotkdError: an unknown name, or an option that the run does not take.
    """
    options: dict[str, Any] = plan.options
    if cell.kind == "distill":
        recipe = f"{cell.data}/{cell.distiller}/{cell.teacher}-{cell.student}/{cell.strategy}"
        strategy = make_strategy(cell.strategy)
        if strategy.learns and plan.policy:
            options = merged(options, {"policy": plan.policy})
        if cell.hazard:
            parse_hazards(cell.hazard)
            options = merged(options, {"hazard": cell.hazard})
    else:
        recipe = f"{cell.data}/single/{cell.teacher or cell.student}"
        known = {entry.name for entry in fields(TrainOptions)}
        only_distilling = {entry.name for entry in fields(DistillOptions)} - known
        options = {key: value for key, value in options.items() if key not in only_distilling}
        if cell.kind == "teacher":
            options = merged(options, plan.teacher)
    if cell.seed is not None:
        options = merged(options, {"seed": cell.seed})
    return resolved(recipe, options)
