"""Checkpoints: the complete state of a training, sealed with a checksum; the last two are kept.

A checkpoint is an ordinary file of ``torch.save`` (tensors and plain containers only) followed by one line with the
SHA-256 of all that stands before it. It is written beside the old one, flushed, and renamed, after the old one was
renamed to ``previous.ckpt``: at any instant at least one of the two is whole.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..untrusted.torch_files import load_tensors

LAST, PREVIOUS, DAMAGED = "last.ckpt", "previous.ckpt", "damaged.ckpt"
FORMAT = 1  # of the state; raised when an older one cannot be gone on with
_SEAL = b"\nspotkd sha256 "
_SEALED = len(_SEAL) + 64 + 1  # bytes at the end of a file
_CHUNK = 1 << 20
_SPARE = 1 << 20  # bytes that must stay free beside a checkpoint: for metrics, for what the file system keeps


def write_sealed(path: Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
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
                file.write(_SEAL + digest.encode() + b"\n")
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        raise SpotkdError(f"{path}: cannot be written ({one_line(error)[:200]})") from error


def read_sealed(path: str | Path) -> dict[str, Any]:
    """A checkpoint, read without executing anything that stands in it.

    Raises:
        SpotkdError: it is missing, is none of ours, or is not as it was written.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = _digest(file, size - _SEALED)
            seal = file.read()
    except FileNotFoundError as error:
        raise SpotkdError(f"{path}: no such file") from error
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not (seal.startswith(_SEAL) and len(seal) == _SEALED):
        raise SpotkdError(f"{path}: not a checkpoint of spotkd, or cut short")
    if seal != _SEAL + digest.encode() + b"\n":
        raise SpotkdError(f"{path}: damaged, its contents are not those that were written")
    state = load_tensors(path)
    if not isinstance(state, dict):
        raise SpotkdError(f"{path}: not a checkpoint of spotkd")
    return state


def newest(folder: Path, set_aside: bool = True) -> tuple[dict[str, Any] | None, str | None]:
    """The newest state in a folder that is whole, and a line on what was wrong with a newer one.

    No checkpoint at all is ``None``. A damaged one is renamed, so that it does not push out the whole one; who
    only reads leaves it where it is (``set_aside=False``): the run may be at work.

    Raises:
        SpotkdError: there are checkpoints, and none of them can be used.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            state = read_sealed(folder / name)
            if state.get("format") != FORMAT:
                raise SpotkdError(
                    f"{folder / name}: written by another version of spotkd; train anew, --overwrite true"
                )
        except SpotkdError as error:
            problems.append(str(error))
            continue
        if problems:
            if set_aside:
                (folder / LAST).replace(folder / DAMAGED)
            return state, f"{problems[0]}; going on with {name} instead"
        return state, None
    if problems:
        raise SpotkdError(f"{'; '.join(problems)}; no checkpoint is left to go on with: train anew, --overwrite true")
    return None, None


def seed_everything(seed: int) -> None:
    """Seed all generators of random numbers that somebody's part may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Where all generators of random numbers stand."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # somebody's part may use it
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put them back there. On a machine with other GPUs, theirs stay as they are."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002  # noqa: NPY002
    torch.set_rng_state(state["cpu"])
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of tensors by name: whether two networks are the same."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
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
