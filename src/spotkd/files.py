"""Files: written so that nobody ever sees half of one, read so that nothing in them is ever executed."""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .errors import SpotkdError, one_line


@contextmanager
def replacing(path: str | Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit it is flushed to the disk and renamed to ``path``.

    An exception inside the block, or a kill at any instant, leaves what stood at ``path`` untouched. With ``keep``,
    that is renamed to ``keep`` before the new file takes its place.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        if os.name == "posix":  # the rename itself lies in the folder's data
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_tensors(path: str | Path) -> object:
    """What ``torch.save`` wrote, onto the CPU; anything but tensors and plain containers is refused.

    Raises:
        SpotkdError: the file is missing, damaged, or holds something that would have to be executed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged file makes the reader guess aloud; one line of ours is enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SpotkdError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        raise SpotkdError(
            f"{path}: refused, it holds more than tensors (or is no PyTorch file); save a plain state dict instead"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SpotkdError(f"{path}: damaged or not a checkpoint ({one_line(error)[:200]})") from error
