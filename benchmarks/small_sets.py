"""A small set to choose defaults on, for ``--data python:small_sets.emoji10``: few images to train on, many to count.

    PYTHONPATH=benchmarks:. spotkd train --model python:mine.big --data python:small_sets.emoji10 --out runs/big

The ten largest classes of emoji.npz, which lies in the folder that one works in: 120 training pictures of each. Its
"test" images are the other 1 287 *training* pictures, so that no test image of emoji chooses anything. What was tried
with the tutorial's networks stands in ``results/small-sets.csv``: accuracies on these images in percent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from spotkd.data import Dataset, ImageSet

CLASSES, TRAINING = 10, 120


def emoji10(path: Path = Path("emoji.npz")) -> Dataset:
    """1 200 and 1 287 pictures of 32x32 in colours."""
    found = np.load(path)
    images, labels = found["train_images"], found["train_labels"]
    parts: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for label, old in enumerate(np.argsort(-np.bincount(labels))[:CLASSES]):
        order = np.random.default_rng(old).permutation(np.flatnonzero(labels == old)).tolist()
        for part, chosen in zip(parts, (order[:TRAINING], order[TRAINING:]), strict=True):
            part.extend((index, label) for index in chosen)
    train, held = (
        ImageSet(torch.from_numpy(images[[index for index, _ in part]]), torch.tensor([label for _, label in part]))
        for part in parts
    )
    pixels = train.images.float() / 255
    mean, std = (tuple(values.tolist()) for values in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))))
    return Dataset("emoji10", train, held, tuple(map(str, range(CLASSES))), mean, std, padding=4, flip=True)
