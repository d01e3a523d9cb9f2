"""Runs of one configuration, which differ in their seeds alone, and what each configuration is beside the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..analysis.palette import ROLES
from ..options import DistillOptions, TrainOptions
from ..options.grammar import parse_names
from ..options.values import result_differences
from ..statistics import MeanInterval, mean_interval
from .run_record import RunRecord
from .section import Section

ROLE_NAMES = {
    "adaptive": "adaptive",
    "always": "every spot",
    "kd": "plain KD",
    "alone": "student alone",
    "teacher": "teacher",
    "other": "other",
}


@dataclass(frozen=True)
class Group:
    """The runs of one configuration.

    Attributes:
        name: how to call them; of a single run its own name.
        role: one of :data:`ROLES`.
        sections: a run each, by seed.
    """

    name: str
    role: str
    sections: tuple[Section, ...]

    @property
    def runs(self) -> list[RunRecord]:
        return [section.run for section in self.sections]

    @property
    def options(self) -> TrainOptions | DistillOptions:
        """Of the first run; the others have other seeds."""
        return self.sections[0].run.options

    @property
    def top1(self) -> MeanInterval | None:
        """Test accuracy of the finished runs in percent; None where none is finished."""
        return mean_interval([run.summary.scores.top1 for run in self.runs if run.summary is not None])

    @property
    def seconds(self) -> float | None:
        """Mean training time of the finished runs, without evaluation."""
        found = mean_interval([run.summary.seconds for run in self.runs if run.summary is not None])
        return None if found is None else found.mean

    @property
    def step_milliseconds(self) -> float | None:
        """Mean time of a training step; None where the number of images is not known."""
        found = mean_interval([s.step_milliseconds for s in self.sections if s.step_milliseconds is not None])
        return None if found is None else found.mean

    @property
    def shares(self) -> dict[str, float]:
        """Share of samples distilled at each spot in the last epoch, by name, mean over the runs."""
        spots = self.sections[0].run.shares
        return {spot: _mean([run.shares.get(spot, 0.0) for run in self.runs]) for spot in spots}

    @property
    def mean_share(self) -> float:
        """Mean of the shares over the spots; 0 without any."""
        return _mean(list(self.shares.values()) or [0.0])


def group_runs(sections: Sequence[Section]) -> list[Group]:
    """The configurations among some runs: by role, the one of interest first, and by accuracy, the best first."""
    together: list[list[Section]] = []
    for section in sections:
        for group in together:
            if is_same_but_for_seed(group[0].run.options, section.run.options):
                group.append(section)
                break
        else:
            together.append([section])
    teachers = _teachers(sections)
    named: dict[str, Group] = {}
    for group in together:
        group.sort(key=lambda section: section.run.options.seed)
        name = common_name([section.run.name for section in group])
        name = name if name not in named else group[0].run.name
        named[name] = Group(name, role_of(group[0].run, teachers), tuple(group))
    return sorted(named.values(), key=lambda group: (ROLES.index(group.role), -(group.top1.mean if group.top1 else 0)))


def is_same_but_for_seed(one: TrainOptions | DistillOptions, other: TrainOptions | DistillOptions) -> bool:
    """Whether two runs are of one configuration."""
    return type(one) is type(other) and set(result_differences(one, other)) <= {"seed"}


def role_of(run: RunRecord, teachers: tuple[set[Path], set[str]]) -> str:
    """What a run is, given the folders and the networks of the teachers of the other runs."""
    options, (folders, networks) = run.options, teachers
    if isinstance(options, DistillOptions):
        if options.strategy == "always":
            return "kd" if options.distiller == "kd" else "always"
        return "other" if options.strategy in ("never", "random", "anti") else "adaptive"
    return "teacher" if run.folder.resolve() in folders or run.student in networks else "alone"


def _teachers(sections: Sequence[Section]) -> tuple[set[Path], set[str]]:
    """Folders that teachers came from, and networks that are teachers and never students."""
    found = [options for section in sections if (options := section.run.distill_options) is not None]
    named = [[options.teacher.checkpoint, *(parse_names(options.more_teachers) or ())] for options in found]
    folders = {Path(checkpoint).resolve() for checkpoints in named for checkpoint in checkpoints if checkpoint}
    students = {options.student.name for options in found}
    return folders, {options.teacher.name for options in found} - students


def common_name(names: Sequence[str]) -> str:
    """What the names of runs with different seeds have in common: ``sakd`` of ``sakd-0`` and ``sakd-1``."""
    if len(names) == 1:
        return names[0]
    common = {re.sub(r"[-_/. ]*(seed|s)?[-_/. ]*\d+$", "", name) for name in names} - {""}
    return common.pop() if len(common) == 1 else f"{names[0]} and {len(names) - 1} more"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
