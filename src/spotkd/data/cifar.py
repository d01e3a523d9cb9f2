"""CIFAR-10 and CIFAR-100: 60 000 photographs of 32x32 pixels each (Krizhevsky 2009), read from their Python files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import SpotkdError
from ..untrusted.pickles import Array, read_pickle
from .download import Archive, ensure_folder
from .images import DATASETS, Dataset, ImageSet, reject_unused
from .spec import DataSpec

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """Where things are in the files of one of the two."""

    archive: Archive
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = _Layout(
    Archive("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    names="label_names",
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
)
CIFAR100 = _Layout(
    Archive("cifar100", "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
    classes=100,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)


@DATASETS.register("cifar10")
def _load_cifar10(spec: DataSpec) -> Dataset:
    """10 classes of photographs, 32x32, 50 000 / 10 000 images; --data.download true fetches them (170 MB)"""
    return _load_cifar(spec, CIFAR10)


@DATASETS.register("cifar100")
def _load_cifar100(spec: DataSpec) -> Dataset:
    """100 classes of photographs, 32x32, 50 000 / 10 000 images; --data.download true fetches them (169 MB)"""
    return _load_cifar(spec, CIFAR100)


def _load_cifar(spec: DataSpec, layout: _Layout) -> Dataset:
    reject_unused(spec, "download", "mirror")
    folder = ensure_folder(layout.archive, spec, layout.folder)
    train = _read_split(folder, layout.train, layout)
    test = _read_split(folder, (layout.test,), layout)
    names = _read_class_names(folder / layout.meta, layout)
    return Dataset(layout.archive.name, train, test, names, layout.mean, layout.std, padding=4, flip=True)


def _read_split(folder: Path, files: tuple[str, ...], layout: _Layout) -> ImageSet:
    batches = [_read_batch(folder / file, layout) for file in files]
    images = np.concatenate([data for data, _ in batches]).reshape(-1, *SHAPE)
    return ImageSet(torch.from_numpy(images), torch.tensor([label for _, labels in batches for label in labels]))


def _read_batch(path: Path, layout: _Layout) -> tuple[Array, list[int]]:
    """Pixels ``(N, 3072)`` uint8 and N labels of one file."""
    content = read_pickle(path)
    data, labels = _get_entry(path, content, "data"), _get_entry(path, content, layout.labels)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        what = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise SpotkdError(f"{path}: damaged, 'data' is {what} in place of uint8 (images, {_PIXELS})")
    if not len(data):
        raise SpotkdError(f"{path}: holds no images")
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, list) or len(labels) != len(data):
        count = len(labels) if isinstance(labels, list) else "no list of"
        raise SpotkdError(f"{path}: damaged, {len(data)} images and {count} labels in '{layout.labels}'")
    for label in labels:
        if type(label) is not int or not 0 <= label < layout.classes:
            shown = repr(label)[:40]
            raise SpotkdError(f"{path}: damaged, label {shown} in '{layout.labels}'; 0 to {layout.classes - 1} exist")
    return data, labels


def _read_class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    names = _get_entry(path, read_pickle(path), layout.names)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise SpotkdError(f"{path}: damaged, '{layout.names}' is no list of names")
    if len(names) != layout.classes:
        raise SpotkdError(f"{path}: damaged, {len(names)} names in '{layout.names}' for {layout.classes} classes")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)


def _get_entry(path: Path, content: Mapping[str, object], key: str) -> object:
    if key not in content:
        raise SpotkdError(f"{path}: damaged or another file, it has no entry '{key}'")
    return content[key]
