"""``spotkd bench``: run the cells of a plan, each in a process of its own, and resume where an earlier call stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..cores import available_cores
from ..errors import SpotkdError, Stopped
from ..escaping import escape_lines, escape_shell, escape_terminal
from ..formatting import format_duration
from ..options import BenchOptions, check_values
from ..runtime.signals import StopRequest
from ..untrusted.names import looking
from .engines import Engine, Job, make_engine
from .estimate import machine_load
from .grid import Grid, plan_folder
from .plan import Cell, find_plan, read_plan, shipped_plans
from .report import write_report

_POLL_SECONDS = 0.1  # between two looks at the running cells
_NAMED = 3  # running cells that are named beside the bar


def list_plan(options: BenchOptions, console: Console) -> None:
    """Print the cells of a plan, or of all that are shipped, with what each will take; nothing is run."""
    for wanted in [options.plan] if options.plan else shipped_plans():
        name, path = find_plan(wanted)
        grid = Grid(read_plan(path), plan_folder(name, options.out), options.root)
        title = escape_terminal(f"{name}: {grid.plan.title} ({path})")
        console.print(title, markup=False, highlight=False, soft_wrap=True)
        todo = 0.0
        for cell in grid.cells:
            estimate = None if grid.finished(cell) else grid.estimate(cell)
            todo += estimate or 0.0
            what = "finished" if estimate is None else format_duration(estimate)
            console.print(f"  {cell}: {what}", highlight=False, soft_wrap=True)
        console.print(
            f"{name}: {len(grid.cells)} runs, about {format_duration(todo)} still to go one after the other"
            f"{_describe_recorded(grid)}\n",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        "Rough estimates for this machine, from finished runs where there are some, else from timings of the networks "
        "made just now; evaluation comes on top, and where nothing is finished the distillers' own arithmetic.",
        highlight=False,
    )
    load = machine_load()
    if load is not None:
        console.print(
            f"This machine is busy ({load:.1f} programs want {available_cores()} cores): the estimates are for an idle "
            "one, and a run beside the others takes longer.",
            highlight=False,
        )


def _describe_recorded(grid: Grid) -> str:
    count = len(grid.recorded)
    return f", estimated from {count} kind{'s' * (count > 1)} of finished runs" if count else ""


def run_plan(options: BenchOptions, console: Console) -> int:
    """Run what is not finished yet and write the report; 0, or 1 when a cell failed.

    Raises:
        SpotkdError: a mistake in the plan, or the folder holds runs with other options.
    """
    if options.plan is None:
        raise SpotkdError(f"plan is missing: name a YAML file or one of {', '.join(shipped_plans())}")
    check_values(options)
    name, path = find_plan(options.plan)
    grid = Grid(read_plan(path), plan_folder(name, options.out), options.root, elsewhere=options.engine != "local")

    def tell(line: str) -> None:
        console.print(escape_terminal(line), highlight=False, markup=False, soft_wrap=True)

    runs = [grid.options(cell) for cell in grid.cells]
    engine = make_engine(options.engine, options.jobs, options.cluster, runs, tell)
    grid.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(grid.folder / ".lock", timeout=0):
            failed = Bench(grid, engine, tell, console).run()
    except Timeout as error:
        raise SpotkdError(f"{grid.folder}: another 'spotkd bench' is running there") from error
    if any(grid.finished(cell) for cell in grid.cells):
        table = write_report(grid.plan, name, grid.folder, _command(options.plan, options.out))
        console.print(escape_lines(table), markup=False, highlight=False, soft_wrap=True)
        console.print(f"report: {grid.folder}/report.md, .csv and .tex", highlight=False, soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(grid.cells)} runs failed; the same command tries them again")
    return 1 if failed else 0


def report_plan(plan: str, out: str | None = None, trust: bool = False) -> str:
    """Write the tables of a plan from its finished runs, and return them as Markdown.

    Args:
        plan: a shipped plan's name or a YAML file.
        out: folder of the runs; None for runs/bench/PLAN.
        trust: follow names of code that the plan holds.

    Raises:
        SpotkdError: no run is finished, or a run was made with other options than the plan has.
    """
    name, path = find_plan(plan)
    with looking(trust=trust):
        grid = Grid(read_plan(path), plan_folder(name, out))
        for cell in grid.cells:
            grid.finished(cell)
        return write_report(grid.plan, name, grid.folder, _command(plan, out))


def _command(plan: str, out: str | None) -> str:
    return escape_shell(["spotkd", "bench", plan, *(("--out", out) if out else ())])


@dataclass
class _RunningCell:
    cell: Cell
    job: Job


class Bench:
    """Runs the unfinished cells of a grid, some side by side.

    Args:
        grid: the plan with its folder.
        engine: what trains the runs.
        tell: is given a line for each cell that has ended.
        console: shows the bar.
    """

    def __init__(self, grid: Grid, engine: Engine, tell: Callable[[str], None], console: Console) -> None:
        self.grid, self.engine, self.tell, self.console = grid, engine, tell, console
        self.finished = [cell for cell in grid.cells if grid.finished(cell)]
        self.waiting = [cell for cell in grid.cells if cell not in set(self.finished)]
        self.failed: list[Cell] = []
        self.running: list[_RunningCell] = []
        self._spent = self._expected = 0.0  # seconds that finished cells took, and were estimated to

    def run(self) -> list[Cell]:
        """Run them all; returns those that failed."""
        if self.finished:
            self.tell(f"{len(self.finished)} of {len(self.grid.cells)} runs are finished already")
        if self.waiting:
            with StopRequest() as request, self.engine:  # no run is left behind, and each may save its state
                self._run_waiting(request)
        return self.failed

    def _run_waiting(self, request: StopRequest) -> None:
        total = len(self.grid.cells)
        self.tell(f"{len(self.waiting)} runs, about {format_duration(self._seconds_left())} by a rough estimate")
        with self._bar() as bar:
            task = bar.add_task("", total=total, completed=len(self.finished), note="")
            while self.waiting or self.running:
                if request.received:
                    raise Stopped(f"stopped by {request.received}; the same command resumes it")
                self._start_ready_cells()
                time.sleep(_POLL_SECONDS)
                for one in [one for one in self.running if one.job.has_ended()]:
                    self._finish(one)
                counted = len(self.finished) + len(self.failed)
                note = f"about {format_duration(self._seconds_left())} left  {self._describe_running()}"
                bar.update(task, completed=counted, description=f"{counted}/{total}", note=note)

    def _describe_running(self) -> str:
        more = len(self.running) - _NAMED
        return ", ".join(str(one.cell) for one in self.running[:_NAMED]) + (f" and {more} more" if more > 0 else "")

    def _start_ready_cells(self) -> None:
        for cell in list(self.waiting):
            if len(self.running) >= self.engine.slots:
                return
            if cell.teacher_cell in self.failed:
                self.waiting.remove(cell)
                self._fail(cell, f"its teacher failed ({cell.teacher_cell})")
            elif cell.teacher_cell is None or cell.teacher_cell in self.finished:
                self.waiting.remove(cell)
                job = self.engine.start(self.grid.run(cell), self.grid.options(cell))
                self.running.append(_RunningCell(cell, job))

    def _finish(self, one: _RunningCell) -> None:
        self.running.remove(one)
        run, spent = one.job.run, one.job.seconds
        if one.job.status == 0 and run.finished:
            self._spent += spent
            self._expected += self.grid.estimate(one.cell)
            self.finished.append(one.cell)
            self._print_progress(one.cell, f"test top-1 {run.result.scores.top1:.2f} %  in {format_duration(spent)}")
        else:
            self._fail(one.cell, one.job.reason)

    def _fail(self, cell: Cell, reason: str) -> None:
        self.failed.append(cell)
        self.grid.run(cell).fail(reason)
        self._print_progress(cell, f"failed: {reason}")

    def _print_progress(self, cell: Cell, what: str) -> None:
        total, counted = len(self.grid.cells), len(self.finished) + len(self.failed)
        left = f", about {format_duration(self._seconds_left())} left" if self.waiting or self.running else ""
        self.tell(f"[{counted:{len(str(total))}}/{total}] {cell}: {what}{left}")

    def _seconds_left(self) -> float:
        """Seconds until all is done: the estimates, corrected by what finished cells really took."""
        ahead = sum(self.grid.estimate(cell) for cell in self.waiting)
        factor = self._spent / self._expected if self._expected else 1.0
        ahead *= factor
        for one in self.running:
            ahead += max(self.grid.estimate(one.cell) * factor - one.job.seconds, 0.0)
        return ahead / max(self.engine.slots, 1)

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
