"""JSON from files made elsewhere, and the types of what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import SpotkdError

MAX_CHARACTERS = 64 << 20


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, too long, or nested too deeply.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"more than {MAX_CHARACTERS >> 20} million characters")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check_types(path: Path, values: Any, name: str, types: dict[str, Any]) -> dict[str, Any]:
    """``values`` if everything that is known of them has its type.

    Args:
        path: the file they stand in, for error messages.
        values: what should be a dictionary.
        name: what the file calls it.
        types: the type of each known key; a dictionary stands for a section. Unknown keys may hold anything.

    Raises:
        SpotkdError: which entry has another type.
    """
    if not isinstance(values, dict):
        raise SpotkdError(f"{path}: damaged, its {name} is a {type(values).__name__}")
    for key, value in values.items():
        kind = types.get(key, object)
        if isinstance(kind, dict):
            check_types(path, value, key, kind)
        elif not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            raise SpotkdError(f"{path}: damaged, it notes a {type(value).__name__} as its {key}")
    return values
