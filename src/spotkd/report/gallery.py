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
    """An image as a data URL, and what is known of it.

    Attributes:
        index: its place in the split.
        source: the image as a data URL.
        name: of its class.
        title: the split, its place there, and its file if it has one.
        probabilities: P(teacher) at each spot.
        teacher, student: names of the classes that the networks take it for.
    """

    index: int
    source: str
    name: str
    title: str
    probabilities: tuple[float, ...]
    teacher: str
    student: str

    @property
    def teacher_correct(self) -> bool:
        return self.teacher == self.name

    @property
    def student_correct(self) -> bool:
        return self.student == self.name


@dataclass(frozen=True)
class Gallery:
    """The samples most surely sent to one side at one spot, each with its P(teacher) there."""

    spot: str
    side: str
    samples: list[tuple[float, Sample]]


def galleries(inspection: Inspection, split: Split) -> tuple[list[Gallery], list[Sample]]:
    """Two galleries for each spot that does not treat all samples alike, and the samples in them, in order."""
    labels, chosen = torch.from_numpy(inspection.labels), {}
    for i, spot in enumerate(inspection.spots):
        if spot in flat_spots(inspection):
            continue
        column = torch.from_numpy(inspection.probability[:, i])
        for side, most in (("teacher", True), ("student", False)):
            order = column.argsort(descending=most, stable=True)
            chosen[spot, i, side] = first_of_each_class(order, labels, _PER_CLASS)[:_COUNT]
    wanted = sorted({index for indices in chosen.values() for index in indices})
    images = pick_images(split, wanted) if wanted else ()
    samples = {i: _sample(inspection, i, _data_url(image)) for i, image in zip(wanted, images, strict=True)}
    found = [
        Gallery(spot, side, [(samples[index].probabilities[i], samples[index]) for index in indices])
        for (spot, i, side), indices in chosen.items()
    ]
    return found, list(samples.values())


def flat_spots(inspection: Inspection) -> list[str]:
    """The spots at which all samples are treated alike."""
    ranges = inspection.probability.max(0) - inspection.probability.min(0)
    return [spot for spot, found in zip(inspection.spots, ranges, strict=True) if found < _EQUAL_RANGE]


def _sample(inspection: Inspection, index: int, source: str) -> Sample:
    file = "" if inspection.files is None else f", {inspection.files[index]}"
    return Sample(
        index,
        source,
        inspection.classes[inspection.labels[index]],
        f"{inspection.split} image {index}{file}",
        tuple(inspection.probability[index].tolist()),
        inspection.classes[inspection.teacher_top1[index]],
        inspection.classes[inspection.student_top1[index]],
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
