"""A data set of pictures that somebody has: what they share is settled once for all splits, and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import cast

from ..errors import SpotkdError, tell
from ..untrusted.images import WHITE
from .image_files import ImageFiles, find_white
from .images import Dataset, ImageSet, Split, split_per_class
from .lazy import MEAN, STD, LazySet, choose_size
from .optional import import_optional
from .spec import DataSpec


def build_dataset(
    spec: DataSpec, classes: tuple[str, ...], train: LazySet, test: LazySet | None, val: LazySet | None
) -> Dataset:
    """A data set of pictures: its test images are settled, then their size, then whether they are kept in memory.

    Without a test split the validation split is taken for it, as the literature does, and failing that a share of the
    training images. Mean and deviation are ImageNet's until they are measured.

    Raises:
        SpotkdError: ``test_share`` or ``image_size`` do not fit; a picture is damaged; torchvision is missing.
    """
    if test is None:
        test, val = val, None
    given = [split for split in (train, test, val) if split is not None]
    edge, size = choose_size([split.image_files for split in given], spec.image_size)
    white = choose_white(spec.name, [split.image_files for split in given], spec.white)
    if test is None:
        share = 0.2 if spec.test_share is None else spec.test_share
        train, test = cast(tuple[LazySet, LazySet], split_per_class(train, share, f"data.test_share of {spec.name}"))
    elif spec.test_share is not None:
        raise SpotkdError(
            f"data.test_share is {spec.test_share:g}: {spec.name} has {len(test)} test images of its own; "
            "leave test_share out"
        )

    def finish(split: LazySet, title: str) -> Split:
        if size is None:
            return replace(split, edge=edge)
        return split.decode_into_memory(size, f"{spec.name}: decoding {title} images")

    if size is None:
        import_optional("torchvision.transforms.v2", "vision")  # if it is missing, let the user know now
    padding = 0 if size is None else 4 if edge <= 40 else edge // 8
    read = {"training": train, "test": test} | ({} if val is None else {"validation": val})
    read = {title: split.with_white(white) for title, split in read.items()}
    finished = {title: finish(split, title) for title, split in read.items()}
    _tell_one_colour(spec.name, [(read[title], split) for title, split in finished.items()])
    return Dataset(
        spec.name,
        finished["training"],
        finished["test"],
        classes,
        MEAN,
        STD,
        padding,
        flip=True,
        val=finished.get("validation"),
        borrowed=True,
        white=white,
    )


def choose_white(name: str, pictures: Sequence[ImageFiles], wanted: float | None) -> float:
    """What is white in grey pictures of more than 8 bits, the same for all of a set; told where it is not usual.

    Args:
        name: of the set.
        pictures: those of all splits.
        wanted: ``data.white``.

    Raises:
        SpotkdError: a value that cannot be the brightest one; a picture is damaged.
    """
    if wanted is not None:
        if not 0 < wanted < inf:
            raise SpotkdError(f"data.white is {wanted:g}: the brightest value is above 0")
        return float(wanted)
    white = find_white(pictures)
    if white != WHITE:
        what = "the brightest value (--data.white) of its grey pictures with more than 8 bits"
        tell(f"{name}: {what} is taken as {white:g}")
    return white


def _tell_one_colour(name: str, splits: Sequence[tuple[LazySet, Split]]) -> None:
    """One line where pictures that were decoded hold nothing but one colour."""
    total, found = 0, 0
    example = ""
    for files, images in splits:
        if isinstance(images, ImageSet):
            flat = images.images.flatten(2)
            numbers = (flat.amin(2) == flat.amax(2)).all(1).nonzero().flatten().tolist()
            total, found = total + len(images), found + len(numbers)
            if numbers and not example:
                example, _ = files.image_files[int(files.numbers[numbers[0]])]
    if found:
        tell(describe_one_colour(name, found, total, example))


def describe_one_colour(name: str, found: int, total: int, example: str) -> str:
    """``folder:pets: 3 of 120 pictures are of one colour, such as pets/cats/a.png``"""
    are = "picture is" if found == 1 else "pictures are"
    return f"{name}: {found} of {total} {are} of one colour, such as {example}"
