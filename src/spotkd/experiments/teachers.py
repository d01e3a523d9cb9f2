"""A teacher for a recipe: one that was trained before, or one trained now."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from filelock import FileLock

from ..config import DistillConfig, TrainConfig, read_config, read_yaml
from ..errors import SpotkdError
from ..recipes import resolved
from ..training import train
from .essence import result_options


def teacher_options(config: DistillConfig) -> TrainConfig:
    """How the teacher of a distillation is trained: by its own recipe, on the same images, for as many epochs.

    Its seed is the recipe's, not the student's, so that students of several seeds share one teacher.
    """
    shared = ("epochs", "select", "accelerator", "precision", "channels_last", "quiet")
    options = {key: getattr(config, key) for key in shared} | {"data": asdict(config.data)}
    teacher = resolved(f"{config.data.name}/single/{config.teacher.name}", options)
    assert isinstance(teacher, TrainConfig)
    return teacher


def find_teacher(options: TrainConfig, root: Path = Path("runs")) -> Path | None:
    """A finished run below ``root`` with the same network, data set and training; the newest of several.

    Folders that hold something else, unfinished runs and runs that cannot be read are skipped.
    """
    found = []
    for path in root.rglob("config.yaml"):
        folder = path.parent
        if not ((folder / "summary.json").is_file() and (folder / "model.safetensors").is_file()):
            continue
        try:
            if read_yaml(path)["model"]["name"] != options.model.name:
                continue  # before the slower reading with all its checks
            if result_options(read_config(TrainConfig, path)) == result_options(options):
                found.append((path.stat().st_mtime, folder))
        except (SpotkdError, OSError, KeyError, TypeError):
            continue
    return max(found)[1] if found else None


def find_or_train_teacher(options: TrainConfig, log: Callable[[str], object], root: Path = Path("runs")) -> Path:
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
            top1 = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["scores"]["top1"]
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
    return next(place / name for name in names if not (place / name / "summary.json").is_file())
