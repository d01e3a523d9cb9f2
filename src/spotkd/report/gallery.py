"""The samples with the highest and the lowest probabilities at a spot, with their images."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..analysis import Inspection
from ..analysis.plots import first_of_each_class
from ..data import Split, pick_images

_COUNT, _PER_CLASS = 12, 2  # samples in a gallery, and at most so many of a class
_LARGEST_EDGE = 112  # pixels of the larger edge, to which larger images are brought
_PNG_EDGE = 64  # up to this edge PNG is small, and exact
_EQUAL_RANGE = 0.01  # a spot whose probabilities span no more has no ends


@dataclass(frozen=True)
class Sample:
    """An image as a data URL, and what is known of it."""

    source: str
    name: str
    title: str
    probability: float
    teacher_correct: bool
    student_correct: bool


@dataclass(frozen=True)
class Gallery:
    """The samples most surely sent to one side at one spot; empty where all are treated alike."""

    spot: str
    side: str
    samples: list[Sample]


def galleries(inspection: Inspection, split: Split) -> list[Gallery]:
    """Two galleries a spot: most to the teacher, most to the student."""
    labels, chosen = torch.from_numpy(inspection.labels), {}
    for i, spot in enumerate(inspection.spots):
        column = torch.from_numpy(inspection.probability[:, i])
        flat = bool(column.max() - column.min() < _EQUAL_RANGE)
        for side, most in (("teacher", True), ("student", False)):
            order = column.argsort(descending=most, stable=True)
            chosen[spot, i, side] = [] if flat else first_of_each_class(order, labels, _PER_CLASS)[:_COUNT]
    wanted = sorted({index for indices in chosen.values() for index in indices})
    sources = dict(zip(wanted, map(_data_url, pick_images(split, wanted)), strict=True))
    return [
        Gallery(spot, side, [_sample(inspection, i, index, sources[index]) for index in indices])
        for (spot, i, side), indices in chosen.items()
    ]


def _sample(inspection: Inspection, spot: int, index: int, source: str) -> Sample:
    file = "" if inspection.files is None else f", {inspection.files[index]}"
    return Sample(
        source,
        inspection.classes[inspection.labels[index]],
        f"{inspection.split} image {index}{file}",
        float(inspection.probability[index, spot]),
        bool(inspection.teacher_correct[index]),
        bool(inspection.student_correct[index]),
    )


def _data_url(image: Tensor) -> str:
    pixels = np.squeeze(image.permute(1, 2, 0).cpu().numpy())
    picture, file = Image.fromarray(pixels), BytesIO()
    small = max(picture.size) <= _PNG_EDGE
    if small:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.thumbnail((_LARGEST_EDGE, _LARGEST_EDGE))
        picture.save(file, "JPEG", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
