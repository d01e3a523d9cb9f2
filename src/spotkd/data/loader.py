"""Batches from images in memory: order, crops and flips for a whole batch at once, on the training device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SpotkdError
from ..stages import Batch
from .images import Dataset, ImageSet


def augment(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad each image with zeros, cut out a window of its own size, and mirror some.

    Args:
        images: ``(B, C, H, W)``, any type.
        offsets: ``(B, 2)`` top and left edge of each window in the padded image, ``0 .. 2 * padding``.
        flips: ``(B,)`` bool.
        padding: pixels on every side.
    """
    count, _, height, width = images.shape
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    padded = F.pad(images, (padding,) * 4)
    samples = torch.arange(count, device=images.device)[:, None, None]
    # The indexed axes come first and the channels last, which is the memory layout that convolutions prefer.
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def prepare(images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Normalised float images ``(B, 3, H, W)`` from uint8 ``(B, 1 or 3, H, W)``."""
    scaled = (images.float() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    return scaled.expand(-1, 3, -1, -1).contiguous(memory_format=memory_format)


class Loader:
    """Batches of one split; nothing is dropped, the last batch of an epoch may be smaller.

    Order and augmentation of an epoch depend on the seed and the epoch alone, so an epoch can be repeated, and
    neither the model nor the number of evaluations in between moves them.

    Args:
        data: the data set, for its normalisation and augmentation.
        split: the images to go through.
        batch_size: images in a batch.
        training: shuffle and augment.
        seed: of order and augmentation.
        device: where the images are kept and the batches are made.
        memory_format: of the batches.

    Raises:
        SpotkdError: no images, or a batch size below 1.
    """

    def __init__(
        self,
        data: Dataset,
        split: ImageSet,
        batch_size: int,
        *,
        training: bool,
        seed: int = 0,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if batch_size < 1:
            raise SpotkdError(f"batch_size is {batch_size}: it must be at least 1")
        if not len(split):
            raise SpotkdError(f"{data.name}: no {'training' if training else 'test'} images")
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch_size, self.training, self.seed, self.memory_format = batch_size, training, seed, memory_format
        self.padding, self.flip = data.padding, data.flip
        self.mean, self.std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch ``number``."""
        count, device = len(self.labels), self.images.device
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(count, generator=generator) if self.training else torch.arange(count)
        for indices in torch.split(order.to(device), self.batch_size):
            images = self.images[indices]
            if self.training:
                offsets = torch.randint(2 * self.padding + 1, (len(indices), 2), generator=generator)
                flips = (torch.rand(len(indices), generator=generator) < 0.5) & self.flip
                images = augment(images, offsets.to(device), flips.to(device), self.padding)
            yield Batch(prepare(images, self.mean, self.std, self.memory_format), self.labels[indices], indices)
