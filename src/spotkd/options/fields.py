"""What is known of an option beside its type and default: its bounds, and what it affects.

Both stand beside the field that they belong to, so that a new option is described in one place. Everything that asks
"may this value be?", "may this differ when a run is resumed?" or "does this decide what is learnt?" reads them here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

Affects = Literal["result", "numerics", "speed", "place", "display"]


@dataclass(frozen=True)
class Option:
    """The metadata of one field.

    Attributes:
        affects: ``result``, what is learnt; ``numerics``, the last digits of it, or how far it gets; ``speed``, how
            long it takes; ``place``, where files lie and how the run treats them; ``display``, what people see of it.
        at_least, at_most: bounds of a number, which may be reached.
        above, below: bounds of a number, which may not.
        wording: what is said of a value out of bounds, where the bounds alone do not say it well.
        parse: reads a value that has a grammar of its own, and raises :class:`~spotkd.errors.SpotkdError` where it does
            not follow it.
        test_image_key: its place among what weights files note to find the same test images again; None for none. The
            order is that of the first version, so that the files stay the same byte for byte.
        free_on_resume: whether it may differ when a run is resumed, although it affects the result.
    """

    affects: Affects = "result"
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    wording: str | None = None
    parse: Callable[[Any], object] | None = None
    test_image_key: int | None = None
    free_on_resume: bool = False

    @property
    def may_change(self) -> bool:
        """Whether a run may be resumed with another value."""
        return self.free_on_resume or self.affects in ("speed", "place", "display")

    def problem(self, value: Any) -> str | None:
        """What is wrong with a number, to follow ``NAME is VALUE:``; None if nothing is, or if it is none."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        bounded_by_words = bool(self.wording) or self.above is not None
        checks = [
            ("it must be a finite number", bounded_by_words or not math.isinf(value)),
            (f"it must be above {self.above}", self.above is None or self.above < value < math.inf),
            (f"it must be at least {self.at_least}", self.at_least is None or self.at_least <= value < math.inf),
            (f"it must be at most {self.at_most}", self.at_most is None or value <= self.at_most),
            (f"it must be below {_power_of_two(self.below)}", self.below is None or value < self.below),
            (f"it must be below {_power_of_two(_ANY_SIZE)}", type(value) is float or self.below or value < _ANY_SIZE),
            ("it must be a finite number", math.isfinite(value)),
        ]
        wrong = next((what for what, holds in checks if not holds), None)
        return wrong and (self.wording or wrong)


def _power_of_two(bound: float | None) -> str:
    """``2**32``, as people write large bounds; small ones as they are."""
    exponent = math.log2(bound) if bound else 0.0
    return f"2**{exponent:.0f}" if exponent.is_integer() and exponent > 16 else str(bound)


_KEY = "option"
_ANY_SIZE = 2**31  # below which whole numbers without a bound of their own lie: no tensor is larger in any direction


def option(default: Any, *, affects: Affects = "result", **known: Any) -> Any:
    """A field with its metadata; a list or a dictionary as default is copied for each object."""
    metadata = {_KEY: Option(affects, **known)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: Callable[[], Any], **instead: Affects) -> Any:
    """A field that holds a section of options.

    Args:
        kind: makes the section with its defaults.
        instead: what an option of the section affects here, where that is not what it affects elsewhere.
    """
    return dataclasses.field(default_factory=kind, metadata={_KEY: instead})


def known_options(kind: type) -> dict[str, Option]:
    """The metadata of every option of a dataclass, by full name as ``optim.lr``."""
    return dict(_walk(kind, "", {}))


def _walk(kind: type, prefix: str, instead: dict[str, Affects]) -> Iterator[tuple[str, Option]]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        found, hint = field.metadata.get(_KEY), hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{field.name}.", found or {})
        elif isinstance(found, Option):
            affects = instead.get(field.name, found.affects)
            yield prefix + field.name, dataclasses.replace(found, affects=affects)
        else:
            yield prefix + field.name, Option()
