"""glyph94: the 94 printable ASCII characters in 638 free typefaces, 32x32 grey; it comes with the package.

Rows are grouped by face, 94 a face, and no font family stands on both sides of the split. See
``docs/data/glyph94.md`` for how it was made and what to expect of it.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch

from .images import DATASETS, Dataset, ImageSet, reject_unused
from .spec import DataSpec

IMAGES_PER_FACE = 94  # images a face, one for each class
TRAIN_FACES = 532  # faces to train on


def load_glyph94() -> Dataset:
    """50 008 training and 9 964 test images of 94 classes.

    Augmented by random crops with padding 4 and never flipped: a mirrored b is a d.
    """
    with as_file(files("spotkd.data") / "glyph94.npz") as path, np.load(path, allow_pickle=False) as archive:
        train, test = (
            ImageSet(
                torch.from_numpy(archive[f"{split}_images"]).unsqueeze(1),
                torch.from_numpy(archive[f"{split}_labels"].astype(np.int64)),
            )
            for split in ("train", "test")
        )
        classes = tuple(map(str, archive["classes"]))
    return Dataset("glyph94", train, test, classes, mean=(0.2,), std=(0.35,), padding=4)


@DATASETS.register("glyph94")
def _load_glyph94(spec: DataSpec) -> Dataset:
    """94 printable characters in 638 typefaces, 32x32 grey, 50 008 / 9 964 images; comes with the package"""
    reject_unused(spec)
    return load_glyph94()
