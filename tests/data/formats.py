"""Small data sets in the formats of the genuine ones, written to disk: random images of known labels."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Dump = Callable[[object], bytes]


class Written(NamedTuple):
    """What a data set on disk holds: images ``(N, C, H, W)`` uint8, labels and class names."""

    train_images: Array
    train_labels: list[int]
    test_images: Array
    test_labels: list[int]
    classes: tuple[str, ...]


# CIFAR


def python2_pickle(value: object) -> bytes:
    """As cPickle of Python 2 wrote the genuine files: protocol 2, byte strings, NumPy's names of that time."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, int):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(entry) for key, entry in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(" + _python2(value.dtype.str[1:]) + b"K\x00K\x01tR"
    dtype += b"(K\x03" + _python2(value.dtype.str[:1]) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"


def python3_pickle(protocol: int) -> Dump:
    """As Python 3 and the NumPy at hand write it."""
    return lambda value: pickle.dumps(value, protocol)


def write_cifar10(root: Path, dump: Dump = python2_pickle, rows: int = 7) -> Written:
    """``root/cifar-10-batches-py`` with ``rows`` images in each of its six batches."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(10)
    images, labels = _random_rows(generator, 6 * rows, 10)
    for number, file in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        part = slice(number * rows, (number + 1) * rows)
        content = {
            b"batch_label": b"training batch 1 of 5",
            b"labels": labels[part],
            b"data": images[part],
            b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * rows,
        }
        (folder / file).write_bytes(dump(content))
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    meta = {b"num_cases_per_batch": 10000, b"label_names": [name.encode() for name in classes], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    return _written(images, labels, 5 * rows, classes)


def write_cifar100(root: Path, dump: Dump = python2_pickle, train: int = 40, test: int = 12) -> Written:
    """``root/cifar-100-python`` with so many images."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(100)
    images, labels = _random_rows(generator, train + test, 100)
    for file, part in (("train", slice(train)), ("test", slice(train, None))):
        content = {
            b"filenames": [b"bos_taurus_s_000507.png"] * len(labels[part]),
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": labels[part],
            b"coarse_labels": [label // 5 for label in labels[part]],
            b"data": images[part],
        }
        (folder / file).write_bytes(dump(content))
    classes = tuple(f"class_{number}" for number in range(100))
    meta = {
        b"fine_label_names": [name.encode() for name in classes],
        b"coarse_label_names": [b"coarse_%d" % number for number in range(20)],
    }
    (folder / "meta").write_bytes(dump(meta))
    return _written(images, labels, train, classes)


def _random_rows(generator: np.random.Generator, count: int, classes: int) -> tuple[Array, list[int]]:
    images = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    return images, generator.integers(0, classes, count).tolist()


def _written(images: Array, labels: list[int], train: int, classes: tuple[str, ...]) -> Written:
    # red, green and blue plane, each row by row
    pictures = np.stack([images[:, plane * 1024 : (plane + 1) * 1024].reshape(-1, 32, 32) for plane in range(3)], 1)
    return Written(pictures[:train], labels[:train], pictures[train:], labels[train:], classes)
