"""Image files, wherever they lie, and the pixels in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, features
from torch import Tensor

from ..cores import available_cores
from ..untrusted.images import WHITE, decode_and_use, ignore_warnings, measure_white, read_image_file, read_image_size
from ..waiting import shown

EXTENSIONS = frozenset(
    ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "webp", "tif", "tiff", "gif", "ppm", "pgm", "pbm"]
    + ["avif"] * bool(features.check("avif"))
    + ["jp2", "j2k"] * bool(features.check("jpg_2000"))
)
_BLOCK = 64  # pictures that a thread decodes before it takes more
_THREADS = 8  # at most: more are in each other's way
_SAMPLE = 512  # pictures whose size is looked at before one is chosen for all

Pixels = npt.NDArray[np.uint8]


class ImageFiles(Protocol):
    """Image files by number. Worker processes get copies of it, so it must be possible to pickle."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[str, bytes]:
        """What to call the picture in an error message, and the content of its file.

        Raises:
            SpotkdError: it cannot be read.
        """


@dataclass(frozen=True)
class FolderImages:
    """Image files below a folder.

    Attributes:
        root: the folder.
        names: paths in it, as bytes in one array: worker processes share that, and would copy a million strings.
        white: brightest value of pictures with more than 8 bits of grey.
    """

    root: str
    names: npt.NDArray[np.bytes_]
    white: float = WHITE

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[str, bytes]:
        path = Path(self.root, os.fsdecode(self.names[number]))
        return str(path), read_image_file(path)


def is_image_file(name: str) -> bool:
    """Whether a file is one, by its name; hidden files are none."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in EXTENSIONS


def image_to_tensor(image: Image.Image) -> Tensor:
    """``(3, H, W)`` uint8 of a picture in RGB."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resize_to_cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture made as large as it must be to cover ``size``, height and width, and its centre cut out."""
    height, width = size
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def find_white(pictures: Sequence[ImageFiles]) -> float:
    """The brightest value of grey pictures with more than 8 bits, by the range of an evenly spread sample of all.

    Returns:
        1, or 2 ** n - 1 for 8, 10, 12, 14 or 16 bits; more only where real numbers reach further.

    Raises:
        SpotkdError: one of those looked at is no picture.
    """
    found = [(False, 0.0)]
    with ignore_warnings():
        for part in pictures:
            numbers = np.linspace(0, len(part) - 1, min(len(part), _SAMPLE)).round().astype(np.int64)
            found += [measure_white(*part[int(number)]) for number in numbers]
    most = max(value for _, value in found)
    if not most:
        return WHITE
    levels = [1.0] * any(real for real, _ in found) + [2.0**bits - 1 for bits in (8, 10, 12, 14, 16)]
    return next((level for level in levels if most <= level), most)


def find_common_size(pictures: Sequence[ImageFiles]) -> tuple[int, int] | None:
    """Height and width that all pictures have, or an evenly spread sample of a great many; None if they differ.

    Raises:
        SpotkdError: one of those looked at is no picture.
    """
    total = sum(map(len, pictures))
    places = np.linspace(0, total - 1, min(total, _SAMPLE)).round().astype(np.int64)
    sizes: set[tuple[int, int]] = set()
    with ignore_warnings():
        for part in pictures:
            sizes |= {read_image_size(*part[int(number)]) for number in places[(places >= 0) & (places < len(part))]}
            places = places - len(part)
    return sizes.pop() if len(sizes) == 1 else None


def decode_images(pictures: ImageFiles, numbers: Sequence[int], size: tuple[int, int], title: str) -> Tensor:
    """Decode into memory, see :func:`visit_images`.

    Returns:
        ``(N, 3, H, W)`` uint8.
    """
    images = np.empty((len(numbers), 3, *size), dtype=np.uint8)

    def fill(place: int, image: Pixels) -> None:
        images[place] = image.transpose(2, 0, 1)

    visit_images(pictures, numbers, size, title, fill)
    return torch.from_numpy(images)


def visit_images(
    pictures: ImageFiles, numbers: Sequence[int], size: tuple[int, int], title: str, use: Callable[[int, Pixels], None]
) -> None:
    """Decode pictures one after the other, in several threads, and show how far it is.

    A picture of another size is brought to it by :func:`resize_to_cover`.

    Args:
        pictures: where they are.
        numbers: which to decode.
        size: height and width to bring them to.
        title: what stands before the bar.
        use: called with each picture's place in ``numbers`` and its pixels ``(H, W, 3)``.

    Raises:
        SpotkdError: one of them cannot be read or is damaged; the first one, if there are several.
    """
    white = getattr(pictures, "white", WHITE)

    def visit(start: int) -> int:
        for place, number in enumerate(numbers[start : start + _BLOCK], start):
            use(place, np.asarray(decode_and_use(*pictures[number], partial(resize_to_cover, size=size), white)))
        return len(numbers[start : start + _BLOCK])

    with ignore_warnings(), ThreadPoolExecutor(min(_THREADS, available_cores())) as threads:
        for _ in shown(threads.map(visit, range(0, len(numbers), _BLOCK)), title, len(numbers), weigh=int):
            pass
