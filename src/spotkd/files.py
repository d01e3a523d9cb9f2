"""Files written so that no reader ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SpotkdError

_NEVER_REPLACED = {
    *(".safetensors", ".onnx", ".pt2", ".pt", ".pth", ".ckpt", ".bin"),  # networks
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
}


def check_target(option: str, path: str | Path | None) -> None:
    """A table or page that is written anew by every call may not take the place of a network or a picture.

    Args:
        option: that names the file.
        path: the file, which need not be there; None for none.

    Raises:
        SpotkdError: there is such a file.
    """
    if path is not None and Path(path).suffix.lower() in _NEVER_REPLACED and Path(path).exists():
        raise SpotkdError(f"{option} is {path}: that is a network or a picture; give another file")


@contextmanager
def atomic_write(path: str | Path, keep: Path | None = None) -> Iterator[Path]:
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
