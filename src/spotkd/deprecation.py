"""Former names: each works for one more release and warns which name took its place."""

from __future__ import annotations

import warnings
from typing import Any


def warn_renamed(old: str, new: str) -> None:
    """Emit the ``DeprecationWarning`` that ``old`` is now ``new``, at the line that uses ``old``."""
    warnings.warn(f"{old} is now {new}; the old name goes in the next release", DeprecationWarning, stacklevel=3)


class Renamed:
    """The former name of a method or attribute of a class: ``old = Renamed("new")`` in the class's body.

    Reading or setting ``old`` warns and reads or sets ``new``, on instances and on the class.
    """

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner, self.old = owner.__name__, name

    def __get__(self, instance: object | None, owner: type) -> Any:
        warn_renamed(f"{self.owner}.{self.old}", self.new)
        return getattr(owner if instance is None else instance, self.new)

    def __set__(self, instance: object, value: Any) -> None:
        warn_renamed(f"{self.owner}.{self.old}", self.new)
        setattr(instance, self.new, value)
