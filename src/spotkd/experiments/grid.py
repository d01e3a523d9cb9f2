"""A plan with the folder of its runs: the options of each run, and which runs are finished."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ..errors import SpotkdError
from ..options import DistillOptions, TrainOptions, deviations, with_values
from ..runs.folder import RunFolder
from ..runtime.device import describe_machine, make_fabric
from .estimate import estimate_seconds
from .plan import Cell, Plan, cells, run_options

_STARTUP_SECONDS = 4.0  # until a process trains; roughly, since they count in short runs alone


def plan_folder(name: str, out: str | None) -> Path:
    """Where the runs of a plan lie."""
    return Path(out or f"runs/bench/{name}")


@dataclass
class Grid:
    """A plan and its folder.

    Args:
        plan: what is run.
        folder: of the runs.
        root: folder that holds the data sets' files; None for the plan's.
        elsewhere: whether other machines than this one train the runs.
    """

    plan: Plan
    folder: Path
    root: str | None = None
    elsewhere: bool = False
    cells: list[Cell] = field(init=False)
    _estimates: dict[Cell, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.cells = cells(self.plan)

    def options(self, cell: Cell) -> TrainOptions | DistillOptions:
        """The complete options of a cell's run."""
        options = run_options(self.plan, cell)
        # An earlier call may have been stopped in the middle of a run, which is resumed then.
        values: dict[str, Any] = {"out": str(self.run(cell).path), "overwrite": True, "quiet": True, "resume": "auto"}
        if self.root is not None:
            values["data.root"] = self.root
        if cell.teacher_cell is not None and isinstance(options, DistillOptions) and options.teacher.checkpoint is None:
            values["teacher.checkpoint"] = str(self.run(cell.teacher_cell).path)
        return with_values(options, values)

    def run(self, cell: Cell) -> RunFolder:
        """Where the cell's run lies."""
        return RunFolder(self.folder / cell.folder)

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's run is complete.

        Raises:
            SpotkdError: it was made with other options than the plan has now.
        """
        run = self.run(cell)
        if not run.finished:
            return False
        other = deviations(run.options, self.options(cell))
        if other:
            raise SpotkdError(
                f"{run.path}: was run with another {', '.join(other[:5])} than the plan has; give another --out, or "
                "remove that folder"
            )
        return True

    def estimate(self, cell: Cell) -> float:
        """Rough seconds, the same for every seed.

        As finished runs of the plan took on this machine; for a kind that has none, from timings made now, corrected by
        what they say of the kinds that have some.
        """
        kind = replace(cell, seed=None)
        if kind not in self._estimates:
            seconds = self.recorded.get(kind)
            if seconds is None:
                seconds = self._correction * estimate_seconds(self._timed_options(cell))
            self._estimates[kind] = _STARTUP_SECONDS + seconds
        return self._estimates[kind]

    @cached_property
    def recorded(self) -> dict[Cell, float]:
        """Mean seconds of the runs that were finished on this machine, by kind; the same one for every seed.

        On any machine where others train the runs.
        """
        found: dict[Cell, list[float]] = {}
        for cell in self.cells:
            if self.finished(cell):
                summary = self.run(cell).result
                if self.elsewhere or summary.machine == self._describe_machine(cell):
                    found.setdefault(replace(cell, seed=None), []).append(summary.seconds)
        return {kind: fmean(seconds) for kind, seconds in found.items()}

    def _timed_options(self, cell: Cell) -> TrainOptions | DistillOptions:
        """The options of a cell's run as this machine can time it: it may lack the accelerator that others have."""
        options = run_options(self.plan, cell)
        return with_values(options, {"accelerator": "auto"}) if self.elsewhere else options

    def _describe_machine(self, cell: Cell) -> str:
        return describe_machine(make_fabric(run_options(self.plan, cell).accelerator, "32").device)

    @cached_property
    def _correction(self) -> float:
        """How much longer finished runs took than timings made now say."""
        pairs = [(seconds, estimate_seconds(self._timed_options(kind))) for kind, seconds in self.recorded.items()]
        return median(took / expected for took, expected in pairs) if pairs else 1.0
