"""Files that may have been put there by anyone: opened once, and only if they are plain files of a bounded size."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import SpotkdError

MAX_TEXT = 64 << 20  # bytes of a table or a log; YAML and JSON have bounds of their own, which are smaller


def open_file(path: str | Path, limit: int | None = None) -> BinaryIO:
    """A plain file, opened for reading; a link is followed, and what it leads to must be a plain file.

    Opening a pipe would wait for ever, and reading a device may never end, so neither is ever read: what was opened is
    looked at, not what stood there before.

    Args:
        path: of the file.
        limit: bytes that it may have; None for any number.

    Raises:
        SpotkdError: it is no plain file, or a larger one; the message names it.
        OSError: it is not there, or cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise SpotkdError(f"{path}: not a plain file; remove it")
        if limit is not None and state.st_size > limit:
            size = f"{state.st_size >> 20} MB" if state.st_size >> 20 else f"{state.st_size} bytes"
            most = f"{limit >> 20} MB" if limit >> 20 else f"{limit} bytes"
            raise SpotkdError(f"{path}: {size}, and {most} are the most; remove it")
        return cast(BinaryIO, os.fdopen(handle, "rb"))
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The content of a plain file of at most ``limit`` bytes.

    Raises:
        SpotkdError: it is no plain file, or a larger one.
        OSError: it is not there, or cannot be read.
    """
    with open_file(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it grew meanwhile
        raise SpotkdError(f"{path}: more than {limit} bytes; remove it")
    return content


def read_text(path: str | Path, limit: int = MAX_TEXT, errors: str = "strict") -> str:
    """The text of a plain file in UTF-8, with line ends as they are.

    Raises:
        SpotkdError: it is no plain file, or a larger one.
        OSError: it is not there, or cannot be read.
        UnicodeDecodeError: it is no UTF-8, unless ``errors`` says how to take that.
    """
    return read_bytes(path, limit).decode("utf-8", errors)
