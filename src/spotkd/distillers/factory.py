"""Distillers made by name, and their options: the keyword arguments of their constructors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from ..errors import SpotkdError, one_line
from ..registry import PYTHON, unknown_name
from ..stages import Shape
from .base import DISTILLERS, FEATURE_KINDS, Distiller, LogitDistiller, Spots

DistillerFactory = Callable[..., Distiller]
_ANY_SIZE = 2**31  # below which whole numbers lie: no tensor is larger in any direction


def make_distiller(
    distiller: str | DistillerFactory,
    student_shapes: Sequence[Shape],
    teacher_shapes: Sequence[Shape],
    *,
    spots: Spots | None = None,
    labels: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
) -> Distiller:
    """Make a distiller from a registered name, a :class:`Distiller` class or a callable with its arguments.

    Args:
        distiller: which one.
        student_shapes: see :class:`Distiller`.
        teacher_shapes: see :class:`Distiller`.
        spots: see :class:`Distiller`.
        labels: see :class:`Distiller`.
        options: its own options, by name.

    Raises:
        SpotkdError: an unknown name or option, a value that the option cannot have, features that it cannot use.
    """
    factory = DISTILLERS[distiller] if isinstance(distiller, str) else distiller
    name = distiller if isinstance(distiller, str) else getattr(factory, "__name__", "?")
    if not callable(factory):
        raise SpotkdError(f"distiller is {name}: it is a {type(factory).__name__}, not a spotkd.Distiller")
    options = dict(options or {})
    check_distiller_options(name, factory, options)
    try:
        made = factory(student_shapes, teacher_shapes, spots=spots, labels=labels, **options)
    except TypeError as error:
        if not name.startswith(PYTHON):
            raise
        raise SpotkdError(f"distiller is {name}: it cannot be made ({one_line(error)[:200]})") from error
    if not isinstance(made, Distiller):
        raise SpotkdError(f"distiller is {name}: it gives a {type(made).__name__}, not a spotkd.Distiller")
    return made


def check_distiller_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Every option must be one of the distiller's, of its default's type, and a number that can be meant.

    Raises:
        SpotkdError: which option it is and what it should be.
    """
    known = option_names(factory)
    for option, value in options.items():
        if option not in known:
            raise unknown_name(f"option of distiller {name}", option, list(known))
        kind = type(known[option])
        if kind is float and type(value) is int:
            value = float(value)
        if kind in (bool, int, float) and type(value) is not kind:
            raise SpotkdError(f"option {option} of distiller {name} is {value!r}: it must be of type {kind.__name__}")
        if kind in (int, float) and not (1 if kind is int else 0) <= value < (_ANY_SIZE if kind is int else math.inf):
            lowest = "at least 1, and below 2**31" if kind is int else "a finite number, not below 0"
            raise SpotkdError(f"option {option} of distiller {name} is {value}: it must be {lowest}")


def option_names(factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a distiller, by name with their defaults: the keyword arguments of its own constructor."""
    known = {"student_shapes", "teacher_shapes", "spots", "labels"}
    return {
        name: parameter.default
        for name, parameter in signature(factory).parameters.items()
        if name not in known and parameter.kind is Parameter.KEYWORD_ONLY
    }


def accepted_features(distiller: type[Distiller]) -> str:
    """The kinds of features that a distiller can use, in words."""
    if issubclass(distiller, LogitDistiller):
        return "logits"
    return " or ".join(FEATURE_KINDS[kind].partition(" (")[0] for kind in distiller.takes)
