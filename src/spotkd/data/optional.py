"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import SpotkdError, one_line


def import_optional(name: str, extra: str) -> Any:
    """An optional package, or a module of it, imported when it is needed.

    Raises:
        SpotkdError: it is missing or broken; the message names what installs it.
    """
    package, install = name.partition(".")[0], f"pip install 'spotkd[{extra}]'"
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise SpotkdError(f"{package} is not installed: {install}") from error
        raise SpotkdError(
            f"{package} is installed but cannot be imported ({one_line(error)[:200]}): install builds of it and of "
            f"torch that belong together ({install})"
        ) from error
