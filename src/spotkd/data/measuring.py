"""The mean and deviation of a data set's own pixels, for sets that come without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..errors import tell
from .image_files import Pixels, visit_images
from .images import Dataset, ImageSet
from .lazy import MEAN, STD, LazySet
from .pictures import describe_one_colour

MOST_MEASURED = 2000  # training images, evenly spread over all
_DIGITS = 4  # so that the same folder has the same numbers, whatever decodes its pictures
_LEAST_STD = 0.01  # pictures that are all of one colour have none to divide by


def measure_normalisation(data: Dataset, quiet: bool = False) -> Dataset:
    """A set that borrows ImageNet's mean and deviation with those of its own training images; any other as it is.

    At most 2000 images are looked at, evenly spread over all. A set that streams by keeps ImageNet's, and where one of
    both numbers was given, that one stays.

    Args:
        data: the data set.
        quiet: whether nothing is told.

    Raises:
        SpotkdError: one of the images is damaged.
    """
    train = data.train
    if not data.borrowed or not len(train):
        return data
    if not isinstance(train, ImageSet | LazySet):
        if not quiet:
            tell(f"{data.name}: streams by, and is normalised as for ImageNet (--data.mean, --data.std)")
        return data
    total = len(train)
    picked = torch.from_numpy(np.linspace(0, total - 1, min(total, MOST_MEASURED)).round().astype(np.int64))
    sums = np.zeros((len(picked), 2, 3), dtype=np.int64)  # whole numbers, so that their order does not matter
    flat = np.zeros(len(picked), dtype=np.bool_)

    def add(place: int, image: Pixels) -> None:
        pixels = image.reshape(-1, 3).astype(np.int64)
        sums[place] = pixels.sum(0), (pixels**2).sum(0)
        flat[place] = not (pixels - pixels[0]).any()

    if isinstance(train, LazySet):
        title = f"{data.name}: measuring training images"
        visit_images(train.image_files, train.numbers[picked].tolist(), train.size, title, add)
    else:
        for place, number in enumerate(picked.tolist()):
            add(place, train.images[number].permute(1, 2, 0).cpu().numpy())
    if flat.any() and isinstance(train, LazySet) and not quiet:  # those in memory were counted when they were decoded
        example, _ = train.image_files[int(train.numbers[picked[flat.argmax()]])]
        tell(describe_one_colour(data.name, int(flat.sum()), len(picked), example))
    first, second = sums.sum(0) / (len(picked) * train.size[0] * train.size[1])
    mean: tuple[float, ...] = tuple(round(float(value) / 255, _DIGITS) for value in first)
    variance = np.maximum(second - first**2, 0)
    std: tuple[float, ...] = tuple(max(round(float(value) ** 0.5 / 255, _DIGITS), _LEAST_STD) for value in variance)
    mean, std = mean if data.mean == MEAN else data.mean, std if data.std == STD else data.std
    if not quiet:
        looked = f"{total}" if len(picked) == total else f"{len(picked)} of {total}"
        shown = (" ".join(f"{number:.3g}" for number in numbers) for numbers in (mean, std))
        tell(
            f"{data.name}: images are normalised by mean {', deviation '.join(shown)}, those of {looked} training "
            "images (--data.mean, --data.std)"
        )
    return replace(data, mean=mean, std=std, borrowed=False)
