"""What a data set is here: splits of labelled images, in memory or read as they are needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..deprecation import Renamed
from ..distributed import Shard
from ..errors import SpotkdError
from ..formatting import join_words
from ..notebook import format_shape, html_table
from ..registry import Registry
from ..untrusted.images import WHITE
from .augmentation import NO_AUGMENTATION, Augmentation, augment
from .labels import check_labels
from .spec import READ_BY_ALL, DataSpec

if TYPE_CHECKING:
    from .hazards import TeacherView

HELD_OUT_SEED = 0  # the same images are held out in every run, whatever its own seed
_MOST_CLASSES_SHOWN = 10  # in a notebook


@dataclass(frozen=True)
class EpochSpec:
    """One pass over a split.

    Attributes:
        batch_size: images in a batch; nothing is dropped, the last batch may be smaller.
        training: shuffle and augment.
        seed: of order and augmentation.
        epoch: which pass it is; order and augmentation depend on the seed and on this alone.
        padding: zero pixels around the image before a random crop of its own size.
        flip: whether images are mirrored at random.
        augment: whether anything at all is done to training images at random.
        augmentation: what is done to them beside crops of their own size and mirroring.
        workers: processes that decode images; None for one a core, at most eight. Has no influence on the images.
        skip: batches at the beginning that are left out; the others are what they are without.
        crop: seed and epoch whose random changes the images have, each its own, whatever this pass's order is; None for
            those of this pass.
        rank: which of the processes that compute every batch together this is.
        processes: how many they are; each gets its part of every batch, with the order and augmentation of the whole.
    """

    batch_size: int
    training: bool = False
    seed: int = 0
    epoch: int = 0
    padding: int = 0
    flip: bool = False
    augment: bool = True
    augmentation: Augmentation = NO_AUGMENTATION
    workers: int | None = None
    skip: int = 0
    rank: int = 0
    processes: int = 1
    crop: tuple[int, int] | None = None

    def shard(self, total: int) -> Shard:
        """What this process gets of a batch of ``total`` images."""
        return Shard.of(total, self.rank, self.processes, self.training)

    def take_shard(self, whole: Tensor) -> Tensor:
        """This process's rows of those of a batch."""
        shard = self.shard(len(whole))
        return whole[shard.start : shard.stop]

    part, own = Renamed("shard"), Renamed("take_shard")

    def generator(self) -> torch.Generator:
        """Random numbers of this pass."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)

    @property
    def changes(self) -> EpochSpec:
        """The pass whose random changes the images have."""
        return self if self.crop is None else replace(self, seed=self.crop[0], epoch=self.crop[1], crop=None)


# uint8 images (B, 1 or 3, H, W), labels (B,) int64, and which samples of the split they are, if that is known
RawBatch = tuple[Tensor, Tensor, Tensor | None]


class Split(ABC):
    """Labelled images of one split.

    Attributes:
        labels: ``(N,)`` int64, or None where they are known only as the images stream by.
        size: height and width of what :meth:`batches` yields.
    """

    labels: Tensor | None
    size: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def subset(self, indices: Tensor) -> Split:
        """Only these images, in this order.

        Raises:
            SpotkdError: images that stream by cannot be picked.
        """

    @abstractmethod
    def batches(self, epoch: EpochSpec) -> Iterator[RawBatch]:
        """This process's part of the batches of one pass; it may be empty outside training."""

    def files(self) -> Sequence[str] | None:
        """What the images' files are called, in the split's order; None where they are no files of their own."""
        return None

    def fingerprint(self) -> str | None:
        """A checksum by which a resumed run knows its images again; None where there is nothing to make it of."""
        return None

    def to(self, device: torch.device | str) -> Split:
        """The same split with its images on ``device``, where they are in memory at all."""
        return self


@dataclass(frozen=True)
class ImageSet(Split):
    """One split in memory.

    Attributes:
        images: ``(N, C, H, W)`` uint8; one channel is repeated three times when a batch is made.
        labels: ``(N,)`` int64.
        names: ``(N,)`` what the images' files are called, if they had files.
    """

    images: Tensor
    labels: Tensor
    names: npt.NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        height, width = self.images.shape[-2:]
        return height, width

    def subset(self, indices: Tensor) -> ImageSet:
        names = None if self.names is None else self.names[indices.numpy()]
        return ImageSet(self.images[indices], self.labels[indices], names)

    def to(self, device: torch.device | str) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """Of all pixels."""
        return hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes()).hexdigest()

    def files(self) -> Sequence[str] | None:
        return None if self.names is None else self.names.tolist()

    def batches(self, epoch: EpochSpec) -> Iterator[RawBatch]:
        count, device = len(self), self.images.device
        order = torch.randperm(count, generator=epoch.generator()) if epoch.training else torch.arange(count)
        changing = epoch.training and epoch.augment
        if changing:
            offsets, flips = (drawn.to(device) for drawn in self._draw(epoch.changes))
            seed = epoch.changes.generator().initial_seed()
        for indices in torch.split(order.to(device), epoch.batch_size)[epoch.skip :]:
            own = epoch.take_shard(indices)
            images = self.images[own]
            if changing:
                images = augment(images, offsets[own], flips[own], epoch.padding)
                images = epoch.augmentation.apply(images, seed, own)
            yield images, self.labels[own], own

    def _draw(self, epoch: EpochSpec) -> tuple[Tensor, Tensor]:
        """Each sample's offset ``(N, 2)`` of its crop, and whether it is mirrored ``(N,)``: those of a pass."""
        count, generator = len(self), epoch.generator()
        offsets, flips = torch.empty(count, 2, dtype=torch.int64), torch.empty(count, dtype=torch.bool)
        for indices in torch.split(torch.randperm(count, generator=generator), epoch.batch_size):
            offsets[indices] = torch.randint(2 * epoch.padding + 1, (len(indices), 2), generator=generator)
            flips[indices] = (torch.rand(len(indices), generator=generator) < 0.5) & epoch.flip
        return offsets, flips


@dataclass(frozen=True, repr=False)
class Dataset:
    """A data set with all that training and reading its results need.

    Attributes:
        name: as the user gave it.
        train: training images.
        test: test images.
        classes: class names, by label.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        padding: zero pixels around the image before a random crop of its own size; 0 for none.
        flip: whether training images are mirrored at random.
        augment: whether anything at all is done to training images at random.
        augmentation: what is done to them beside crops of their own size and mirroring.
        val: images to choose the best epoch on; None for none.
        teacher_view: what a teacher sees in place of the training images, see :mod:`.hazards`; None for the same.
        white: brightest value of grey pictures with more than 8 bits.
        borrowed: whether mean and std are ImageNet's, for want of the set's own; :func:`.measure_normalisation` has it.

    Raises:
        SpotkdError: a label that is no class.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    flip: bool = False
    augment: bool = True
    augmentation: Augmentation = NO_AUGMENTATION
    val: Split | None = None
    teacher_view: TeacherView | None = None
    white: float = WHITE
    borrowed: bool = False

    def __post_init__(self) -> None:
        for title, split in (("training", self.train), ("test", self.test), ("validation", self.val)):
            labels = None if split is None else split.labels
            if labels is not None and len(labels):
                count = len(split.images) if isinstance(split, ImageSet) else len(labels)
                check_labels(labels, count, len(self.classes), self.name, title)

    def __repr__(self) -> str:
        """``Dataset('glyph94', 50008 training and 9964 test images of 3 x 32 x 32, 94 classes)``."""
        images = [f"{len(split)} {name}" for name, split in self._splits()]
        shape = format_shape(self.image_shape)
        return f"Dataset({self.name!r}, {join_words(images)} images of {shape}, {len(self.classes)} classes)"

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = [(f"{name} images", len(split)) for name, split in self._splits()]
        classes = f"{len(self.classes)}: {', '.join(self.classes[:_MOST_CLASSES_SHOWN])}"
        return html_table(self.name, [*rows, ("shape", format_shape(self.image_shape)), ("classes", classes)])

    def _splits(self) -> list[tuple[str, Split]]:
        found = (("training", self.train), ("validation", self.val), ("test", self.test))
        return [(name, split) for name, split in found if split is not None]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, H, W)`` of what the networks see."""
        return 3, *self.train.size

    def limited(self, limit: int | None) -> Dataset:
        """The same data set with only ``limit`` training images; all for None.

        They are the first ones of every class in turn, so that every class has its share of them.

        Raises:
            SpotkdError: ``limit`` is below 1 or above what there is.
        """
        if limit is None:
            return self
        if not 1 <= limit <= len(self.train):
            raise SpotkdError(f"data.limit is {limit}: {self.name} has 1 to {len(self.train)} training images to use")
        if self.train.labels is None:
            return replace(self, train=self.train.subset(torch.arange(limit)))
        by_turn = torch.stack([_rank_within_class(self.train.labels), self.train.labels])
        order = (by_turn[0] * len(self.classes) + by_turn[1]).argsort(stable=True)
        return replace(self, train=self.train.subset(order[:limit].sort().values))

    def hold_out(self, share: float) -> Dataset:
        """The same data set with a share of every class's training images set apart as validation images.

        Which ones depends on the images alone, never on the seed of a run.

        Raises:
            SpotkdError: ``share`` is not in [0, 1), leaves nothing, or the data set has validation images.
        """
        if share == 0:
            return self
        if self.val is not None:
            raise SpotkdError(
                f"data.val_share is {share:g}: {self.name} has {len(self.val)} validation images of its own; "
                "leave val_share out"
            )
        train, val = split_per_class(self.train, share, f"data.val_share of {self.name}")
        return replace(self, train=train, val=val)

    holding_out = Renamed("hold_out")


def split_per_class(split: Split, share: float, key: str) -> tuple[Split, Split]:
    """A split in two: what is left, and a share of every class (at least one image of those with two or more).

    Raises:
        SpotkdError: ``share`` is not in (0, 1), or no class has two images; ``key`` names what to change.
    """
    if not 0 < share < 1:
        raise SpotkdError(f"{key} is {share:g}: it must lie between 0 and 1")
    labels = split.labels
    if labels is None:
        raise SpotkdError(f"{key} is {share:g}: nothing can be held out of images that stream by")
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    rank = torch.empty_like(labels)
    rank[shuffled] = _rank_within_class(labels[shuffled])
    counts = labels.bincount()
    taken = (counts * share).round().long().clamp(min=1)
    taken = torch.minimum(taken, counts - 1).clamp(min=0)
    apart = rank < taken[labels]
    if not apart.any():
        raise SpotkdError(f"{key} is {share:g}: no class has two images to divide")
    return split.subset((~apart).nonzero().flatten()), split.subset(apart.nonzero().flatten())


def _rank_within_class(labels: Tensor) -> Tensor:
    """How many samples of the same class stand before each."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - first[labels[order]]
    return rank


def reject_unused(spec: DataSpec, *read: str) -> None:
    """Options that the data set does not read must not have been set.

    Raises:
        SpotkdError: one of them was.
    """
    for field in fields(spec):
        heeded = field.name in read or field.metadata.get(READ_BY_ALL, False)
        if not heeded and getattr(spec, field.name) != field.default:
            raise SpotkdError(f"data.{field.name} has no effect on {spec.name}: leave it out")


DATASETS: Registry[Callable[[DataSpec], Dataset]] = Registry("data set")
SOURCES: Registry[Callable[[str, DataSpec], Dataset]] = Registry("source of data sets")  # folder:PATH, hf:NAME
