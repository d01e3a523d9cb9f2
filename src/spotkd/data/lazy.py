"""Images that are decoded as they are needed, and the choice between that and memory.

The pictures of a :class:`LazySet` are cropped and mirrored by torchvision in worker processes, as the literature does
it for ImageNet. Pictures that are small are decoded once and for all into an :class:`ImageSet`, which is far faster.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from ..cores import available_cores
from ..errors import SpotkdError, one_line
from ..untrusted.images import WHITE, decode_and_use, ignore_warnings
from .augmentation import NO_AUGMENTATION, Augmentation, seeded
from .image_files import FolderImages, ImageFiles, decode_images, find_common_size, image_to_tensor
from .images import EpochSpec, ImageSet, RawBatch, Split
from .optional import import_optional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet; customary for photographs of any kind
DEFAULT_EDGE = 224  # edge of images that are not small
MAX_SMALL_EDGE = 96  # longest edge of pictures that are kept as they are
MAX_RESIZED = 1 << 24  # pixels that a picture may have once its shorter edge is that of the images
MAX_MEMORY = 2 << 30  # bytes that a data set may take when it is decoded
_RESIZE_RATIO = 256 / 224  # shorter edge before the centre crop, for the edge after it
_SMALLEST_AREA = 0.08  # of a picture, that a random crop takes; torchvision's own
_MAX_WORKERS = 8  # at most, unless the user wants more
_EDGE_BOUNDS = (8, 1024)  # edges that data.image_size may ask for


def make_transform(
    edge: int, training: bool, flip: bool, augmentation: Augmentation = NO_AUGMENTATION
) -> Callable[[Tensor], Tensor]:
    """What torchvision makes of a picture ``(3, H, W)`` uint8: ``(3, edge, edge)`` uint8, by random in training.

    Raises:
        SpotkdError: torchvision is missing or broken.
    """
    v2 = import_optional("torchvision.transforms.v2", "vision")
    if training:
        mirror = [v2.RandomHorizontalFlip()] if flip else []
        scale = (augmentation.crop_area or _SMALLEST_AREA, 1.0)
        steps = [v2.RandomResizedCrop(edge, scale, antialias=True), *mirror, *augmentation.colour_steps()]
    else:
        shorter = round(edge * _RESIZE_RATIO)
        steps = [partial(cut_ends, edge=shorter), v2.Resize(shorter, antialias=True), v2.CenterCrop(edge)]
    return cast(Callable[[Tensor], Tensor], v2.Compose(steps))


def cut_ends(picture: Tensor, edge: int) -> Tensor:
    """A very long picture without its ends, which would take gigabytes once its shorter edge is ``edge``.

    Of a picture whose longer edge is up to 256 times the shorter one nothing is cut at the usual edge of 256.
    """
    height, width = picture.shape[-2:]
    longest = min(height, width) * max(MAX_RESIZED // edge**2, 1)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return picture[..., top : top + longest, left : left + longest]


def decode_and_transform(
    picture: tuple[str, bytes], transform: Callable[[Tensor], Tensor], seed: int, index: int, white: float = WHITE
) -> Tensor:
    """A picture decoded and transformed; the transform's random numbers depend on ``seed`` and ``index`` alone.

    Raises:
        SpotkdError: the picture is damaged.
    """
    with ignore_warnings(), seeded(seed, index):
        return decode_and_use(*picture, lambda image: transform(image_to_tensor(image)), white)


@dataclass(frozen=True)
class LazySet(Split):
    """One split whose images are decoded as they are needed.

    In training a random part of each picture (torchvision's RandomResizedCrop) is brought to the size, and mirrored
    where the data set allows; in evaluation the picture is brought to 256/224 of it and the centre is cut out.

    Attributes:
        image_files: where the images are.
        numbers: ``(N,)`` int64, which of the pictures make up the split.
        labels: ``(N,)`` int64.
        edge: height and width of what :meth:`batches` yields.
    """

    image_files: ImageFiles
    numbers: Tensor
    labels: Tensor
    edge: int = DEFAULT_EDGE

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return self.edge, self.edge

    def subset(self, indices: Tensor) -> LazySet:
        return replace(self, numbers=self.numbers[indices], labels=self.labels[indices])

    def with_white(self, white: float) -> LazySet:
        """The same images, read with another brightest value of those with more than 8 bits of grey."""
        return self if white == WHITE else replace(self, image_files=replace(cast(Any, self.image_files), white=white))

    def decode_into_memory(self, size: tuple[int, int], title: str) -> ImageSet:
        """The same images decoded, of this height and width; ``title`` stands before the bar.

        Raises:
            SpotkdError: one of them is damaged.
        """
        files = self.files()
        names = None if files is None else np.array(files, dtype=object)
        return ImageSet(decode_images(self.image_files, self.numbers.tolist(), size, title), self.labels, names)

    def fingerprint(self) -> str | None:
        """Of the files' names and sizes; their content is not read, and their times change when they are copied."""
        if not isinstance(self.image_files, FolderImages):
            return None
        digest = hashlib.sha256()
        for name in self.files() or ():
            size = Path(self.image_files.root, name).stat().st_size
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def files(self) -> Sequence[str] | None:
        if not isinstance(self.image_files, FolderImages):
            return None
        return [os.fsdecode(self.image_files.names[number]) for number in self.numbers.tolist()]

    def batches(self, epoch: EpochSpec) -> Iterator[RawBatch]:
        """The batches of one pass.

        Raises:
            SpotkdError: an image is damaged, torchvision is missing, or a process that decodes was killed.
        """
        count, generator = len(self), epoch.generator()
        order = torch.randperm(count, generator=generator) if epoch.training else torch.arange(count)
        parts = [epoch.take_shard(part) for part in torch.split(order, epoch.batch_size)[epoch.skip :]]
        transform = make_transform(self.edge, epoch.training and epoch.augment, epoch.flip, epoch.augmentation)
        source = _DecodingDataset(self.image_files, self.numbers, transform, epoch.changes.generator().initial_seed())
        with ignore_warnings():  # of more processes than cores, and of processes that fork while threads run
            loader = DataLoader(
                source,
                batch_sampler=(part.tolist() for part in parts),
                num_workers=min(count_workers(epoch.workers), len(parts)),
                collate_fn=_collate,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_ignore_signals,
                generator=generator,  # or it would draw from the one that training draws from
            )
            batches = iter(loader)
        try:
            for indices in parts:
                images = _next_batch(batches)
                if isinstance(images, SpotkdError):
                    raise images
                yield images, self.labels[indices], indices
        finally:
            del batches  # ends the worker processes, wherever the pass was left


def count_workers(wanted: int | None) -> int:
    """How many processes decode images; 0 for none but this one.

    Raises:
        SpotkdError: a negative number.
    """
    if wanted is not None and wanted < 0:
        raise SpotkdError(f"data.workers is {wanted}: it must be 0 (decode between the steps) or more")
    return min(_MAX_WORKERS, available_cores()) if wanted is None else wanted


def _ignore_signals(_: int) -> None:
    """A signal to the whole group (Ctrl-C) is left to the main process: it saves, and ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class _DecodingDataset(TorchDataset["Tensor | SpotkdError"]):
    """What worker processes get. An error is handed over as an item: raised, it would come with its traceback."""

    image_files: ImageFiles
    numbers: Tensor
    transform: Callable[[Tensor], Tensor]
    seed: int

    def __getitem__(self, index: int) -> Tensor | SpotkdError:
        try:
            picture, white = self.image_files[int(self.numbers[index])], getattr(self.image_files, "white", WHITE)
            return decode_and_transform(picture, self.transform, self.seed, index, white)
        except SpotkdError as error:
            return error


def _collate(items: Sequence[Tensor | SpotkdError]) -> Tensor | SpotkdError:
    for item in items:
        if isinstance(item, SpotkdError):
            return item
    return cast(Tensor, default_collate(list(items)))


def _next_batch(batches: Iterator[Tensor | SpotkdError]) -> Tensor | SpotkdError:
    """The next batch or error; not raised here, where its traceback would keep the worker processes alive."""
    try:
        return next(batches)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        return SpotkdError(
            f"a process that decodes images was stopped from outside ({one_line(error)[:300]}); if memory has run "
            "out, a smaller data.workers needs less"
        )


def check_image_size(edge: int) -> int:
    """``data.image_size``, if images can be of that size.

    Raises:
        SpotkdError: they cannot.
    """
    if not _EDGE_BOUNDS[0] <= edge <= _EDGE_BOUNDS[1]:
        raise SpotkdError(f"data.image_size is {edge}: it must lie between {_EDGE_BOUNDS[0]} and {_EDGE_BOUNDS[1]}")
    return edge


def choose_size(pictures: Sequence[ImageFiles], wanted: int | None) -> tuple[int, tuple[int, int] | None]:
    """What size to bring pictures to: that of small ones that are all alike is kept, unless the user wants another.

    Args:
        pictures: those of all splits.
        wanted: ``data.image_size``.

    Returns:
        The shorter edge of the images; and their height and width if they are small enough to be kept in memory.

    Raises:
        SpotkdError: images cannot be of that size; one is damaged.
    """
    size = find_common_size(pictures) if wanted is None else (check_image_size(wanted),) * 2
    if size is None or (wanted is None and max(size) > MAX_SMALL_EDGE):
        size = (DEFAULT_EDGE, DEFAULT_EDGE)
    small = max(size) <= MAX_SMALL_EDGE and 3 * size[0] * size[1] * sum(map(len, pictures)) <= MAX_MEMORY
    return min(size), size if small else None
