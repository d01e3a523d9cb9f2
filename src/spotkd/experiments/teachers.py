"""A teacher for a recipe: one that was trained before, or one trained now."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from filelock import FileLock

from ..config import DistillConfig, TrainConfig, read_config
from ..errors import SpotkdError
from ..recipes import resolved
from ..training import train
from ..untrusted.yaml_files import read_yaml
from .essence import essence


def teacher_for(config: DistillConfig) -> TrainConfig:
    """How the teacher of a distillation is trained: by its own recipe, on the same images, for as many epochs.

    Its seed is the recipe's, not the student's, so that students of several seeds share one teacher.
    """
    same = ("epochs", "select", "accelerator", "precision", "channels_last", "quiet")
    options = {key: getattr(config, key) for key in same} | {"data": asdict(config.data)}
    wanted = resolved(f"{config.data.name}/single/{config.teacher.name}", options)
    assert isinstance(wanted, TrainConfig)
    return wanted


def find_teacher(wanted: TrainConfig, place: Path = Path("runs")) -> Path | None:
    """A finished run below ``place`` with the same network, data set and training as ``wanted``; the newest of several.

    Folders that hold something else, unfinished runs and runs that cannot be read are passed over.
    """
    found = []
    for path in place.rglob("config.yaml"):
        folder = path.parent
        if not ((folder / "summary.json").is_file() and (folder / "model.safetensors").is_file()):
            continue
        try:
            if read_yaml(path)["model"]["name"] != wanted.model.name:
                continue  # before the slower reading with all its checks
            if essence(read_config(TrainConfig, path)) == essence(wanted):
                found.append((path.stat().st_mtime, folder))
        except (SpotkdError, OSError, KeyError, TypeError):
            continue
    return max(found)[1] if found else None


def teach(wanted: TrainConfig, say: Callable[[str], object], place: Path = Path("runs")) -> Path:
    """The run folder of a teacher as ``wanted``: found below ``place``, or trained there now.

    Args:
        wanted: how the teacher is trained; its ``out`` is chosen here.
        say: called with a line on what happens.
        place: where to look.

    Raises:
        SpotkdError: training it fails.
    """
    stem = f"{wanted.recipe}-epochs{wanted.epochs}-seed{wanted.seed}".replace("/", "-").replace(":", "-")
    (place / "teachers").mkdir(parents=True, exist_ok=True)
    with FileLock(place / "teachers" / f".{stem}.lock"):  # whoever needs the same teacher meanwhile waits for it
        folder = find_teacher(wanted, place)
        if folder is not None:
            top1 = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["scores"]["top1"]
            say(f"teacher: {wanted.model.name} of {folder}, test top-1 {top1:.2f} %")
            return folder
        folder = _free_folder(place / "teachers", stem)
        say(f"teacher: no run under {place}/ matches {wanted.recipe}; training it in {folder}")
        here = replace(wanted, out=str(folder), overwrite=True, resume="auto")
        say(f"teacher: {train(here)}")
        return folder


def _free_folder(place: Path, stem: str) -> Path:
    """A folder for a new run: one without a finished run, which may hold one that was interrupted."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(place / name for name in names if not (place / name / "summary.json").is_file())
