"""Names for things: models, distillers, strategies and data sets are chosen by name everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from .errors import SpotkdError

T = TypeVar("T")
F = TypeVar("F")


def unknown_name(kind: str, name: str, known: list[str]) -> SpotkdError:
    """The error for a name that does not exist, with the near matches or, failing those, all names."""
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return SpotkdError(f"unknown {kind} '{name}': {hint}")


class Registry(Generic[T]):
    """A dictionary from names to entries that answers an unknown name with the near ones.

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
        if name not in self._entries:
            raise unknown_name(self.kind, name, list(self))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
