"""A trained student from its weights file, with what is needed to use it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..data import DataSpec, load_data, make_preprocessing
from ..deprecation import warn_renamed
from ..errors import SpotkdError
from ..models import build_model
from ..models.weights import find_weights, read_metadata
from ..options import ExportOptions, PredictOptions
from ..registry import PYTHON
from ..untrusted.names import looking
from .metadata import StudentMetadata, check_metadata


class Student(NamedTuple):
    """A network in eval mode on the CPU, and what one must know to use it."""

    network: nn.Module
    metadata: StudentMetadata

    @property
    def facts(self) -> StudentMetadata:
        """Former name of ``metadata``."""
        warn_renamed("Student.facts", "Student.metadata")
        return self.metadata


def named_data(options: ExportOptions | PredictOptions) -> DataSpec | None:
    """Options of the data set that the user has named; None if there is none."""
    if options.data is None:
        return None
    return DataSpec(options.data) if options.root is None else DataSpec(options.data, options.root)


def load_student(
    path: str | Path, model: str | None = None, data: DataSpec | None = None, trust: bool = False
) -> Student:
    """The student in a run folder or a weights file.

    Args:
        path: a run folder, .safetensors, .pt or .pth.
        model: the network's name; None takes the one stored in the file.
        data: the data set it was trained on, for files that hold no classes and no preprocessing.
        trust: follow a model's name that stands for code.

    Raises:
        SpotkdError: no such file; a file without what is needed; weights that do not fit.
    """
    stored = read_metadata(path)
    unsaid = model is None and not trust  # the file may come from a stranger
    if unsaid and str(stored.get("model", "")).startswith(PYTHON):
        raise SpotkdError(f"{path}: names code as its model; to run it, say --model {stored['model']}")
    if model is not None:
        stored["model"] = model
    if data is not None:
        with looking([data.name]):
            opened = load_data(data)
        stored |= {"data": data.name, "classes": opened.classes, "preprocessing": asdict(make_preprocessing(opened))}
    for key, option in (("model", "model"), ("classes", "data"), ("preprocessing", "data")):
        if key not in stored:
            raise SpotkdError(f"{path}: does not note its {key}; name its {option} with --{option}")
    metadata = check_metadata(stored, find_weights(path))
    with looking([model], trust):
        network = build_model(metadata.model, len(metadata.classes), path, metadata.preprocessing.image_shape)
    return Student(network.eval(), metadata)
