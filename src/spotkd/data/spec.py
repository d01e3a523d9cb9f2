"""What a data set is asked for with: plain values, of which the command line's ``--data.*`` options are one source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

READ_BY_ALL = "read by all"  # metadata of a field that every data set reads


def _for_all(default: Any) -> Any:
    return field(default=default, metadata={READ_BY_ALL: True})


@dataclass(frozen=True)
class DataSpec:
    """Which data set, and how it is to be read.

    Attributes:
        name: glyph94, cifar10, cifar100, tiny-imagenet, imagenet, folder:PATH, hf:NAME, or python:MODULE.FUNCTION.
        root: folder that holds the files of data sets known by name, or gets them.
        download: fetch the files if they are not there.
        mirror: address to fetch them from instead of their own, up to the last slash.
        limit: use only so many training images, the first ones of every class in turn; all for None.
        val_share: share of the training images held out, in [0, 1), the same ones in every run, to choose the best
            epoch on.
        test_share: share held out as test images from a folder: that has no val/ or test/, in (0, 1); None takes a
            fifth.
        image_size: edge in pixels, 8 to 1024, to bring the images of folder:, hf: and imagenet to; None keeps the size
            of small images (up to 96) that are all alike, and takes 224 otherwise.
        white: brightest value of grey pictures with more than 8 bits, of folder: and hf: sets; None takes it from the
            range of all.
        streaming: read an hf: set while training, never whole; for sets larger than the disk.
        augment: crop and, where that makes sense, mirror training images at random.
        flip: with augment, mirror them where that makes sense; false for pictures in which left and right differ.
        crop_area: smallest share of an image that is cut out at random and brought to the size; None for the usual.
        randaugment: magnitude of torchvision's RandAugment, 0 to 30; 0 for none.
        jitter: share by which brightness, contrast and saturation are changed at random; 0 for none.
        mean: of pixels in [0, 1], one number or three, to normalise with; None takes the data set's own, which is
            ImageNet's for folder: and hf: sets until :func:`.measure_normalisation` has measured it.
        std: their deviation, likewise.
        workers: processes that decode images which are not kept in memory; None takes one a core, at most eight.
        conceal_test: put the validation images in place of the test images, which nothing looks at then.
    """

    name: str = _for_all("glyph94")
    root: str = _for_all("data")
    download: bool = False
    mirror: str | None = None
    limit: int | None = _for_all(None)
    val_share: float = _for_all(0.0)
    test_share: float | None = None
    image_size: int | None = None
    white: float | None = None
    streaming: bool = False
    augment: bool = _for_all(True)
    flip: bool = _for_all(True)
    crop_area: float | None = _for_all(None)
    randaugment: int = _for_all(0)
    jitter: float = _for_all(0.0)
    mean: list[float] | None = _for_all(None)
    std: list[float] | None = _for_all(None)
    workers: int | None = _for_all(None)
    conceal_test: bool = _for_all(False)
