"""A trained student from its weights file, with what is needed to use it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..config import ExportConfig, PredictConfig
from ..data import DataSpec, load_data, make_preprocessing
from ..errors import SpotkdError
from ..models import build_model
from ..models.weights import find_weights, read_metadata
from ..registry import PYTHON
from .facts import Facts, read_facts


class Student(NamedTuple):
    """A network in eval mode on the CPU, and the facts on it."""

    network: nn.Module
    facts: Facts


def named(config: ExportConfig | PredictConfig) -> DataSpec | None:
    """The data set that the user has named, if any."""
    if config.data is None:
        return None
    return DataSpec(config.data) if config.root is None else DataSpec(config.data, config.root)


def load_student(path: str | Path, model: str | None = None, data: DataSpec | None = None) -> Student:
    """The student in a run folder or a weights file.

    Args:
        path: a run folder, .safetensors, .pt or .pth.
        model: the network's name; None takes the one noted in the file.
        data: the data set it was trained on, for files that note no classes and no preprocessing.

    Raises:
        SpotkdError: no such file; a file that does not note what is needed; weights that do not fit.
    """
    noted = read_metadata(path)
    if model is None and str(noted.get("model", "")).startswith(PYTHON):  # the file may come from a stranger
        raise SpotkdError(f"{path}: notes code as its model; to run it, say --model {noted['model']}")
    if model is not None:
        noted["model"] = model
    if data is not None:
        opened = load_data(data)
        noted |= {"data": data.name, "classes": opened.classes, "preprocessing": asdict(make_preprocessing(opened))}
    for key, option in (("model", "model"), ("classes", "data"), ("preprocessing", "data")):
        if key not in noted:
            raise SpotkdError(f"{path}: does not note its {key}; name its {option} with --{option}")
    facts = read_facts(noted, find_weights(path))
    network = build_model(facts.model, len(facts.classes), path, facts.preprocessing.image_shape)
    return Student(network.eval(), facts)
