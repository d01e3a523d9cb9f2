"""Batches for networks: from a split's raw images to normalised tensors on the training device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..deprecation import Renamed
from ..distributed import Shard
from ..errors import SpotkdError
from ..stages import Batch
from .images import Dataset, EpochSpec, ImageSet, Split
from .mixing import Mixing


def normalise(images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Normalised float images ``(B, 3, H, W)`` from uint8 ``(B, 1 or 3, H, W)``."""
    # One new tensor, written three times: temporaries cost more than the arithmetic.
    scaled = images.to(mean.dtype, copy=True).sub_(255 * mean.view(-1, 1, 1)).div_(255 * std.view(-1, 1, 1))
    return scaled.expand(-1, 3, -1, -1).contiguous(memory_format=memory_format)


def count_batches(images: int, batch_size: int, training: bool = True) -> int:
    """Batches of one pass. In training a last batch of one image is left out: BatchNorm has no statistics of one value.

    Which image that is changes with the order, from epoch to epoch.
    """
    whole, rest = divmod(images, batch_size)
    return whole if training and rest == 1 and whole else whole + (rest > 0)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; to a GPU through pinned memory, from which it is fetched while the host continues.

    A copy from ordinary memory would wait until the GPU has done all that it was given before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pick_images(split: Split, indices: Sequence[int]) -> Iterator[Tensor]:
    """The images ``(C, H, W)`` uint8 of those numbers, which rise; a stream is gone through for them."""
    if not indices:
        return
    if split.labels is not None:
        for images, _, _ in split.subset(torch.tensor(indices, dtype=torch.int64)).batches(EpochSpec(64)):
            yield from images
        return
    number, wanted = 0, set(indices)
    for images, _, _ in split.batches(EpochSpec(64)):
        yield from (image for n, image in enumerate(images, number) if n in wanted)
        number += len(images)


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
        device: where the batches are made, and where images in memory are kept.
        memory_format: of the batches.
        workers: processes that decode images which are not in memory; None for one a core, at most eight.
        rank: which of the processes that compute every batch together this is.
        processes: how many they are. The batch size is that of all together, and so are order and augmentation.
        mixing: how the images of a batch are mixed with each other, and their labels; None for not at all.
        crops: how many augmentations of every image there are: epoch ``e`` has those of epoch ``(e - 1) % crops + 1``,
            in an order of its own. 0 for others in every epoch.
        crop_seed: seed of those; None for ``seed``.

    Raises:
        SpotkdError: no images, or a batch size below 1.
    """

    def __init__(
        self,
        data: Dataset,
        split: Split,
        batch_size: int,
        *,
        training: bool,
        seed: int = 0,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        workers: int | None = None,
        rank: int = 0,
        processes: int = 1,
        mixing: Mixing | None = None,
        crops: int = 0,
        crop_seed: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise SpotkdError(f"batch_size is {batch_size}: it must be at least 1")
        if not len(split):
            raise SpotkdError(f"{data.name}: no {'training' if training else 'test'} images")
        self.split, self.device, self.memory_format = split.to(device), torch.device(device), memory_format
        self.batch_size, self.training, self.seed, self.workers = batch_size, training, seed, workers
        self.padding, self.flip, self.augment = data.padding, data.flip, data.augment
        self.augmentation = data.augmentation
        self.rank, self.processes, self.mixing = rank, processes, mixing
        self.crops, self.crop_seed = crops, seed if crop_seed is None else crop_seed
        self.view = data.teacher_view.to(device) if training and data.teacher_view is not None else None
        self.mean, self.std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)

    def __len__(self) -> int:
        return count_batches(len(self.split), self.batch_size, self.training)

    def shard(self, number: int, place: int) -> Shard:
        """Which samples of batch ``place`` of epoch ``number`` are this process's, if several compute it together."""
        total = min(self.batch_size, len(self.split) - place * self.batch_size)
        if self.processes == 1:
            return Shard(0, total, total)
        noise = np.random.SeedSequence((self.seed, number, place, self.rank)).generate_state(1, np.uint64)
        return Shard.of(total, self.rank, self.processes, self.training, int(noise[0]))

    part = Renamed("shard")

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``number``, without its first ``skip`` ones.

        Where several processes compute a batch together, this one's part of it.

        Raises:
            SpotkdError: the class of the split does not part batches.
        """
        spec = EpochSpec(
            batch_size=self.batch_size,
            training=self.training,
            seed=self.seed,
            epoch=number,
            padding=self.padding,
            flip=self.flip,
            augment=self.augment,
            augmentation=self.augmentation,
            workers=self.workers,
            skip=skip,
            rank=self.rank,
            processes=self.processes,
            crop=(self.crop_seed, (number - 1) % self.crops + 1) if self.crops else None,
        )
        for place, (images, labels, indices) in enumerate(self.split.batches(spec), skip):
            if place == len(self):  # a single image is left, see count_batches
                return
            shard = self.shard(number, place)
            if len(labels) != shard.stop - shard.start:
                raise SpotkdError(
                    f"{type(self.split).__name__}.batches gives {len(labels)} images where {shard.stop - shard.start} "
                    "are this process's shard: it must use EpochSpec.shard, or be used with one device"
                )
            if not len(labels):
                continue
            images, labels = to_device(images, self.device), to_device(labels, self.device)
            where = None if indices is None else to_device(indices, self.device)
            images = self._normalise(images)
            if self.mixing is not None:
                images, labels = self.mixing.mix(images, labels, (self.seed, number, place))
            yield Batch(images, labels, where)

    def _normalise(self, images: Tensor) -> Tensor:
        return normalise(images, self.mean, self.std, self.memory_format)

    def teacher_images(self, images: Tensor, indices: Tensor | None) -> Tensor:
        """What the teacher sees of training samples, see :class:`~.hazards.TeacherView`.

        Args:
            images: ``(B, 3, H, W)`` what the student sees.
            indices: ``(B,)`` which samples they are.
        """
        if self.view is None:
            return images
        if self.view.instead is not None and isinstance(self.split, ImageSet) and indices is not None:
            instead = self.view.instead[indices]
            is_same = (instead == indices).view(-1, 1, 1, 1)
            images = torch.where(is_same, images, self._normalise(self.split.images[instead]))
        return images if self.view.lens is None else images + self.view.lens
