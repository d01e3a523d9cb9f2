"""Weights on disk: strict, without executing anything that stands in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import SpotkdError, one_line, tell
from ..files import atomic_write
from ..untrusted.json_values import check_types, parse_json
from ..untrusted.safetensors_files import make_unreadable_error, read_notes, read_tensors
from ..untrusted.torch_files import load_tensors
from .layouts import Found, State, find_state, fit_names

WEIGHT_FILES = ("student.safetensors", "model.safetensors")  # what a run folder of ours holds


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
    "output": str,
}


def read_state_dict(path: str | Path, key: str | None = None) -> Found:
    """The tensors of a weights file; understands the layouts named in :mod:`spotkd.models`.

    Args:
        path: a weights file or a run folder.
        key: which weights to take, where a file holds several: see :func:`.layouts.find_state`.

    Raises:
        SpotkdError: the file is missing or damaged, or holds no state dict.
    """
    path = find_weights(path)
    return find_state(read_tensors(path) if path.suffix == ".safetensors" else load_tensors(path), path, key)


def load_weights(
    model: nn.Module, path: str | Path, name: str, *, key: str | None = None, replace_head: bool = False
) -> None:
    """Load a checkpoint into ``model``; what is done beyond copying is told, what does not fit is one error.

    A prefix of all names, names that wrappers insert and counters that are no weights are left out; missing
    ``num_batches_tracked`` keep their value.

    Args:
        model: the network.
        path: a weights file or a run folder.
        name: what to call the network in messages.
        key: which weights to take: ema, raw, a key of the file, or a prefix of its names; None prefers raw ones.
        replace_head: leave a classifier of another size as it is in ``model``.

    Raises:
        SpotkdError: missing or unreadable file; keys that are missing, unexpected or of another shape.
    """
    found, wanted = read_state_dict(path, key), model.state_dict()
    fit = fit_names(found.tensors, wanted, Path(path), key)
    state = fit.tensors
    state |= {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked") and k not in state}
    reshaped = [k for k, tensor in wanted.items() if k in state and state[k].shape != tensor.shape]
    head = _find_head(reshaped, [k for k in wanted if k not in state], state, wanted)
    if replace_head and head:
        state = {k: wanted[k] if k in head else v for k, v in state.items()} | {k: wanted[k] for k in head}
        reshaped = []
    problems = _list_misfits(state, wanted, reshaped)
    if problems:
        remedy = (
            "--model.replace_head true takes all but the classifier"
            if head and len(problems) == 1
            else "name the network and the number of classes that it was made for"
        )
        common = f"all {len(found.tensors)} keys begin with `{fit.common}`, and " if fit.common else ""
        raise SpotkdError(f"{path}: not a checkpoint of {name}: {common}it {'; '.join(problems)}: {remedy}")
    if found.averaged:
        tell(
            f"{path}: also holds averaged (EMA) weights, {found.averaged}; the raw ones are taken, "
            "checkpoint_key ema takes those"
        )
    if fit.left_out:
        tell(f"{path}: of {fit.prefix} {len(state)} tensors are taken; left out: {_join_first(fit.left_out)}")
    if replace_head:
        tell(f"{path}: new in {name}: {_join_first(head) or 'nothing, the classifier fits'}")
    model.load_state_dict(state)


def _find_head(reshaped: list[str], lacking: list[str], state: State, wanted: Mapping[str, Tensor]) -> list[str]:
    """The classifier's keys, if it alone is of another size or missing: one module, or two beside each other."""
    odd = [*reshaped, *lacking]
    modules = {key.rpartition(".")[0] for key in odd}
    sizes = {wanted[key].shape[:1] for key in odd}
    fits = all(state[key].shape[1:] == wanted[key].shape[1:] and state[key].dim() for key in reshaped)
    last = list(dict.fromkeys(key.rpartition(".")[0] for key in wanted))[-2:]
    return odd if 0 < len(modules) <= 2 and len(sizes) == 1 and fits and (reshaped or modules <= {*last}) else []


def _list_misfits(state: State, wanted: Mapping[str, Tensor], reshaped: list[str]) -> list[str]:
    """What does not fit, a phrase each."""
    misfits = {
        "lacks": [key for key in wanted if key not in state],
        "has unexpected": [key for key in state if key not in wanted],
        "has another shape for": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}" for key in reshaped
        ],
        "has another type for": [
            f"{key} {state[key].dtype} instead of {tensor.dtype}"
            for key, tensor in wanted.items()
            if key in state and _kind(state[key]) != _kind(tensor)
        ],
    }
    return [f"{problem} {_join_first(keys)}" for problem, keys in misfits.items() if keys]


def _join_first(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    shown = [name if len(name) <= _SHOWN_LETTERS else f"{name[:_SHOWN_LETTERS]}..." for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


_SHOWN, _SHOWN_LETTERS = 3, 80  # names in a message, and their length


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
