"""How a picture becomes what a network sees: as in the evaluation that measured the network, and kept beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..deprecation import Renamed
from ..errors import SpotkdError
from ..untrusted.images import WHITE
from .image_files import image_to_tensor, resize_to_cover
from .images import Dataset, ImageSet
from .lazy import make_transform
from .loader import normalise

EDGE_BOUNDS = (1, 4096)  # of images that a file may ask for


@dataclass(frozen=True)
class Preprocessing:
    """From a picture of any size to a network's input.

    Attributes:
        size: height and width of the network's images.
        mean: of pixels in [0, 1], one for all channels or one for each of three.
        std: likewise.
        colour: rgb, or grey for three channels that are alike.
        resize: cover (which grey images always are) makes a picture as large as it must be to cover ``size`` and cuts
            out the centre; margin first brings its shorter edge to 256/224 of the size, as is usual for photographs.
        white: brightest value of grey pictures with more than 8 bits.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour: Literal["rgb", "grey"] = "rgb"
    resize: Literal["cover", "margin"] = "cover"
    white: float = WHITE

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, H, W)`` of what the network sees."""
        return 3, *self.size

    def to_pixels(self, picture: Image.Image) -> Tensor:
        """``(1 or 3, H, W)`` uint8 of a picture in RGB.

        Raises:
            SpotkdError: torchvision, which makes the margin, is missing or broken.
        """
        if self.resize == "margin":
            return make_transform(self.size[0], training=False, flip=False)(image_to_tensor(picture))
        image = resize_to_cover(picture, self.size)
        return image_to_tensor(image) if self.colour == "rgb" else torch.from_numpy(np.array(image.convert("L")))[None]

    def normalise(self, images: Tensor) -> Tensor:
        """Float ``(B, 3, H, W)`` of uint8 ``(B, 1 or 3, H, W)``."""
        return normalise(images, torch.tensor(self.mean), torch.tensor(self.std), torch.contiguous_format)

    pixels, normalised = Renamed("to_pixels"), Renamed("normalise")


def make_preprocessing(data: Dataset) -> Preprocessing:
    """That of a data set's test images."""
    test = data.test
    in_memory = isinstance(test, ImageSet)
    return Preprocessing(
        test.size,
        data.mean,
        data.std,
        "grey" if in_memory and test.images.shape[1] == 1 else "rgb",  # type: ignore[attr-defined]
        "cover" if in_memory or test.size[0] != test.size[1] else "margin",
        data.white,
    )


def read_preprocessing(content: object, where: str) -> Preprocessing:
    """What ``dataclasses.asdict`` made of a :class:`Preprocessing`, from a file that may be a stranger's.

    Raises:
        SpotkdError: something in it is missing or not what it must be; ``where`` names the file.
    """
    noted: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    size, mean, std = (noted.get(key) for key in ("size", "mean", "std"))
    colour, resize, white = noted.get("colour"), noted.get("resize"), noted.get("white", WHITE)  # older files lack it
    checks = {
        "size": _is_number_list(size, (2,), int)
        and all(EDGE_BOUNDS[0] <= edge <= EDGE_BOUNDS[1] for edge in size or ()),
        "mean": _is_number_list(mean, (1, 3), float),
        "std": _is_number_list(std, (1, 3), float) and all(value > 0 for value in std or ()),
        "colour": colour == "rgb" or (colour == "grey" and len(mean or ()) == len(std or ()) == 1),
        "resize": resize == "cover" or (resize == "margin" and colour == "rgb" and len(set(size or ())) == 1),
        "white": _is_number_list([white], (1,), float) and white > 0,
    }
    for key, right in checks.items():
        if not right:
            raise SpotkdError(f"{where}: its preprocessing has no usable {key}; export the student again")
    assert size is not None  # for type checkers
    assert mean is not None
    assert std is not None
    return Preprocessing(tuple(size), tuple(mean), tuple(std), colour, resize, white)  # type: ignore[arg-type]


def _is_number_list(value: object, lengths: tuple[int, ...], kind: type) -> bool:
    """Whether it is a list of so many finite numbers."""
    kinds = (int,) if kind is int else (int, float)
    return (
        isinstance(value, list | tuple)
        and len(value) in lengths
        and all(type(number) in kinds and isfinite(number) for number in value)
    )
