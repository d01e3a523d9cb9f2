"""Whose run a folder holds: code, data and networks that a stranger's files name are not opened unasked.

A run that trains signs its ``config.yaml`` with a key that only this user on this machine has. A folder without that
signature, or with an edited ``config.yaml``, may have been made by anyone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import SpotkdError
from ..files import atomic_write
from ..registry import known_names_only
from ..untrusted.files import read_bytes
from . import layout

_KEY_BYTES = 32


def key_file() -> Path:
    """Where this user's key lies: ``spotkd/key`` in the folder for configuration, ``~/.config`` by default."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(base, "spotkd", "key")


def sign(folder: Path) -> None:
    """Note that this user made the run on this machine; a home that cannot be written leaves it without a note."""
    with suppress(OSError):
        key = _read_key() or _make_key()
        with atomic_write(folder / layout.SIGNATURE) as path:
            path.write_text(_signature(folder, key) + "\n", encoding="utf-8")


def is_signed(folder: Path) -> bool:
    """Whether this user made the run on this machine, and its ``config.yaml`` is as it was written."""
    try:
        key = _read_key()
        noted = read_bytes(folder / layout.SIGNATURE, 1000).decode("utf-8", "replace").strip()
        return key is not None and hmac.compare_digest(noted.encode(), _signature(folder, key).encode())
    except (OSError, SpotkdError):
        return False


def _signature(folder: Path, key: bytes) -> str:
    return hmac.new(key, read_bytes(folder / layout.CONFIG, 1 << 20), hashlib.sha256).hexdigest()


def _read_key() -> bytes | None:
    """The user's key; None where there is none, or others could have read it."""
    path = key_file()
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            return None
        key = read_bytes(path, _KEY_BYTES)
    except (OSError, SpotkdError):
        return None
    return key if len(key) == _KEY_BYTES else None


def _make_key() -> bytes:
    path, key = key_file(), secrets.token_bytes(_KEY_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
    return key


@contextmanager
def looking_at(folder: str | Path, trust: bool = False) -> Iterator[None]:
    """Inside, nothing that a stranger's run names is opened: no code, no network or data set from outside spotkd.

    Args:
        folder: of the run.
        trust: what the user says of it.
    """
    if trust or is_signed(Path(folder)):
        yield
    else:
        with known_names_only():
            yield
