"""Weights on disk: strict, without executing anything that stands in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..untrusted.json_values import check_types, parse_json
from ..untrusted.safetensors_files import make_unreadable_error, read_notes, read_tensors
from ..untrusted.torch_files import load_tensors

WEIGHT_FILES = ("student.safetensors", "model.safetensors")  # what a run folder of ours holds
WRAPPERS = ("model", "state_dict", "model_state_dict", "net")  # keys under which projects put the state dict


def find_weights(path: str | Path) -> Path:
    """The weights file that ``path`` names: itself, or the one inside a run folder."""
    path = Path(path)
    if path.is_dir():
        for name in WEIGHT_FILES:
            if (path / name).is_file():
                return path / name
        raise SpotkdError(f"{path}: the folder holds no {' or '.join(WEIGHT_FILES)}; did the run finish?")
    if not path.is_file():
        raise SpotkdError(f"{path}: no such checkpoint; train one with 'spotkd train' or correct the path")
    return path


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What :func:`save_weights` wrote beside the tensors; empty for files that spotkd did not write.

    Raises:
        SpotkdError: the file is damaged, or notes something of another type than spotkd does.
    """
    path = find_weights(path)
    if path.suffix != ".safetensors":
        return {}
    notes = read_notes(path)
    try:
        metadata = parse_json(notes.get("spotkd", "{}"))
    except ValueError as error:
        raise make_unreadable_error(path, error) from error
    noted = check_types(path, metadata, "metadata", _METADATA_TYPES)
    if not all(isinstance(name, str) for name in noted.get("classes", ())):
        raise SpotkdError(f"{path}: damaged, not all of its classes are names")
    return noted


_METADATA_TYPES: dict[str, Any] = {  # the entries that spotkd writes, and their types; a dictionary is a section
    "model": str,
    "data": str,
    "data_options": {
        "limit": int | None,
        "image_size": int | None,
        "test_share": int | float | None,
        "streaming": bool,
    },
    "classes": list,
    "test_top1": int | float,
    "protocol": str,
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by parameter name; understands the layouts named in :mod:`spotkd.models`."""
    path = find_weights(path)
    content = read_tensors(path) if path.suffix == ".safetensors" else load_tensors(path)
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SpotkdError(f"{path}: holds no state dict (neither bare nor under a key {' or '.join(WRAPPERS)})")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        name = str(key).removeprefix("module.")  # what a data-parallel wrapper puts before its network's names
        if name in state:
            raise SpotkdError(f"{path}: holds {name} twice, with and without 'module.' before it")
        state[name] = value
    return state


def load_weights(model: nn.Module, path: str | Path, name: str) -> None:
    """Load a checkpoint into ``model``; what does not fit is one error that names every key.

    Raises:
        SpotkdError: missing or unreadable file; keys that are missing, unexpected or of another shape.
    """
    found = read_state_dict(path)
    wanted = model.state_dict()
    misfits = {
        "lacks": [key for key in wanted if key not in found],
        "has unexpected": [key for key in found if key not in wanted],
        "has another shape for": [
            f"{key} {tuple(found[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in wanted.items()
            if key in found and found[key].shape != tensor.shape
        ],
    }
    misfits["has another type for"] = [
        f"{key} {found[key].dtype} instead of {tensor.dtype}"
        for key, tensor in wanted.items()
        if key in found and _kind(found[key]) != _kind(tensor)
    ]
    problems = [f"{problem} {', '.join(keys)}" for problem, keys in misfits.items() if keys]
    if problems:
        raise SpotkdError(f"{path}: not a checkpoint of {name}: it {'; '.join(problems)}")
    model.load_state_dict(found)


def _kind(tensor: Tensor) -> str:
    """Types that weights may be converted between: numbers of any precision, whole ones among themselves."""
    if tensor.is_floating_point():
        return "real"
    return "complex" if tensor.is_complex() else "bool" if tensor.dtype == torch.bool else "whole"


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write ``model``'s state dict as safetensors with its metadata."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"spotkd": json.dumps(dict(metadata))})
    except (OSError, SafetensorError) as error:
        raise SpotkdError(f"{path}: cannot be written ({one_line(error)[:200]})") from error
