"""Names for things: models, distillers, strategies and data sets are chosen by name everywhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Generic, TypeVar, cast

from .errors import SpotkdError, one_line
from .untrusted.names import check_name

T = TypeVar("T")
F = TypeVar("F")

_SHOWN_NAMES = 60  # names listed in an error before it is cut with a count
PYTHON = "python:"  # begins names of things that the user brings: python:my_module.MyClass


def unknown_name(kind: str, name: str, known: list[str]) -> SpotkdError:
    """The error for a name that does not exist, with the near matches or, failing those, all names."""
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:_SHOWN_NAMES])}{more}"
    return SpotkdError(f"unknown {kind} '{name}': {hint}")


def import_name(path: str) -> object:
    """What ``path`` names, an attribute of a module: ``my_module.MyClass``. The working directory is searched, too.

    Raises:
        SpotkdError: there is no such module or attribute, or importing the module fails; or the name stands in a file
            that is only looked at.
    """
    check_name(f"{PYTHON}{path}")
    module_name, _, attribute = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")) or not module_name:
        raise SpotkdError(f"{PYTHON}{path}: write {PYTHON}module.attribute, such as {PYTHON}my_module.MyClass")
    here = str(Path.cwd())
    if here not in sys.path:  # for good: the module may import its neighbours later, and so may worker processes
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise SpotkdError(
            f"{PYTHON}{path}: module '{module_name}' cannot be imported from {here} ({reason})"
        ) from error
    if not hasattr(module, attribute):
        known = [name for name in vars(module) if not name.startswith("_")]
        raise unknown_name(f"attribute of module '{module_name}'", attribute, known)
    return cast(object, getattr(module, attribute))


class Registry(Generic[T]):
    """A dictionary from names to entries that answers an unknown name with the near ones.

    A name ``python:module.attribute`` stands for that attribute, imported when it is asked for.

    Args:
        kind: what the entries are, in the singular; it stands in error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator form of :meth:`add`; returns what it decorates."""

        def decorate(entry: F) -> F:
            self.add(name, entry)  # type: ignore[arg-type]  # F is T's own subtype at each use
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        if name.startswith(PYTHON):
            return cast(T, import_name(name.removeprefix(PYTHON)))
        if name not in self._entries:
            raise unknown_name(self.kind, name, list(self))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
