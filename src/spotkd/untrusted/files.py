"""Opening what may be no file at all: only regular files of a bounded size, checked on the descriptor that is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import SpotkdError

MAX_TEXT_BYTES = 32 << 20  # of the tables and other texts of a run
MAX_WEIGHTS_BYTES = 64 << 30
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def open_file(path: str | Path, most: int, *, follow: bool = True) -> Iterator[BinaryIO]:
    """A regular file, opened to be read.

    It is opened once, without waiting, and looked at before anything is read: a pipe or a device may never end, and
    whoever exchanges the file afterwards exchanges nothing.

    Args:
        path: the file.
        most: bytes that it may have.
        follow: whether it may be a link; the files of a run may not.

    Raises:
        SpotkdError: there is none, it is a link, a pipe, a device or a folder, too large, or cannot be read.
    """
    try:
        if not follow and Path(path).is_symlink():  # where the system has no such flag, and for a plain message
            raise SpotkdError(f"{path}: a link, and a run has only files of its own; remove it")
        descriptor = os.open(path, _FLAGS | (0 if follow else _NO_LINK))
    except (OSError, ValueError) as error:  # a name may hold what no name can
        raise SpotkdError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise SpotkdError(f"{path}: not a plain file; remove it")
        if state.st_size > most:
            raise SpotkdError(f"{path}: {_in_words(state.st_size)}, and {_in_words(most)} are the most")
        yield file


def read_bytes(path: str | Path, most: int, *, follow: bool = True) -> bytes:
    """The content of a file, see :func:`open_file`; of one that grows meanwhile, no more than was allowed."""
    with open_file(path, most, follow=follow) as file:
        try:
            return file.read(most)
        except OSError as error:
            raise SpotkdError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_text(path: str | Path, most: int = MAX_TEXT_BYTES, *, follow: bool = True, errors: str = "strict") -> str:
    """The text of a file in UTF-8, likewise.

    Raises:
        SpotkdError: as :func:`open_file`; or it is no such text.
    """
    try:
        text = read_bytes(path, most, follow=follow).decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise SpotkdError(f"{path}: damaged, it is no UTF-8 text ({error})") from error
    return text.replace("\r\n", "\n")


def check_own_files(folder: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """What is written in a folder stays in it: none of these names may be a link, and nothing in the folders either.

    Raises:
        SpotkdError: which one is a link, or neither a file nor a folder.
    """
    for path in (folder / name for name in files):
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise SpotkdError(f"{path}: not a plain file; remove it")
    for path in (folder / name for name in folders):
        inside = (Path(place, name) for place, *parts in os.walk(path) for names in parts for name in names)
        for part in (path, *inside):
            if part.is_symlink():
                raise SpotkdError(f"{part}: a link, and a run writes into its own folder alone; remove it")


def descriptor_name(file: BinaryIO, path: Path) -> str:
    """A name of the open file itself, for libraries that take nothing else; where there is none, its path."""
    name = f"/dev/fd/{file.fileno()}"
    return name if Path(name).exists() else str(path)


def _in_words(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} kB"
