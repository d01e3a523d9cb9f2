"""What is done to training images at random: crops, mirroring, and torchvision's changes of form and colour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .optional import import_optional


@dataclass(frozen=True)
class Augmentation:
    """What torchvision does to each image, drawn from the seed, the epoch and the image's number alone.

    Attributes:
        crop_area: smallest share of an image that is cut out at random and brought to the size; None for the usual
            (0.08 of pictures that are decoded as they are needed, nothing of those in memory).
        randaugment: magnitude of RandAugment's two operations, 0 to 30; 0 for none.
        jitter: share by which brightness, contrast and saturation are changed at most; 0 for none.
    """

    crop_area: float | None = None
    randaugment: int = 0
    jitter: float = 0.0

    def colour_steps(self) -> list[Any]:
        """RandAugment and the jitter, where asked for.

        Raises:
            SpotkdError: torchvision is missing or broken.
        """
        if not (self.randaugment or self.jitter):
            return []
        v2 = import_optional("torchvision.transforms.v2", "vision")
        steps = [v2.RandAugment(magnitude=self.randaugment)] if self.randaugment else []
        return [*steps, v2.ColorJitter(*[self.jitter] * 3)] if self.jitter else steps

    def apply(self, images: Tensor, seed: int, numbers: Tensor) -> Tensor:
        """Images in memory, ``(B, C, H, W)`` uint8, each changed by itself.

        Args:
            images: as they are.
            seed: of the pass.
            numbers: ``(B,)`` which image each is.
        """
        if self == NO_AUGMENTATION:
            return images
        v2 = import_optional("torchvision.transforms.v2", "vision")
        crops = self.crop_area and [v2.RandomResizedCrop(images.shape[-2:], (self.crop_area, 1.0), antialias=True)]
        change, changed = v2.Compose([*(crops or ()), *self.colour_steps()]), []
        for image, number in zip(images, numbers.tolist(), strict=True):
            with seeded(seed, number):
                changed.append(change(image))
        return torch.stack(changed)


NO_AUGMENTATION = Augmentation()


@contextmanager
def seeded(seed: int, number: int) -> Iterator[None]:
    """Inside, torch's random numbers depend on both alone; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        mixed = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(mixed[0]))  # torch.manual_seed would reach for the GPU's, too
        yield


def augment(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad each image with zeros, cut out a window of its own size, and mirror some.

    Args:
        images: ``(B, C, H, W)``, any type.
        offsets: ``(B, 2)`` top and left edge of each window in the padded image, ``0 .. 2 * padding``.
        flips: ``(B,)`` bool.
        padding: pixels on every side.
    """
    count, channels, height, width = images.shape
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    # One gather over flattened pixels is four times as fast as indexing rows and columns (benchmarks/augmentation.py).
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.view(count, 1, -1).expand(-1, channels, -1)).view_as(images)
