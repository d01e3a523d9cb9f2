"""``spotkd bench``: run the cells of a plan, each in a process of its own, and go on where an earlier call stopped."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..cores import available_cores
from ..errors import SpotkdError, Stopped
from ..formatting import format_duration
from ..options import BenchOptions, DistillOptions, TrainOptions, result_differences, with_values
from ..runs.folder import RunFolder
from ..runtime.signals import StopRequest
from ..runtime.workers import Supervisor
from .estimate import estimate_seconds
from .plan import Cell, Plan, cells, configuration, find_plan, read_plan, shipped_plans
from .report import write_report

_POLL = 0.1  # seconds between two looks at the running processes
_PATIENCE = 60.0  # seconds that a run has to save itself
_STARTUP = 4.0  # seconds until a process trains; roughly, they count in short runs alone


def plan_folder(name: str, out: str | None) -> Path:
    """Where the runs of a plan lie."""
    return Path(out or f"runs/bench/{name}")


def list_plan(config: BenchOptions, console: Console) -> None:
    """Print the cells of a plan, or of all that are shipped, with what each will take; nothing is run."""
    for wanted in [config.plan] if config.plan else shipped_plans():
        name, path = find_plan(wanted)
        grid = Grid(read_plan(path), plan_folder(name, config.out), config.root)
        console.print(f"{name}: {grid.plan.title} ({path})", highlight=False, soft_wrap=True)
        todo = 0.0
        for cell in grid.cells:
            estimate = grid.estimate(cell)
            finished = grid.finished(cell)
            todo += 0.0 if finished else estimate
            console.print(
                f"  {cell}: {'finished' if finished else format_duration(estimate)}", highlight=False, soft_wrap=True
            )
        console.print(
            f"{name}: {len(grid.cells)} runs, about {format_duration(todo)} still to go one after the other\n",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        "Rough estimates for this machine, from timings of the networks made just now; the distillers' own arithmetic "
        "and evaluation come on top.",
        highlight=False,
    )


def run_plan(config: BenchOptions, console: Console) -> int:
    """Run what is not finished yet and write the report; 0, or 1 when a cell failed.

    Raises:
        SpotkdError: something is wrong with the plan, or the folder holds runs with other options.
    """
    if config.plan is None:
        raise SpotkdError(f"plan is missing: name a YAML file or one of {', '.join(shipped_plans())}")
    if config.jobs < 1:
        raise SpotkdError(f"jobs is {config.jobs}: it must be at least 1")
    name, path = find_plan(config.plan)
    grid = Grid(read_plan(path), plan_folder(name, config.out), config.root)
    grid.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(grid.folder / ".lock", timeout=0):
            failed = Bench(grid, config.jobs, console).run()
    except Timeout as error:
        raise SpotkdError(f"{grid.folder}: another 'spotkd bench' is at work there") from error
    if any(grid.finished(cell) for cell in grid.cells):
        table = write_report(grid.plan, name, grid.folder, _command(config.plan, config.out))
        console.print(table, markup=False, highlight=False, soft_wrap=True)
        console.print(f"report: {grid.folder}/report.md, .csv and .tex", highlight=False, soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(grid.cells)} runs failed; the same command tries them again")
    return 1 if failed else 0


def report_plan(plan: str, out: str | None = None) -> str:
    """Write the tables of a plan from its finished runs, and return them as Markdown.

    Args:
        plan: a shipped plan's name or a YAML file.
        out: folder of the runs; None for runs/bench/PLAN.

    Raises:
        SpotkdError: nothing is finished yet, or a run was made with other options than the plan has.
    """
    name, path = find_plan(plan)
    grid = Grid(read_plan(path), plan_folder(name, out))
    for cell in grid.cells:
        grid.finished(cell)
    return write_report(grid.plan, name, grid.folder, _command(plan, out))


def _command(plan: str, out: str | None) -> str:
    return f"spotkd bench {plan}" + (f" --out {out}" if out else "")


@dataclass
class Grid:
    """A plan and its folder."""

    plan: Plan
    folder: Path
    root: str | None = None
    cells: list[Cell] = field(init=False)
    _estimates: dict[Cell, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.cells = cells(self.plan)

    def options(self, cell: Cell) -> TrainOptions | DistillOptions:
        """The complete options of a cell's run."""
        config = configuration(self.plan, cell)
        # An earlier call may have been stopped in the middle of a run, which is resumed then.
        values: dict[str, Any] = {"out": str(self.run(cell).path), "overwrite": True, "quiet": True, "resume": "auto"}
        if self.root is not None:
            values["data.root"] = self.root
        if cell.teacher_cell is not None and isinstance(config, DistillOptions) and config.teacher.checkpoint is None:
            values["teacher.checkpoint"] = str(self.run(cell.teacher_cell).path)
        return with_values(config, values)

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
        other = result_differences(run.options, self.options(cell))
        if other:
            raise SpotkdError(
                f"{run.path}: was run with another {', '.join(other[:5])} than the plan has; give another --out, or "
                "remove that folder"
            )
        return True

    def estimate(self, cell: Cell) -> float:
        """Rough seconds; the same for every seed."""
        kind = replace(cell, seed=None)
        if kind not in self._estimates:
            self._estimates[kind] = _STARTUP + estimate_seconds(configuration(self.plan, cell))
        return self._estimates[kind]


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    started: float
    slot: int


class Bench:
    """Runs the unfinished cells of a grid, some side by side."""

    def __init__(self, grid: Grid, jobs: int, console: Console) -> None:
        self.grid, self.jobs, self.console = grid, jobs, console
        self.done = [cell for cell in grid.cells if grid.finished(cell)]
        self.todo = [cell for cell in grid.cells if cell not in set(self.done)]
        self.failed: list[Cell] = []
        self.running: list[_Running] = []
        self._spent = self._expected = 0.0  # seconds that finished cells took, and were estimated to

    def run(self) -> list[Cell]:
        """Run them all; returns those that failed."""
        total = len(self.grid.cells)
        if self.done:
            self._say(f"{len(self.done)} of {total} runs are finished already")
        if self.todo:
            self._say(f"{len(self.todo)} runs, about {format_duration(self._left())} by a rough estimate")
        with self._bar() as bar, Supervisor() as self.supervisor, StopRequest() as request:
            task = bar.add_task("", total=total, completed=len(self.done))
            try:
                while self.todo or self.running:
                    if request.received:
                        raise Stopped(f"stopped by {request.received}; the same command resumes it")
                    self._start_what_can_be()
                    time.sleep(_POLL)
                    for one in [one for one in self.running if one.process.poll() is not None]:
                        self._finish(one)
                    running = ", ".join(str(one.cell) for one in self.running)
                    counted = len(self.done) + len(self.failed)
                    note = f"about {format_duration(self._left())} left  {running}"
                    bar.update(task, completed=counted, description=f"{counted}/{total}", note=note)
            finally:  # no process is left behind, and each may save its run
                self.supervisor.stop(_PATIENCE)
        return self.failed

    def _start_what_can_be(self) -> None:
        for cell in list(self.todo):
            if len(self.running) == self.jobs:
                return
            if cell.teacher_cell in self.failed:
                self.todo.remove(cell)
                self._fail(cell, f"its teacher failed ({cell.teacher_cell})")
            elif cell.teacher_cell is None or cell.teacher_cell in self.done:
                self.todo.remove(cell)
                self._start(cell)

    def _start(self, cell: Cell) -> None:
        run, options = self.grid.run(cell), self.grid.options(cell)
        run.request(yaml.safe_dump(asdict(options), sort_keys=False))
        command = "distill" if isinstance(options, DistillOptions) else "train"
        arguments = ["spotkd.training.worker", command, str(run.path)]
        slot = min(set(range(self.jobs)) - {one.slot for one in self.running})
        with run.log.open("wb") as log:
            process = self.supervisor.start(arguments, self._environment(slot), log, subprocess.STDOUT)
        self.running.append(_Running(cell, process, time.monotonic(), slot))

    def _environment(self, slot: int) -> dict[str, str]:
        """The cores shared out among the jobs, and the GPUs in turn."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(available_cores() // self.jobs, 1))}
        gpus = torch.cuda.device_count()
        if self.jobs > 1 and gpus > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
        return environment

    def _finish(self, one: _Running) -> None:
        self.running.remove(one)
        self.supervisor.forget(one.process)
        spent = time.monotonic() - one.started
        run = self.grid.run(one.cell)
        if one.process.returncode == 0 and run.finished:
            self._spent += spent
            self._expected += self.grid.estimate(one.cell)
            self.done.append(one.cell)
            self._report(one.cell, f"test top-1 {run.result.scores.top1:.2f} %  in {format_duration(spent)}")
        else:
            self._fail(one.cell, run.last_words() or f"ended with status {one.process.returncode}")

    def _fail(self, cell: Cell, reason: str) -> None:
        self.failed.append(cell)
        self.grid.run(cell).fail(reason)
        self._report(cell, f"failed: {reason}")

    def _report(self, cell: Cell, what: str) -> None:
        total, counted = len(self.grid.cells), len(self.done) + len(self.failed)
        left = f", about {format_duration(self._left())} left" if self.todo or self.running else ""
        self._say(f"[{counted:{len(str(total))}}/{total}] {cell}: {what}{left}")

    def _left(self) -> float:
        """Seconds until all is done: the estimates, corrected by what finished cells really took."""
        ahead = sum(self.grid.estimate(cell) for cell in self.todo)
        factor = self._spent / self._expected if self._expected else 1.0
        ahead *= factor
        for one in self.running:
            ahead += max(self.grid.estimate(one.cell) * factor - (time.monotonic() - one.started), 0.0)
        return ahead / self.jobs

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def _bar(self) -> Iterator[Progress]:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as bar:
            yield bar
