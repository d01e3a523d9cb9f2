"""Safetensors files. The format's own library checks every claim about sizes; the notes beside the tensors are ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import SpotkdError, one_line
from .files import MAX_WEIGHTS_BYTES, descriptor_name, open_file


def read_notes(path: Path) -> dict[str, str]:
    """The texts that stand beside the tensors, by key; empty if there are none.

    Raises:
        SpotkdError: the file is missing or damaged.
    """
    try:
        with open_file(path, MAX_WEIGHTS_BYTES) as opened, safe_open(descriptor_name(opened, path), "pt") as file:
            return dict(file.metadata() or {})
    except SpotkdError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise make_unreadable_error(path, error) from error


def read_tensors(path: Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors by name, on the CPU; only those of ``keys``, in that order, where it is given.

    Raises:
        SpotkdError: the file is missing or damaged, or lacks one of ``keys``.
    """
    try:
        with open_file(path, MAX_WEIGHTS_BYTES) as opened, safe_open(descriptor_name(opened, path), "pt") as file:
            return {key: file.get_tensor(key) for key in (file.keys() if keys is None else keys)}
    except SpotkdError:
        raise
    except (SafetensorError, OSError) as error:
        raise make_unreadable_error(path, error) from error


def make_unreadable_error(path: Path, error: Exception) -> SpotkdError:
    """The error for a file that is no safetensors file, or has damaged notes."""
    return SpotkdError(f"{path}: not a readable safetensors file ({one_line(error)[:200]})")
