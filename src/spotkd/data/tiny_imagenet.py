"""Tiny-ImageNet: 200 classes of ImageNet at 64x64 (Stanford CS231n), from its folder or straight from its zip.

The pictures are decoded once, into an array file beside them that is as large as the pixels (1.35 GB) and opens in a
second. It is made again when the pictures have changed, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..untrusted.archives import ZipReader
from ..untrusted.images import read_image_file
from ..untrusted.json_values import parse_json
from ..untrusted.names import is_looking
from ..untrusted.safetensors_files import read_notes, read_tensors
from .download import Archive, ensure_archive
from .folders import name_synsets
from .image_files import decode_images, is_image_file
from .images import DATASETS, Dataset, ImageSet, reject_unused
from .spec import DataSpec

ARCHIVE = Archive(
    "tiny-imagenet", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
FOLDER = "tiny-imagenet-200"  # in the zip, and of what was unpacked from it
SIZE = (64, 64)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # CIFAR-10's, with which the literature reads this set
_FORMAT = "1"  # of the array file; another number makes older files be written again


@DATASETS.register("tiny-imagenet")
def _load_tiny_imagenet(spec: DataSpec) -> Dataset:
    """200 classes of photographs, 64x64, 100 000 / 10 000 images; --data.download true fetches them (248 MB)"""
    reject_unused(spec, "download", "mirror")
    root = Path(spec.root)
    folder = next((place for place in (root / FOLDER, root) if place.name == FOLDER and place.is_dir()), None)
    source = _ZipSource(ensure_archive(ARCHIVE, spec)) if folder is None else _FolderSource(folder)
    kept = source.place.with_name(f"{FOLDER}.safetensors")
    fingerprint = f"{_FORMAT} {source.fingerprint()}"
    tensors = _read_cache(kept, fingerprint)
    if tensors is None:
        tensors = _decode_source(source)
        if not is_looking():
            _write_cache(kept, fingerprint, tensors)
    classes, train_images, train_labels, val_images, val_labels = tensors
    train, val = ImageSet(train_images, train_labels), ImageSet(val_images, val_labels)
    return Dataset("tiny-imagenet", train, val, classes, MEAN, STD, flip=True)


_Tensors = tuple[tuple[str, ...], Tensor, Tensor, Tensor, Tensor]  # classes, images and labels to train, and to test
_KEYS = ("train_images", "train_labels", "val_images", "val_labels")


class _Source(ABC):
    """The files of the data set; their names have slashes and start below its folder.

    Args:
        place: the folder or the zip.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    @abstractmethod
    def fingerprint(self) -> str:
        """Something that changes when the files do."""

    @abstractmethod
    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none if there is no such folder."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file; a :class:`SpotkdError` says why not."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """A file or folder as error messages name it."""

    def lines(self, name: str) -> list[str]:
        return self.read(name).decode("utf-8", "replace").splitlines()


class _FolderSource(_Source):
    def fingerprint(self) -> str:
        try:
            return hashlib.sha256(repr(sorted(_scan_files(self.place, ""))).encode()).hexdigest()
        except OSError as error:
            raise SpotkdError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def files(self, folder: str) -> list[str]:
        place = self.place / folder
        return sorted(f"{folder}/{path.name}" for path in place.iterdir()) if place.is_dir() else []

    def has(self, name: str) -> bool:
        return (self.place / name).is_file()

    def read(self, name: str) -> bytes:
        return read_image_file(self.place / name)

    def describe(self, name: str) -> str:
        return str(self.place / name)


def _scan_files(folder: str | Path, start: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of the files below a folder; three times as fast as ``Path.rglob``, for 110 000 of them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _scan_files(entry.path, f"{start}{entry.name}/")
            else:
                state = entry.stat()
                yield f"{start}{entry.name}", state.st_size, state.st_mtime_ns


class _ZipSource(_Source):
    """Read in place, many members at a time."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._zip = ZipReader(place, FOLDER)
        self._folders: dict[str, list[str]] = {}
        for name in self._zip.names:
            self._folders.setdefault(name.rpartition("/")[0], []).append(name)

    def fingerprint(self) -> str:
        state = self.place.stat()
        return f"{state.st_size} {state.st_mtime_ns}"

    def files(self, folder: str) -> list[str]:
        return sorted(self._folders.get(folder, []))

    def has(self, name: str) -> bool:
        return name in self._zip.names

    def read(self, name: str) -> bytes:
        return self._zip.read(name)

    def describe(self, name: str) -> str:
        return self._zip.describe(name)


@dataclass(frozen=True)
class _SourceImages:
    source: _Source
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[str, bytes]:
        name = self.names[number]
        return self.source.describe(name), self.source.read(name)


def _decode_source(source: _Source) -> _Tensors:
    """Everything, from the original files."""
    synsets = sorted({line.strip() for line in source.lines("wnids.txt")} - {""})
    if len(synsets) < 2:
        raise SpotkdError(f"{source.describe('wnids.txt')}: damaged, it names {len(synsets)} classes")
    number = {synset: label for label, synset in enumerate(synsets)}
    classes = name_synsets(synsets, source.lines("words.txt") if source.has("words.txt") else [])
    train = {
        name: number[synset] for synset in synsets for name in _list_class_images(source, f"train/{synset}/images")
    }
    val = _read_val_labels(source, number)
    return (classes, *_decode_split(source, train, "training"), *_decode_split(source, val, "validation"))


def _list_class_images(source: _Source, folder: str) -> list[str]:
    names = [name for name in source.files(folder) if is_image_file(name.rpartition("/")[2])]
    if not names:
        raise SpotkdError(f"{source.describe(folder)}: no pictures, though wnids.txt lists the class; fetch it again")
    return names


def _read_val_labels(source: _Source, number: dict[str, int]) -> dict[str, int]:
    """The label of each validation picture, in the order of their names."""
    notes = "val/val_annotations.txt"
    labels: dict[str, int] = {}
    for place, line in enumerate(source.lines(notes), 1):
        file, _, rest = line.partition("\t")
        synset, name = rest.partition("\t")[0].strip(), f"val/images/{file}"
        if synset not in number:
            raise SpotkdError(f"{source.describe(notes)}: line {place} has class '{synset[:40]}', not in wnids.txt")
        if not source.has(name):
            raise SpotkdError(f"{source.describe(name)}: missing, though val_annotations.txt lists it; fetch it again")
        labels[name] = number[synset]
    if not labels:
        raise SpotkdError(f"{source.describe(notes)}: damaged, it lists no pictures")
    return dict(sorted(labels.items()))


def _decode_split(source: _Source, labels: dict[str, int], title: str) -> tuple[Tensor, Tensor]:
    pictures = _SourceImages(source, list(labels))
    images = decode_images(pictures, range(len(pictures)), SIZE, f"tiny-imagenet: decoding {title} images")
    return images, torch.tensor(list(labels.values()))


def _read_cache(path: Path, fingerprint: str) -> _Tensors | None:
    """What :func:`_write_cache` wrote; None if it is missing, damaged, or of other pictures."""
    try:
        notes = read_notes(path)
        if notes.get("fingerprint") != fingerprint:
            return None
        images, labels, val_images, val_labels = read_tensors(path, _KEYS).values()
        classes = tuple(map(str, parse_json(notes["classes"])))
        for pictures, numbers in ((images, labels), (val_images, val_labels)):
            if pictures.dtype != torch.uint8 or pictures.shape != (len(numbers), 3, *SIZE) or numbers.ndim != 1:
                return None
        return classes, images, labels.long(), val_images, val_labels.long()
    except (KeyError, ValueError, TypeError):  # a SpotkdError is a ValueError
        return None


def _write_cache(path: Path, fingerprint: str, tensors: _Tensors) -> None:
    """Write the decoded images, if that is possible; without them the next start takes longer, that is all."""
    classes, *arrays = tensors
    notes = {"fingerprint": fingerprint, "classes": json.dumps(classes)}
    try:
        with atomic_write(path) as temporary:
            save_file(dict(zip(_KEYS, arrays, strict=True)), temporary, notes)
    except (OSError, SafetensorError) as error:
        text = f"{path}: cannot be written ({one_line(error)[:200]}); the images will be decoded at every start"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
