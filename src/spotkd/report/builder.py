"""The parts of the page, made from runs: a section for each, their configurations, and comparisons between these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..analysis import get_split, inspect
from ..data import Dataset
from ..data.loader import count_batches
from ..errors import SpotkdError
from ..options import InspectOptions, ReportOptions
from ..options.values import epochs_for
from ..routing import make_strategy
from ..runs.folder import RunFolder
from ..training.build import reopen_data
from ..training.controls import control_options, find_control
from ..training.teacher import is_guessing
from ..untrusted.names import UnfollowedNameError, looking
from .compare import Comparison, Labels, compare, predict_labels
from .costs import NetworkCost, network_cost
from .effects import Control, Effect, find_controls, measure_effect, name_control, pair_runs
from .gallery import galleries
from .groups import Group, role_of
from .patterns import describe_patterns
from .run_charts import class_heat_map, epoch_heat_maps, metric_charts, sort_classes
from .run_record import RunRecord, read_record
from .run_summary import summary_items
from .section import Section

T = TypeVar("T")

_BLOCK_ROWS = 24  # of a block of the table of classes


class ReportBuilder:
    """Makes the sections of runs and the comparisons between them; each data set and network is opened once.

    Args:
        options: of the command.

    Attributes:
        unfollowed: a line about each name that was not followed, each once.
        remarks: what could not be compared, and why.
    """

    def __init__(self, options: ReportOptions) -> None:
        self.options = options
        self._trusts = options.trust
        self.unfollowed: dict[str, None] = {}
        self.remarks: list[str] = []
        self._data: dict[str, Dataset] = {}
        self._costs: dict[tuple[str, str], NetworkCost] = {}
        self._predictions: dict[Path, tuple[Labels, Labels]] = {}

    def build_section(self, run: RunRecord) -> Section:
        """Everything about one run."""
        section = Section(run, remarks=list(run.remarks))
        self._trusts = self.options.trust or RunFolder(run.folder).is_own
        section.charts = list(metric_charts(run))
        costs = self._try(section.remarks, "sizes", lambda: self._network_costs(run))
        if costs is not None:  # the data set is there
            self._measure_step(section)
            self._note_guessing(section)
        section.items = list(summary_items(run, costs))
        if run.distill_options is not None:
            self._show_strategy(section, run.distill_options.strategy)
        return section

    def _show_strategy(self, section: Section, name: str) -> None:
        """Where a strategy distils, if it learns that; what files alone tell where it may not be imported."""
        learns = self._try(section.remarks, "strategy", lambda: make_strategy(name).tells_samples_apart)
        section.learns = learns
        if learns is not False:
            section.heat_maps = list(epoch_heat_maps(section.run))
        if learns:
            self._try(section.remarks, "decisions", lambda: self._inspect_policy(section))
        elif learns is False:
            section.remarks.append(
                f"Strategy {name} has no policy: it treats every sample alike, so there is nothing to show of where it "
                "distils."
            )

    def _try(self, remarks: list[str], what: str, work: Callable[[], T]) -> T | None:
        """The work's result; where files are missing, None and a remark: a page can be made of what is there."""
        try:
            with looking(trust=self._trusts):
                return work()
        except SpotkdError as error:
            remark = f"No {what}: {error}"
            remarks += [] if remark in remarks else [remark]
            if isinstance(error, UnfollowedNameError):
                self.unfollowed.setdefault(str(error))
            return None

    def load_data(self, run: RunRecord) -> Dataset:
        key = str(run.options.data)
        if key not in self._data:
            self._data[key] = reopen_data(run.options.data)
        return self._data[key]

    def _network_costs(self, run: RunRecord) -> dict[str, NetworkCost]:
        """By role."""
        data = self.load_data(run)
        networks = {"student": run.student} | (
            {"teacher": run.distill_options.teacher.name} if run.distill_options else {}
        )
        for model in networks.values():
            if (model, str(data.image_shape)) not in self._costs:
                self._costs[model, str(data.image_shape)] = network_cost(model, data)
        return {role: self._costs[model, str(data.image_shape)] for role, model in networks.items()}

    def _measure_step(self, section: Section) -> None:
        """Mean time of a training step, from the time of the whole training."""
        run = section.run
        if run.summary is not None:
            images = len(self.load_data(run).train)
            steps = epochs_for(run.options, images) * count_batches(images, run.options.batch_size)
            section.step_milliseconds = 1000 * run.summary.seconds / steps

    def _note_guessing(self, section: Section) -> None:
        """A network that has learnt nothing: one that others are compared with, or taught by, must not be that."""
        run = section.run
        if run.summary is not None:
            scores = run.summary.scores
            section.guesses = is_guessing(scores.top1, scores.images, len(self.load_data(run).classes))

    def _inspect_policy(self, section: Section) -> None:
        """Where the run's policy sends the images of a split."""
        options = self.options
        run, split = section.run, options.split
        inspection, data = inspect(
            InspectOptions(str(run.folder), split, None, options.batch_size, options.accelerator, options.trust)
        )
        section.inspection = inspection
        section.patterns = list(describe_patterns(inspection))
        top1 = 100 * float(inspection.teacher_correct.mean())
        section.teacher_guesses = is_guessing(top1, len(inspection), len(inspection.classes))
        section.galleries, section.samples = galleries(inspection, get_split(data, split))
        rows = sort_classes(inspection)
        section.classes = [rows[i : i + _BLOCK_ROWS] for i in range(0, len(rows), _BLOCK_ROWS)]
        section.heat_maps.append(class_heat_map(run, inspection))

    def measure_effects(self, groups: Sequence[Group], subject: Group | None) -> dict[str, list[Effect]]:
        """By the name of a configuration: what it is worth beside each of its controls, the closest one first.

        Only of the subject of the page every control counts, and where the page has none, one that lies beside the run.
        """
        found: dict[str, list[Effect]] = {}
        for group in groups:
            if group.top1 is None:
                continue
            controls = list(find_controls(group, groups))
            controls = controls or list(self._controls_beside(group)) if group is subject else controls[:1]
            effects = [measure_effect(group, control, self._compare_runs) for control in controls]
            found[group.name] = [effect for effect in effects if effect is not None]
        return found

    def _controls_beside(self, group: Group) -> Iterator[Control]:
        """Controls in the folder of a run that the page does not show."""
        run = RunFolder(group.runs[0].folder)
        for key, wanted in control_options(run.distill_options).items():
            control = find_control(run, wanted)
            if control is None:
                continue
            record = self._try(self.remarks, "control", partial(read_record, control.path, control.path.name))
            if record is not None:
                section = Section(record)
                self._try([], "time of a step", partial(self._measure_step, section))
                beside = Group(record.name, role_of(record, (set(), set())), (section,))
                yield Control(name_control(key), beside, is_here=False)

    def compare_first(self, group: Group, control: Control) -> Comparison | None:
        """What the first pair of runs gets right and wrong, and what it takes for what."""
        pairs = pair_runs(group, control.group)
        return self._compare_runs(*pairs[0]) if pairs else None

    def _compare_runs(self, before: RunRecord, after: RunRecord) -> Comparison | None:
        self._trusts = self.options.trust or all(RunFolder(one.folder).is_own for one in (before, after))
        what = f"comparison of {after.name} with {before.name}"
        return self._try(self.remarks, what, partial(self._compare, before, after))

    def _compare(self, before: RunRecord, after: RunRecord) -> Comparison:
        data = self.load_data(after)
        (labels, old), (_, new) = (self._predict(run, data) for run in (before, after))
        return compare((before.name, old), (after.name, new), labels, data.classes)

    def _predict(self, run: RunRecord, data: Dataset) -> tuple[Labels, Labels]:
        if run.folder not in self._predictions:
            size, device = self.options.batch_size, self.options.accelerator
            self._predictions[run.folder] = predict_labels(run.student, run.folder, data, size, device)
        return self._predictions[run.folder]
