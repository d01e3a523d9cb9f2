"""Who made a run whose options name code or an address: a file with what nobody else can compute.

A person's key, 32 random bytes, lies in the folder for settings (``~/.config/spotkd/key``), readable by that person
alone. A run whose options hold such names notes an HMAC of them. Whoever opens it with the same key made it, on this
machine; anybody else gives the names once more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SpotkdError
from ..registry import PYTHON
from ..untrusted.files import read_bytes, read_text
from .layout import ORIGIN

_FOLLOWED = (PYTHON, "torchvision:", "timm:", "hf:")
_KEY_BYTES = 32


def names_to_follow(value: object) -> set[str]:
    """All names of code, of networks of other libraries and of addresses that stand in options, however deep."""
    if isinstance(value, str):
        return {value} if value.startswith(_FOLLOWED) else set()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(names_to_follow, parts))


def note_origin(folder: Path, options: Mapping[str, Any]) -> None:
    """Write who made a run, if its options hold names to follow; where no key can be kept, nothing is noted."""
    names = names_to_follow(options)
    key = _find_key(make=True) if names else None
    if key is None:
        (folder / ORIGIN).unlink(missing_ok=True)
    else:
        (folder / ORIGIN).write_text(_sign(key, names) + "\n", encoding="utf-8")


def is_own(folder: Path, options: Mapping[str, Any]) -> bool:
    """Whether this person noted, on this machine, that a run holds these names."""
    try:
        noted, key = read_text(folder / ORIGIN, 1024, follow=False).strip(), _find_key(make=False)
    except SpotkdError:
        return False
    return key is not None and hmac.compare_digest(noted.encode(), _sign(key, names_to_follow(options)).encode())


def _sign(key: bytes, names: set[str]) -> str:
    return hmac.new(key, json.dumps(["names to follow", *sorted(names)]).encode(), hashlib.sha256).hexdigest()


def _find_key(make: bool) -> bytes | None:
    """The person's key; None where there is none and none can be made."""
    path = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "spotkd" / "key"
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
        key = read_bytes(path, _KEY_BYTES, follow=False)
    except (SpotkdError, OSError, RuntimeError):  # no home
        return None
    return key if len(key) == _KEY_BYTES else None
