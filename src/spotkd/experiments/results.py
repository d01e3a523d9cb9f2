"""The results of a plan's finished runs, read from their folders, and differences between runs of one seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import RunError, SpotkdError
from ..models.weights import read_metadata
from ..runs.folder import RunFolder
from ..statistics import MeanInterval, mean_interval
from ..training.teacher import is_guessing
from .plan import Cell, Plan, cells

BASELINE = "always"  # ordinary distillation, which every other strategy is compared with


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
        guesses: whether it is a teacher that does no better on the test images than guessing.
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
    guesses: bool = False


ResultsByMethod = dict[Cell, list[Result]]  # a method is a cell without its seed


def read_results(plan: Plan, folder: Path) -> tuple[list[Result], list[Cell]]:
    """The results below ``folder`` and the cells without one, both in the plan's order.

    Raises:
        SpotkdError: a result cannot be read.
    """
    results, missing = [], []
    for cell in cells(plan):
        run = RunFolder(folder / cell.folder)
        if run.finished:
            results.append(_read_result(cell, run))
        else:
            missing.append(cell)
    return results, missing


def _read_result(cell: Cell, run: RunFolder) -> Result:
    try:
        summary = run.result
    except RunError as error:
        raise RunError(f"{error}; remove it and run the plan again") from error
    return Result(
        cell=cell,
        top1=summary.scores.top1,
        last_top1=summary.last.top1,
        protocol=summary.protocol,
        epoch=summary.epoch,
        epochs=summary.epochs,
        device=summary.device,
        machine=summary.machine,
        **summary.versions,
        guesses=cell.kind == "teacher" and _is_guessing(run),
    )


def _is_guessing(run: RunFolder) -> bool:
    """By the number of classes that its weights note; False where they are not there."""
    try:
        classes = read_metadata(run.path).get("classes") or ()
    except SpotkdError:
        return False
    return bool(classes) and is_guessing(run.result.scores.top1, run.result.scores.images, len(classes))


def group_by_method(plan: Plan, results: Iterable[Result]) -> ResultsByMethod:
    """The results of every method of the plan, over its seeds; empty where no run is finished."""
    groups: ResultsByMethod = {replace(cell, seed=None): [] for cell in cells(plan)}
    for result in results:
        groups[replace(result.cell, seed=None)].append(result)
    return groups


def paired_difference(ours: Iterable[Result], theirs: Iterable[Result]) -> MeanInterval | None:
    """``ours`` minus ``theirs`` over the seeds that both have under one protocol; None if there are none."""
    other = {(result.cell.seed, result.protocol): result.top1 for result in theirs}
    ours = [result for result in ours if (result.cell.seed, result.protocol) in other]
    return mean_interval([result.top1 - other[result.cell.seed, result.protocol] for result in ours])


def distilled_everywhere(method: Cell) -> Cell:
    """The same distiller at every spot, for every sample."""
    return replace(method, strategy=BASELINE)


def student_alone(method: Cell) -> Cell:
    """The same student, trained on labels."""
    return Cell("alone", method.data, student=method.student)
