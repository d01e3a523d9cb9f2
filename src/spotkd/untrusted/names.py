"""Names in files that stand for code or for something on the network: followed only where a person has said so.

Commands that only look at what somebody may have made open it inside of :func:`looking`. Whatever follows a name asks
:func:`check_name` first, and whatever fetches or writes beside it asks :func:`is_looking`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from ..errors import SpotkdError


class UnfollowedNameError(SpotkdError):
    """A file names code or an address, and nobody has said that it may be followed."""


class _Look(NamedTuple):
    named: frozenset[str]
    trust: bool


_LOOK: ContextVar[_Look | None] = ContextVar("look", default=None)


@contextmanager
def looking(named: Iterable[str | None] = (), trust: bool = False) -> Iterator[None]:
    """Inside, nothing is fetched or written beside what is asked for, and no name from a file is followed.

    Args:
        named: names that the user has given, which may be followed.
        trust: whether all names may be.
    """
    before = _LOOK.set(_Look(frozenset(filter(None, named)), trust))
    try:
        yield
    finally:
        _LOOK.reset(before)


def is_looking() -> bool:
    """Whether something is only looked at: then nothing is downloaded, unpacked or cached."""
    return _LOOK.get() is not None


def is_trusted() -> bool:
    """Whether what files say may be followed: nothing is merely looked at, or the user has said so."""
    look = _LOOK.get()
    return look is None or look.trust


def check_name(name: str) -> None:
    """Refuse to follow a name that stands in a file and was not given by the user.

    Raises:
        UnfollowedNameError: which one, and what allows it.
    """
    look = _LOOK.get()
    if look is not None and not is_trusted() and name not in look.named:
        raise UnfollowedNameError(f"{name}: a file names this code or address; to follow it, say --trust true")
