"""A hazard: a distiller whose spots face the wrong features of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

from ..errors import SpotkdError
from ..stages import Shape
from .base import DISTILLERS, Distiller, LogitDistiller, Spots
from .factory import DistillerFactory


def mismatch(distiller: str | DistillerFactory) -> DistillerFactory:
    """The same distiller with its pairs of features crossed, see :func:`cross_spots`; it is built twice.

    Args:
        distiller: a registered name, or anything with a distiller's arguments.

    Raises:
        SpotkdError: when it is made, that it distils the logits, or that nothing can be crossed.
    """
    factory = DISTILLERS[distiller] if isinstance(distiller, str) else distiller

    @wraps(factory, updated=())
    def make(
        student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], *, spots: Spots | None = None, **given: Any
    ) -> Distiller:
        built = factory(student_shapes, teacher_shapes, spots=spots, **given)
        if isinstance(built, LogitDistiller):
            raise SpotkdError("hazard is mismatch: this distiller compares the logits alone")
        return factory(student_shapes, teacher_shapes, spots=cross_spots(built.spots, teacher_shapes), **given)

    return make


def cross_spots(spots: Spots, teacher_shapes: Sequence[Shape]) -> Spots:
    """Pairs in which each student's feature faces the teacher's of the next spot, and the last one that of the first.

    Maps stay with maps and vectors with vectors. One that is alone of its kind faces the teacher's shallowest other
    feature of that kind; where there is none it stays as it is.

    Raises:
        SpotkdError: no pair changes.
    """
    crossed = dict(spots)
    for dimensions in {len(teacher_shapes[t]) for _, t in spots}:
        alike = [(s, t) for s, t in spots if len(teacher_shapes[t]) == dimensions]
        instead = [t for _, t in (*alike[1:], alike[0])]
        if len(alike) == 1:
            others = (i for i, shape in enumerate(teacher_shapes[:-1]) if len(shape) == dimensions and i != instead[0])
            instead = [next(others, instead[0])]
        crossed |= {s: t for (s, _), t in zip(alike, instead, strict=True)}
    if crossed == dict(spots):
        raise SpotkdError("hazard is mismatch: the teacher has no other feature that could face the student's")
    return tuple(crossed.items())
