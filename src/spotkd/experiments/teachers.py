"""A teacher for a recipe: one that was trained before, or one trained now."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from ..config import TrainConfig, read_config
from ..errors import SpotkdError
from ..training import train
from ..training.optim import milestones

# What does not change the weights that come out: where files lie, how things run, what is printed.
IRRELEVANT = {
    "out", "overwrite", "quiet", "recipe", "eval_batch_size", "accelerator", "precision", "channels_last",
}  # fmt: skip
IRRELEVANT_DATA = {"root", "download", "mirror", "workers"}


def essence(config: TrainConfig) -> dict[str, Any]:
    """The options that decide what is learnt, so that two runs can be compared."""
    content = dataclasses.asdict(config)
    content["optim"]["milestones"] = (
        milestones(config.optim, config.epochs) if config.optim.schedule == "multistep" else None
    )
    content["data"] = {key: value for key, value in content["data"].items() if key not in IRRELEVANT_DATA}
    return {key: value for key, value in content.items() if key not in IRRELEVANT}


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
            if yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["name"] != wanted.model.name:
                continue  # before the slower reading with all its checks
            if essence(read_config(TrainConfig, path)) == essence(wanted):
                found.append((path.stat().st_mtime, folder))
        except (SpotkdError, OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    return max(found)[1] if found else None


def teach(wanted: TrainConfig, say: Any, place: Path = Path("runs")) -> Path:
    """The run folder of a teacher as ``wanted``: found below ``place``, or trained there now.

    Args:
        wanted: how the teacher is trained; its ``out`` is chosen here.
        say: called with a line on what happens.
        place: where to look.

    Raises:
        SpotkdError: training it fails.
    """
    folder = find_teacher(wanted, place)
    if folder is not None:
        top1 = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["scores"]["top1"]
        say(f"teacher: {wanted.model.name} of {folder}, test top-1 {top1:.2f} %")
        return folder
    stem = f"{wanted.recipe}-epochs{wanted.epochs}-seed{wanted.seed}".replace("/", "-").replace(":", "-")
    number = 1
    while (folder := place / "teachers" / (stem if number == 1 else f"{stem}-{number}")).exists():
        if not (folder / "summary.json").is_file():
            break  # begun and interrupted: begin anew
        number += 1  # the same recipe with other options
    say(f"teacher: no run under {place}/ matches {wanted.recipe}; training it in {folder}")
    summary = train(dataclasses.replace(wanted, out=str(folder), overwrite=True))
    say(f"teacher: {summary}")
    return folder
