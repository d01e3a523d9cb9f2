"""The search at work: runs in processes of their own, watched, stopped where they are behind, and resumed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live

from ..errors import RunError, SpotkdError, Stopped
from ..escaping import escape_terminal
from ..experiments.engines import Job, make_engine
from ..formatting import format_duration
from ..options import EvaluateOptions, ReportOptions, SearchOptions, check_values, with_values
from ..options.grammar import parse_duration
from ..report import report_runs
from ..report.run_record import repeat_command
from ..runs.folder import RunFolder
from ..runs.layout import LOCK
from ..runtime.signals import StopRequest
from ..training import evaluate_checkpoint
from .leaderboard import leaderboard_table, write_leaderboard
from .space import base_options, describe, fingerprint, make_space, trial_options
from .study import Study

if TYPE_CHECKING:
    import optuna

_POLL_SECONDS = 0.2  # between two looks at the running processes
_NOTE_SECONDS = 5.0  # between two notes of the time spent, which is what a kill may forget


def run_search(options: SearchOptions, console: Console) -> None:
    """Search until the budget or the number of runs is used up; then test the winner and write the report.

    Raises:
        SpotkdError: a mistake in the options, no run could be completed, or the folder holds another search.
        Stopped: a signal asked for it; the same command goes on.
    """
    check_values(options)
    if options.teacher.checkpoint is None:
        raise SpotkdError("teacher.checkpoint is missing: name the trained teacher, as --teacher runs/teacher")
    if options.budget is None and options.runs is None:
        raise SpotkdError("budget and runs are missing: give --budget 20min, --runs 20, or both")
    names = f"{options.teacher.name}-{options.student.name}"
    folder = Path(options.out or "runs/search/" + re.sub(r"[^A-Za-z0-9_.]+", "-", names))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            search = Search(options, folder, console)
            search.run()
            search.conclude()
    except Timeout as error:
        raise SpotkdError(f"{folder}: another 'spotkd search' is running there") from error


@dataclass
class _RunningTrial:
    trial: optuna.Trial
    job: Job
    is_behind: bool = False


class Search:
    """A search in its folder.

    Args:
        options: of the command.
        folder: of the study, and of a run for each trial.
        console: where the runs are told of.
    """

    def __init__(self, options: SearchOptions, folder: Path, console: Console) -> None:
        self.options, self.folder, self.console = options, folder, console
        self.space, self.base = make_space(options), base_options(options)
        self.study = Study(folder, self.space, options.sampler, options.prune, options.seed)
        self.study.check_options(fingerprint(options, self.base, self.space))
        self.engine = make_engine(options.engine, options.jobs, options.cluster, [self.base], self._print)
        self.running: list[_RunningTrial] = []
        self._earlier, self._started, self._noted = self.study.seconds, time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """How long this call and those before it have searched."""
        return self._earlier + time.monotonic() - self._started

    @cached_property
    def budget(self) -> float:
        """In seconds."""
        return parse_duration(self.options.budget)

    def run(self) -> None:
        """Run trials, interrupted ones first, until nothing more is to be begun and none runs."""
        waiting = self.study.unfinished()
        done = len(self.study.trials) - len(waiting)
        if done or waiting:
            self._print(f"{done} runs are done already, {len(waiting)} are resumed")
        live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else nullcontext()
        if not waiting and not self._may_begin():
            return
        with live as table, StopRequest() as request, self._counting_time(), self.engine:
            while True:
                if request.received:
                    raise Stopped(f"stopped by {request.received}; the same command resumes it")
                self._fill(waiting)
                if not self.running and not waiting and not self._may_begin():
                    return
                time.sleep(_POLL_SECONDS)
                changed = [self._watch(one) for one in list(self.running)]
                self._note_time()
                if isinstance(table, Live) and any(changed):
                    table.update(leaderboard_table(self.study, self.base), refresh=True)

    @contextmanager
    def _counting_time(self) -> Iterator[None]:
        """Notes at the end how long was searched, also when the runs were given time to save."""
        try:
            yield
        finally:
            self.study.seconds = self.seconds

    def _fill(self, waiting: list[optuna.Trial]) -> None:
        """Start what there is room and time for; out of time, only the first runs go on."""
        if self.seconds >= self.budget:
            for one in self.running:
                if one.trial.number >= len(self.space.first):
                    one.job.stop()
            waiting[:] = [trial for trial in waiting if trial.number < len(self.space.first)]
        while len(self.running) < self.engine.slots:
            if waiting:
                self._start(waiting.pop(0))
            elif self._may_begin():
                self._start(self.study.begin())
            else:
                return

    def _may_begin(self) -> bool:
        count = len(self.study.trials)
        is_first = count < len(self.space.first)
        within_runs = self.options.runs is None or count < max(self.options.runs, len(self.space.first))
        return within_runs and (is_first or self.seconds < self.budget)

    def trial_folder(self, number: int) -> RunFolder:
        """Where a trial's run lies."""
        return RunFolder(self.folder / f"run-{number:03d}")

    def _start(self, trial: optuna.Trial) -> None:
        run = self.trial_folder(trial.number)
        choices = self.study.choose(trial)
        options = with_values(trial_options(self.base, choices), {"out": str(run.path)})
        self.running.append(_RunningTrial(trial, self.engine.start(run, options)))

    def _watch(self, one: _RunningTrial) -> bool:
        """Tell the study what a run has reached, stop it where it is behind; whether it has ended."""
        ended = one.job.has_ended()
        if not one.is_behind:
            one.is_behind = self.study.should_stop(one.trial, self._accuracies(one.job.run))
            if one.is_behind and not ended:
                one.job.stop()
        if ended:
            self.running.remove(one)
            self._finish(one)
        return ended

    @staticmethod
    def _accuracies(run: RunFolder) -> list[float]:
        """On the validation images, epoch by epoch; none before the first is complete."""
        try:
            return run.metrics.get("val_top1", [])
        except RunError:
            return []

    def _finish(self, one: _RunningTrial) -> None:
        number, run, spent = one.trial.number, one.job.run, format_duration(one.job.seconds)
        if run.finished:
            accuracy = run.result.scores.top1
            self.study.finish(one.trial, accuracy)
            told = f"validation top-1 {accuracy:.2f} %"
        elif one.is_behind:
            self.study.stop(one.trial)
            told = f"stopped after {len(self._accuracies(run))} epochs, behind the others"
        elif self.seconds >= self.budget and number >= len(self.space.first):
            return  # out of time; a larger budget resumes it
        else:
            reason = one.job.reason
            run.fail(reason)
            self.study.fail(one.trial)
            told = f"failed: {reason}"
        best = next(iter(self.study.ranked), None)
        lead = f"; best: run {best.number} with {best.value:.2f} %" if best is not None else ""
        self._print(f"[{number:3}] {describe(self.base, one.trial.params)}: {told}  in {spent}{lead}")

    def _note_time(self) -> None:
        if self.seconds - self._noted > _NOTE_SECONDS:
            self._noted = self.study.seconds = self.seconds

    def conclude(self) -> None:
        """Test the winner, once, and write the leaderboard and the report.

        Raises:
            SpotkdError: no run is complete.
        """
        ranked = self.study.ranked
        if not ranked:
            failed = self.trial_folder(0)
            raise SpotkdError(f"{self.folder}: no run could be completed; the first: {(failed.error or '?').strip()}")
        best = ranked[0]
        run = self.trial_folder(best.number)
        scores = self.study.tested(best.number)
        if scores is None:
            scores = self._test(run)
            self.study.note_test(best.number, scores)
        for line in write_leaderboard(self.folder, self.study, self.base):
            self._print(line)
        report = ReportOptions([str(self.folder)], out=str(self.folder / "report.html"), split="val")
        for line in report_runs([self.trial_folder(trial.number).path for trial in ranked[:_REPORTED]], report):
            self._print(line)
        self._print(f"best: run {best.number}, {describe(self.base, best.params)}: validation top-1 {best.value:.2f} %")
        self._print(
            f"its student in {run.path} on the {scores['images']} test images, used once: {scores['top1']:.2f} %"
        )
        chosen = with_values(
            trial_options(self.base, best.params), {"data.conceal_test": False, "quiet": self.options.quiet}
        )
        self._print(f"the same with its test images: {repeat_command(chosen, f'{self.folder}/best')}")

    def _test(self, run: RunFolder) -> dict[str, Any]:
        options = self.options
        test = EvaluateOptions(
            str(run.path),
            root=options.data.root,
            accelerator=options.accelerator,
            precision=options.precision,
            trust=True,
        )
        return evaluate_checkpoint(test)._asdict()

    def _print(self, line: str) -> None:
        self.console.print(escape_terminal(line), highlight=False, markup=False, soft_wrap=True)


_REPORTED = 12  # runs on the page, the best ones
