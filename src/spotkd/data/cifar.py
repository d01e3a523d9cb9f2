"""CIFAR-10 and CIFAR-100: 60 000 photographs of 32x32 pixels each (Krizhevsky 2009), read from their Python files.

These files are pickles, and a pickle can run any program. They are read here with the few names that genuine files
hold standing for functions of this module, and every other name refused.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch

from ..config import DataConfig
from ..errors import SpotkdError, one_line
from ..files import Mapped
from .download import Archive, obtain
from .images import DATASETS, Dataset, ImageSet, check_options

Array = npt.NDArray[Any]

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
def _cifar10(config: DataConfig) -> Dataset:
    """10 classes of photographs, 32x32, 50 000 / 10 000 images; --data.download true fetches them (170 MB)"""
    return _load(config, CIFAR10)


@DATASETS.register("cifar100")
def _cifar100(config: DataConfig) -> Dataset:
    """100 classes of photographs, 32x32, 50 000 / 10 000 images; --data.download true fetches them (169 MB)"""
    return _load(config, CIFAR100)


def _load(config: DataConfig, layout: _Layout) -> Dataset:
    check_options(config, "download", "mirror")
    folder = obtain(layout.archive, config, layout.folder)
    train = _split(folder, layout.train, layout)
    test = _split(folder, (layout.test,), layout)
    names = _class_names(folder / layout.meta, layout)
    return Dataset(layout.archive.name, train, test, names, layout.mean, layout.std, padding=4, flip=True)


def _split(folder: Path, files: tuple[str, ...], layout: _Layout) -> ImageSet:
    batches = [_batch(folder / file, layout) for file in files]
    images = np.concatenate([data for data, _ in batches]).reshape(-1, *SHAPE)
    return ImageSet(torch.from_numpy(images), torch.tensor([label for _, labels in batches for label in labels]))


def _batch(path: Path, layout: _Layout) -> tuple[Array, list[int]]:
    """Pixels ``(N, 3072)`` uint8 and N labels of one file."""
    content = read_pickle(path)
    data, labels = _entry(path, content, "data"), _entry(path, content, layout.labels)
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


def _class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    names = _entry(path, read_pickle(path), layout.names)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise SpotkdError(f"{path}: damaged, '{layout.names}' is no list of names")
    if len(names) != layout.classes:
        raise SpotkdError(f"{path}: damaged, {len(names)} names in '{layout.names}' for {layout.classes} classes")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)


def _entry(path: Path, content: Mapping[str, object], key: str) -> object:
    if key not in content:
        raise SpotkdError(f"{path}: damaged or another file, it has no entry '{key}'")
    return content[key]


def read_pickle(path: Path) -> dict[str, object]:
    """The dictionary of arrays of whole numbers, lists, strings, bytes and numbers in a pickle of any protocol.

    Keys come as ``str``, whether they were written by Python 2 or 3.

    Raises:
        SpotkdError: the file is missing or damaged, or holds something that would have to be executed.
    """
    try:
        with path.open("rb") as file, Mapped(file) as mapped:
            content = _Unpickler(mapped, encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} in place of a dictionary")
        return {
            key.decode() if isinstance(key, bytes) else str(key): value.array() if isinstance(value, _Array) else value
            for key, value in content.items()
        }
    except FileNotFoundError as error:
        raise SpotkdError(f"{path}: no such file; the folder is incomplete, remove it and fetch it anew") from error
    except _RefusedError as error:
        raise SpotkdError(f"{path}: refused, {error}; this is not the genuine file, remove it") from error
    except Exception as error:  # a damaged pickle is a random program: it may raise nearly anything
        raise SpotkdError(f"{path}: damaged or cannot be read ({one_line(error)[:200]})") from error


class _RefusedError(Exception):
    """The pickle wants more than data."""


class _Unpickler(pickle._Unpickler):
    """Builds plain data; what else a pickle may name is in ``_KNOWN``.

    It is Python's own, and as fast here: the one in C takes a pickle's word for how much memory it needs. Read from a
    mapped file, no length reaches beyond its end.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def _load_bytearray(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray  # type: ignore[assignment]

    def find_class(self, module: str, name: str) -> object:
        known = module.replace("numpy.core", "numpy._core").replace("__builtin__", "builtins"), name
        if known not in _KNOWN:
            raise _RefusedError(f"it would execute {f'{module}.{name}'[:80]!r}")
        return _Name(_KNOWN[known])


class _Name:
    """What stands for a name in a pickle: it can be called, and not be changed by the pickle as a function can."""

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("it would change a function")


class _DType:
    """A type of whole numbers: the arguments of ``numpy.dtype``, then its state with the order of bytes."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code, self.order = _text(code), "="
        if not re.fullmatch("[iu][1248]", self.code):
            raise _RefusedError(f"it holds an array of type {self.code[:20]!r} in place of whole numbers")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype[Any]:
        if self.order not in ("<", ">", "|", "="):
            raise ValueError(f"no order of bytes: {self.order[:20]!r}")
        return np.dtype(self.order.replace("|", "=") + self.code)


class _Array:
    """An array as pickles have it, made empty and filled by its state."""

    def __init__(self) -> None:
        self._array: Array | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], _DType, bool, bytes]) -> None:
        _, shape, kind, by_columns, content = state
        self._array = np.frombuffer(content, kind.dtype()).reshape(shape, order="F" if by_columns else "C")

    def array(self) -> Array:
        if self._array is None:
            raise ValueError("an array without content")
        return self._array


def _text(value: object) -> str:
    """Python 2 wrote bytes where Python 3 writes strings."""
    return value.decode("ascii") if isinstance(value, bytes) else cast(str, value)


def _from_buffer(content: bytes, kind: _DType, shape: tuple[int, ...], order: str, axes: Any = None) -> Array:
    """As NumPy's function of this name, which protocol 5 calls."""
    array = np.frombuffer(content, kind.dtype())
    return array.reshape(shape).transpose(axes) if order == "K" else array.reshape(shape, order=cast(Any, order))


def _encode(text: str, codec: str) -> bytes:
    """Bytes as protocols before 3 write them; in general ``_codecs.encode`` imports any codec it is told."""
    if _text(codec) not in ("latin1", "latin-1"):
        raise _RefusedError(f"it would execute _codecs.encode with {_text(codec)[:20]!r}")
    return text.encode("latin-1")


def _not_called(*_: object) -> object:
    raise _RefusedError("it would execute numpy.ndarray")


# Names as of Python 3 and NumPy 2; the array that is "reconstructed" is always an empty one.
_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _not_called,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",
}
