"""What a data set is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import SpotkdError
from ..registry import Registry


@dataclass(frozen=True)
class ImageSet:
    """One split in memory.

    Attributes:
        images: ``(N, C, H, W)`` uint8; one channel is repeated three times when a batch is made.
        labels: ``(N,)`` int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
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
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    flip: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, H, W)`` of what the networks see."""
        _, _, height, width = self.train.images.shape
        return 3, height, width

    def limited(self, limit: int | None) -> Dataset:
        """The same data set with only the first ``limit`` training images; all for None.

        Raises:
            SpotkdError: ``limit`` is below 1 or above what there is.
        """
        if limit is None:
            return self
        if not 1 <= limit <= len(self.train):
            raise SpotkdError(f"data.limit is {limit}: {self.name} has 1 to {len(self.train)} training images to use")
        return replace(self, train=ImageSet(self.train.images[:limit], self.train.labels[:limit]))


DATASETS: Registry[Callable[[], Dataset]] = Registry("data set")
