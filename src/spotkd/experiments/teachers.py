"""A teacher for a recipe: one that was trained before, or one trained now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from filelock import FileLock

from ..errors import SpotkdError
from ..options import DistillOptions, TrainOptions, deviations
from ..recipes import resolved
from ..runs.folder import RunFolder, find_runs
from ..training import train


def teacher_options(distillation: DistillOptions) -> TrainOptions:
    """How the teacher of a distillation is trained: by its own recipe, on the same images, for as many epochs.

    Its seed is the recipe's, not the student's, so that students of several seeds share one teacher.
    """
    shared = ("epochs", "select", "accelerator", "precision", "channels_last", "quiet")
    options = {key: getattr(distillation, key) for key in shared} | {"data": asdict(distillation.data)}
    teacher = resolved(f"{distillation.data.name}/single/{distillation.teacher.name}", options)
    assert isinstance(teacher, TrainOptions)
    return teacher


def find_teacher(options: TrainOptions, root: Path = Path("runs")) -> Path | None:
    """A finished run below ``root`` with the same network, data set and training; the newest of several.

    Folders that hold something else, unfinished runs and runs that cannot be read are skipped.
    """
    found = []
    for run in find_runs(root):
        try:
            if not (run.finished and run.kind == "train") or run.raw_options["model"]["name"] != options.model.name:
                continue  # before the slower reading with all its checks
            if not deviations(run.options, options) and run.weights.is_file():
                found.append((run.modified, run.path))
        except (SpotkdError, OSError, KeyError, TypeError):
            continue
    return max(found)[1] if found else None


def find_or_train_teacher(options: TrainOptions, log: Callable[[str], object], root: Path = Path("runs")) -> Path:
    """The run folder of a teacher with these options: found below ``root``, or trained there now.

    Args:
        options: how the teacher is trained; ``out`` is chosen here.
        log: called with each line for the user.
        root: where to search.

    Raises:
        SpotkdError: training it fails.
    """
    stem = f"{options.recipe}-epochs{options.epochs}-seed{options.seed}".replace("/", "-").replace(":", "-")
    (root / "teachers").mkdir(parents=True, exist_ok=True)
    with FileLock(root / "teachers" / f".{stem}.lock"):  # a process that needs the same teacher waits for it
        folder = find_teacher(options, root)
        if folder is not None:
            top1 = RunFolder(folder).result.scores.top1
            log(f"teacher: {options.model.name} of {folder}, test top-1 {top1:.2f} %")
            return folder
        folder = _free_folder(root / "teachers", stem)
        log(f"teacher: no run under {root}/ matches {options.recipe}; training it in {folder}")
        here = replace(options, out=str(folder), overwrite=True, resume="auto")
        log(f"teacher: {train(here)}")
        return folder


def _free_folder(place: Path, stem: str) -> Path:
    """A folder for a new run: one without a finished run, which may hold one that was interrupted."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(place / name for name in names if not RunFolder(place / name).finished)
