"""Checkpoints: the complete state of a training, followed by a checksum; the last two are kept.

A checkpoint is an ordinary file of ``torch.save`` (tensors and plain containers only) followed by one line with the
SHA-256 of all that stands before it. It is written beside the old one, flushed, and renamed, after the old one was
renamed to ``previous.ckpt``: at any instant at least one of the two is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..distributed import is_sharded
from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..untrusted.files import MAX_WEIGHTS_BYTES, open_file
from ..untrusted.torch_files import read_torch_file
from .layout import DAMAGED, LAST, PREVIOUS, TABLES

FORMAT = 1  # of the state; raised when an older one can no longer be resumed
_TRAILER = b"\nspotkd sha256 "
_TRAILER_SIZE = len(_TRAILER) + 64 + 1  # bytes at the end of a file
_CHUNK = 1 << 20
_SPARE = 1 << 20  # bytes that must stay free beside a checkpoint: for metrics, for what the file system keeps


def write_checkpoint(path: Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write a checkpoint; what stood at ``path`` moves to ``keep``, if that is given.

    Raises:
        SpotkdError: no space, no permission; what stood there is as it was.
    """
    needed = sum(tensor.nbytes for tensor in _tensors(state)) + _SPARE
    try:
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise SpotkdError(
                f"{path}: cannot be written, it takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
            )
        with atomic_write(path, keep) as temporary:
            torch.save(dict(state), temporary)
            with temporary.open("rb+") as file:
                digest = _digest(file)
                file.write(_TRAILER + digest.encode() + b"\n")
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        raise SpotkdError(f"{path}: cannot be written ({one_line(error)[:200]})") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint, read without executing anything that stands in it.

    Raises:
        SpotkdError: it is missing, is none of ours, or is not as it was written.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise SpotkdError(f"{path}: no such file")
    with open_file(path, MAX_WEIGHTS_BYTES, follow=False) as file:
        try:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TRAILER_SIZE, 0))
            trailer = file.read(_TRAILER_SIZE)
            if not (trailer.startswith(_TRAILER) and len(trailer) == _TRAILER_SIZE):
                raise SpotkdError(f"{path}: not a checkpoint of spotkd, or cut short")
            file.seek(0)
            if trailer != _TRAILER + _digest(file, size - _TRAILER_SIZE).encode() + b"\n":
                raise SpotkdError(f"{path}: damaged, its contents are not those that were written")
        except OSError as error:
            raise SpotkdError(f"{path}: cannot be read ({error.strerror or error})") from error
        state = read_torch_file(file, path)
    if not isinstance(state, dict):
        raise SpotkdError(f"{path}: not a checkpoint of spotkd")
    return state


def check_state(path: Path, state: Mapping[str, Any]) -> None:
    """The checksum says that a file is as it was written, not by whom: what is used without a look is looked at here.

    Raises:
        SpotkdError: it holds tables that no run has, or something else than a state of training.
    """
    if state.get("format") != FORMAT:
        raise SpotkdError(f"{path}: written by another version of spotkd; start over: --overwrite true")
    for key, kind in _STATE_TYPES.items():
        value = state.get(key)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise SpotkdError(f"{path}: not a checkpoint of a training, it holds no usable {key}")
    for name, text in state["tables"].items():
        if name not in TABLES or type(text) is not str:
            raise SpotkdError(f"{path}: refused, it holds a table that no run has; remove it")


_STATE_TYPES: dict[str, type] = {"phase": str, "epoch": int, "step": int, "tables": dict, "config": dict}


def load_newest(folder: Path, set_aside: bool = True) -> tuple[dict[str, Any] | None, str | None]:
    """The newest state in a folder that is whole, and a line on what was wrong with a newer one.

    Args:
        folder: of the run; without any checkpoint the state is None.
        set_aside: rename a damaged checkpoint, so that it does not push out the whole one. A reader leaves it where it
            is: the run may be running.

    Raises:
        SpotkdError: there are checkpoints, and none of them can be used.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        if not os.path.lexists(folder / name):
            continue
        try:
            state = read_checkpoint(folder / name)
            check_state(folder / name, state)
        except SpotkdError as error:
            problems.append(str(error))
            continue
        if problems:
            if set_aside:
                (folder / LAST).replace(folder / DAMAGED)
            return state, f"{problems[0]}; resuming from {name} instead"
        return state, None
    if problems:
        raise SpotkdError(f"{'; '.join(problems)}; no checkpoint is left to resume from; start over: --overwrite true")
    return None, None


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of tensors by name: whether two networks are the same. Of sharded ones all processes must ask."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)


def _digest(file: BinaryIO, size: int | None = None) -> str:
    """SHA-256 of the first ``size`` bytes, or of all; the file is left behind them."""
    digest = hashlib.sha256()
    left = float("inf") if size is None else size
    while left > 0 and (chunk := file.read(min(_CHUNK, left) if size is not None else _CHUNK)):  # type: ignore[arg-type]
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()
