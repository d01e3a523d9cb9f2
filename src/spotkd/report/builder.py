"""The parts of the page, made from runs: a section for each, and comparisons between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ..analysis import get_split, inspect
from ..data import Dataset, load_data
from ..errors import SpotkdError
from ..options import DistillOptions, InspectOptions, ReportOptions
from ..routing import make_strategy
from ..runs.folder import RunFolder
from ..training.build import data_spec
from ..untrusted.names import UnfollowedNameError, looking
from .compare import Comparison, compare, predict_labels
from .costs import NetworkCost, network_cost
from .gallery import galleries
from .run_charts import class_heat_map, epoch_heat_maps, metric_charts, sort_classes
from .run_record import RunRecord
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
    """

    def __init__(self, options: ReportOptions) -> None:
        self.options = options
        self._trusts = options.trust
        self.unfollowed: dict[str, None] = {}
        self._data: dict[str, Dataset] = {}
        self._costs: dict[tuple[str, str], NetworkCost] = {}

    def build_section(self, run: RunRecord) -> Section:
        """Everything about one run."""
        section = Section(run, remarks=list(run.remarks))
        self._trusts = self.options.trust or RunFolder(run.folder).is_own
        section.charts = list(metric_charts(run))
        costs = self._try(section.remarks, "sizes", lambda: self._network_costs(run))
        section.items = list(summary_items(run, costs))
        if run.distill_options is not None:
            self._show_strategy(section, run.distill_options.strategy)
        return section

    def _show_strategy(self, section: Section, name: str) -> None:
        """Where a strategy distils, if it learns that; what files alone tell where it may not be imported."""
        learns = self._try(section.remarks, "strategy", lambda: make_strategy(name).learns)
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
            remarks.append(f"No {what}: {error}")
            if isinstance(error, UnfollowedNameError):
                self.unfollowed.setdefault(str(error))
            return None

    def load_data(self, run: RunRecord) -> Dataset:
        key = str(run.options.data)
        if key not in self._data:
            self._data[key] = load_data(data_spec(run.options.data))
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

    def _inspect_policy(self, section: Section) -> None:
        """Where the run's policy sends the images of a split."""
        options = self.options
        run, split = section.run, options.split
        inspection, data = inspect(
            InspectOptions(str(run.folder), split, None, options.batch_size, options.accelerator, options.trust)
        )
        section.inspection = inspection
        section.galleries = galleries(inspection, get_split(data, split))
        rows = sort_classes(inspection)
        section.classes = [rows[i : i + _BLOCK_ROWS] for i in range(0, len(rows), _BLOCK_ROWS)]
        section.heat_maps.append(class_heat_map(run, inspection))

    def build_comparisons(self, sections: Sequence[Section]) -> tuple[list[Comparison], list[str]]:
        """Each spot-adaptive student beside the first one by plain KD, and why others are missing."""
        plain = next((s.run for s in sections if s.run.distill_options and _is_plain_kd(s.run.distill_options)), None)
        remarks: list[str] = []
        found: list[Comparison] = []
        if plain is None:
            return found, remarks
        for run in (section.run for section in sections if section.inspection is not None):
            what = f"comparison of {run.name} with plain KD"
            self._trusts = self.options.trust or all(RunFolder(one.folder).is_own for one in (plain, run))
            done = self._try(remarks, what, partial(self._compare, plain, run))
            found += [] if done is None else [done]
        return found, remarks

    def _compare(self, before: RunRecord, after: RunRecord) -> Comparison:
        if _test_images(before) != _test_images(after):
            raise SpotkdError("it was tested on other images")
        data = self.load_data(after)
        size, device = self.options.batch_size, self.options.accelerator
        (labels, old), (_, new) = (
            predict_labels(run.student, run.folder, data, size, device) for run in (before, after)
        )
        return compare((before.name, old), (after.name, new), labels, data.classes)


def _is_plain_kd(options: DistillOptions) -> bool:
    return (options.distiller, options.strategy) == ("kd", "always")


def _test_images(run: RunRecord) -> tuple[object, ...]:
    data = run.options.data
    return data.name, data.test_share, data.image_size
