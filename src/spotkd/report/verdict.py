"""Did it help? A finished student beside the runs that it must be compared with, on the same test images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import SpotkdError
from ..formatting import format_signed
from ..models.weights import read_metadata
from ..options import DistillOptions, TrainOptions
from ..options.values import options_of_test_images, tested_images
from ..runs.folder import RunFolder
from ..training.build import reopen_data
from ..training.controls import ALONE, control_options, find_control
from .compare import Comparison, compare, predict_labels
from .run_record import repeat_command

MAKES = ", which this makes: "  # before a command
_NORMAL_975 = 1.959964  # quantile of the normal distribution


def judge(folder: str | Path, named: Sequence[str] = ()) -> Iterator[str]:
    """Compare the student of a finished distillation with its controls in the same folder, and with runs named.

    Only runs of the same student on the same test images are compared, so that no other network is built.

    Args:
        folder: the run.
        named: folders of other runs, whatever their options.

    Yields:
        A line for each comparison, and one with the command of the closest control where that is missing.

    Raises:
        SpotkdError: a file of the run or of a named one is damaged.
    """
    run = RunFolder(folder)
    options = run.distill_options
    controls = {role: find_control(run, control) for role, control in control_options(options).items()}
    chosen = [(role, control) for role, control in controls.items() if control is not None]
    known = {control.path.resolve() for _, control in chosen}
    chosen += [("the run", RunFolder(name)) for name in named if Path(name).resolve() not in known]
    data = reopen_data(options.data) if chosen else None
    if data is not None:
        labels, after = predict_labels(options.student.name, run.path, data)
    for role, control in chosen:
        if not is_comparable(options, control.options):
            yield f"{control.path}: not compared, since it is another student or was tested on other images"
            continue
        assert data is not None
        _, before = predict_labels(options.student.name, control.path, data)
        found = compare((role, before), (str(run.path), after), labels, data.classes)
        yield describe(found, control.path)
    alone = controls[ALONE]
    if alone is not None:
        yield from _describe_weak_teacher(options, alone)
    missing = next((role for role, control in controls.items() if control is None), None)
    if missing is not None:
        beside = run.path.with_name(f"{run.path.name}-{_FOLDERS.get(missing, 'always')}")
        yield f"not compared with {missing}{MAKES}" + repeat_command(control_options(options)[missing], str(beside))


def _describe_weak_teacher(options: DistillOptions, alone: RunFolder) -> Iterator[str]:
    """A line where the teacher knows the same test images no better than the student does without one."""
    if options.teacher.name == options.student.name:  # which may learn from itself all the same
        return
    if alone.options.data.conceal_test:  # tested on other images than its teacher
        return
    noted: dict[str, Any] = {}
    with suppress(SpotkdError):  # of a teacher that has gone since
        noted = read_metadata(options.teacher.checkpoint or "")
    top1, student = noted.get("test_top1"), alone.result.scores.top1
    same = (noted.get("data"), noted.get("data_options")) == (options.data.name, options_of_test_images(options))
    if same and isinstance(top1, float) and top1 <= student:
        yield (
            f"its teacher gets {top1:.2f} % right, the student alone {student:.2f} %: it has little to teach; train a "
            "better one, from pretrained weights for example (--model.pretrained)"
        )


_FOLDERS = {"plain kd": "kd", ALONE: "alone"}


def is_comparable(mine: DistillOptions, theirs: TrainOptions | DistillOptions) -> bool:
    """Whether two runs, by their options, are of one student, tested on the same images."""
    student = theirs.student if isinstance(theirs, DistillOptions) else theirs.model
    return student.name == mine.student.name and tested_images(theirs) == tested_images(mine)


def paired_interval(found: Comparison) -> tuple[float, float, float]:
    """Difference of two accuracies on the same images and its 95 % interval, all in points (Agresti and Min, 2005)."""
    better, worse, n = found.only_after, found.only_before, found.images
    centre = (better - worse) / (n + 2)
    half = _NORMAL_975 * math.sqrt(better + worse + 1 - (better - worse) ** 2 / (n + 2)) / (n + 2)
    return 100 * (better - worse) / n, 100 * (centre - half), 100 * (centre + half)


def describe(found: Comparison, place: Path) -> str:
    """``better than plain kd (runs/kd): +4.00 points, 95 % interval +0.92 to +7.02, ...``"""
    difference, low, high = paired_interval(found)
    answer = "better than" if low > 0 else "worse than" if high < 0 else "no difference shown to"
    return (
        f"{answer} {found.before} ({place}): {format_signed(difference)} points, 95 % interval {format_signed(low)} to "
        f"{format_signed(high)}, one run each on {found.images} test images"
    )
