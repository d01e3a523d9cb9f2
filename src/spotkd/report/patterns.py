"""For which samples a policy uses the teacher, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..analysis import Inspection
from ..formatting import format_signed, join_words
from .gallery import flat_spots

_CLEAR = 0.2  # of a correlation's absolute value, or of a range of means, from which it is worth a sentence
_MOST_CLASSES = 3  # named at either end
_WORDS = {  # by what P(teacher) goes with, and the sign of that
    ("student is right", False): "samples that the student gets wrong",
    ("student is right", True): "samples that the student gets right",
    ("teacher is right", False): "samples that the teacher gets wrong",
    ("teacher is right", True): "samples that the teacher gets right",
    ("student's loss", True): "samples that are hard for the student",
    ("student's loss", False): "samples that are easy for the student",
    ("teacher's loss", True): "samples that are hard for the teacher",
    ("teacher's loss", False): "samples that are easy for the teacher",
}


def describe_patterns(inspection: Inspection) -> Iterator[str]:
    """A sentence for each spot with a pattern, and one for those without and for those that treat all alike."""
    flat, without = flat_spots(inspection), []
    found = inspection.correlations()
    for i, spot in enumerate(inspection.spots):
        if spot in flat:
            continue
        known = {name: float(values[i]) for name, values in found.items() if not math.isnan(values[i])}
        name = max(known, key=lambda name: abs(known[name]), default="")
        r = known.get(name, 0.0)
        if abs(r) < _CLEAR:
            without.append(spot)
        else:
            measured = f"P(teacher) and '{name}': r = {format_signed(r)}"
            yield f"At {spot} the teacher is used more for {_WORDS[name, r > 0]} ({measured})."
    if without:
        nothing = "P(teacher) goes with neither network's loss or correctness"
        yield f"At {join_words(without)} no pattern was found: {nothing}."
    yield from _describe_classes(inspection, flat)
    if flat:
        values = [f"{spot} (P = {inspection.means()[inspection.spots.index(spot)]:.2f})" for spot in flat]
        yield f"All samples are treated alike at {join_words(values)}."


def _describe_classes(inspection: Inspection, flat: list[str]) -> Iterator[str]:
    """The classes at either end, by the mean over the spots that do not treat all samples alike; where they differ."""
    spots = [i for i, spot in enumerate(inspection.spots) if spot not in flat]
    if not spots:
        return
    means = inspection.class_means()[:, spots].mean(1)
    order = [int(label) for label in np.argsort(-means, kind="stable") if not math.isnan(means[label])]
    if len(order) > 1 and means[order[0]] - means[order[-1]] >= _CLEAR:
        count = min(_MOST_CLASSES, len(order) // 2)
        most, least = (
            join_words([f"'{inspection.classes[label]}' ({100 * means[label]:.0f} %)" for label in end])
            for end in (order[:count], order[: -count - 1 : -1])
        )
        yield f"Classes differ: the teacher is used most for {most}, least for {least}."
