"""Data sets of the Hugging Face Hub, or of folders in its formats, read by its own library ``datasets``.

They are read whole like folders of images, from the library's cache on the disk, or streamed: then nothing is kept,
the order is random only within a buffer, and the images are decoded by this process alone, between the steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor

from ..errors import SpotkdError, one_line
from ..untrusted.images import MAX_FILE_BYTES, WHITE, read_image_file
from ..untrusted.names import check_name
from .images import SOURCES, Dataset, EpochSpec, RawBatch, Split, reject_unused
from .lazy import (
    DEFAULT_EDGE,
    MEAN,
    STD,
    LazySet,
    choose_size,
    decode_and_transform,
    make_transform,
)
from .optional import import_optional
from .pictures import build_dataset, choose_white
from .spec import DataSpec

_VAL_NAMES = ("validation", "valid", "val")
_BUFFER = 1000  # images that a stream is shuffled among
_PEEKED = 64  # images of a stream that are looked at before it is used


@SOURCES.register("hf")
def _load_hub(rest: str, spec: DataSpec) -> Dataset:
    """Images of the Hugging Face Hub or a folder in its formats: hf:NAME, hf:NAME:CONFIGURATION, hf:./FOLDER"""
    reject_unused(spec, "image_size", "test_share", "white", "streaming")
    check_name(spec.name)  # the library asks the network, and writes a cache
    splits = _load_splits(rest, spec)
    if "train" not in splits:
        raise SpotkdError(f"{spec.name}: has the splits {', '.join(splits)} and no train")
    image, label, classes = _find_columns(spec.name, splits["train"].features)
    undecoded = import_optional("datasets", "hub").Image(decode=False)
    val = next((name for name in _VAL_NAMES if name in splits), "")
    used = {
        title: splits[name].select_columns([image, label]).cast_column(image, undecoded)
        for title, name in (("training", "train"), ("test", "test"), ("validation", val))
        if name in splits
    }
    read = _build_streamed if spec.streaming else _build_indexed
    return read(spec, used, image, label, classes)


def _load_splits(rest: str, spec: DataSpec) -> Mapping[str, Any]:
    """The library's own splits by name."""
    name, _, configuration = rest.partition(":")
    if not name:
        raise SpotkdError(f"{spec.name}: write hf:NAME or hf:NAME:CONFIGURATION, as the set is called on the Hub")
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise SpotkdError(f"{spec.name}: no such folder, seen from {Path.cwd()}")
        name = str(folder.resolve())
    datasets = import_optional("datasets", "hub")
    try:
        return cast(Mapping[str, Any], datasets.load_dataset(name, configuration or None, streaming=spec.streaming))
    except Exception as error:  # an unknown name, no network, no permission, files that it cannot read
        reason = f"{type(error).__name__}: {one_line(error)[:300]}"
        raise SpotkdError(f"{spec.name}: the Hub's library cannot load it ({reason})") from error


def _find_columns(name: str, features: Mapping[str, Any] | None) -> tuple[str, str, tuple[str, ...] | None]:
    """The column of images, that of labels, and the classes if they have names."""
    datasets = import_optional("datasets", "hub")
    features = features or {}  # streams of some formats have none
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        raise SpotkdError(
            f"{name}: {len(images)} of its columns ({', '.join(features)}) hold images, and exactly one must; "
            "python:MODULE.FUNCTION can make a data set of it"
        )
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = next((column for column in ("label", "fine_label", *labels[:1]) if column in labels), None)
    if label is None:
        for column in ("label", "labels"):
            if str(getattr(features.get(column), "dtype", "")).startswith(("int", "uint")):
                return images[0], column, None
        raise SpotkdError(
            f"{name}: none of its columns ({', '.join(features)}) holds class labels, nor whole numbers by the name of "
            "label; python:MODULE.FUNCTION can make a data set of it"
        )
    if len(labels) > 1 and label not in ("label", "fine_label"):
        raise SpotkdError(
            f"{name}: several columns hold class labels ({', '.join(labels)}), and none is called label; "
            "python:MODULE.FUNCTION can make a data set of it"
        )
    return images[0], label, tuple(features[label].names)


# Random access


@dataclass(frozen=True)
class TableImages:
    """Image files in a column of a table.

    Attributes:
        title: what to call one in an error message, together with its number.
        rows: a ``datasets.Dataset`` with that column undecoded.
        column: its name.
        white: brightest value of pictures with more than 8 bits of grey.
    """

    title: str
    rows: Any
    column: str
    white: float = WHITE

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[str, bytes]:
        return _read_content(f"{self.title} {number}", self.rows[number][self.column])


def _read_content(title: str, value: Mapping[str, Any] | None) -> tuple[str, bytes]:
    """Name and file of an undecoded image, which are in the table or at an address."""
    content, path = (None, None) if value is None else (value["bytes"], value["path"])
    name = f"{title} ({path})" if path else title
    if content is None and path is None:
        raise SpotkdError(f"{name}: there is none in its row")
    if content is None and "://" not in str(path):
        return name, read_image_file(Path(str(path)))
    if content is None:
        try:
            with importlib.import_module("fsspec").open(path, "rb") as file:  # a file, or an address like hf://
                content = file.read(MAX_FILE_BYTES)
        except Exception as error:
            raise SpotkdError(f"{name}: cannot be read ({one_line(error)[:200]})") from error
    return name, cast(bytes, content)


def _build_indexed(
    spec: DataSpec, splits: dict[str, Any], image: str, label: str, classes: tuple[str, ...] | None
) -> Dataset:
    labels = {title: _read_labels(rows, label) for title, rows in splits.items()}
    if "test" in labels and (labels["test"] < 0).all():
        _drop_unlabelled_test(spec, labels)
    if classes is None:
        classes = tuple(map(str, range(max(int(numbers.max()) for numbers in labels.values()) + 1)))
    read: dict[str, LazySet] = {}
    for title, numbers in labels.items():
        pictures = TableImages(f"{spec.name}: {title} image", splits[title].select_columns([image]), image)
        _check_labels(pictures.title, numbers, len(classes))
        read[title] = LazySet(pictures, torch.arange(len(numbers)), numbers)
    return build_dataset(spec, classes, read["training"], read.get("test"), read.get("validation"))


def _read_labels(rows: Any, column: str) -> Tensor:
    """``(N,)`` int64, -1 where there is none."""
    return torch.tensor(
        [_label_or_missing(label) for label in rows.select_columns([column])[:][column]], dtype=torch.int64
    )


def _label_or_missing(label: int | None) -> int:
    return -1 if label is None else label


def _check_labels(title: str, labels: Tensor, classes: int, start: int = 0) -> None:
    """Raise a :class:`SpotkdError` if a label is no class; the first image has the number ``start``."""
    for number, label in enumerate(labels.tolist(), start):
        if label < 0:
            raise SpotkdError(f"{title} {number} has no label ({label})")
        if label >= classes:
            raise SpotkdError(f"{title} {number} has label {label}, and the {classes} classes are 0 to {classes - 1}")


def _drop_unlabelled_test(spec: DataSpec, splits: dict[str, Any]) -> None:
    """Leave out a test split without labels, as that of a contest, if something stands in for it.

    Raises:
        SpotkdError: nothing does.
    """
    del splits["test"]
    if "validation" in splits:
        text = f"{spec.name}: its test split has no labels; its validation images are taken as test images"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
    elif spec.test_share is None:
        raise SpotkdError(
            f"{spec.name}: its test split has no labels; set data.test_share (and no streaming) to take training "
            "images in its place"
        )


# Streams


@dataclass(frozen=True)
class StreamSet(Split):
    """One split that streams by.

    In training it is shuffled within a buffer, by the seed and the epoch; images are cropped and mirrored as those of
    a :class:`LazySet`. They are decoded by this process: were they shared out among several, the order would depend
    on how many there are.

    Attributes:
        title: what to call an image in an error message, together with its number.
        stream: a ``datasets.IterableDataset`` with images undecoded.
        image: the column of images.
        label: the column of labels.
        classes: number of classes.
        count: how many images a pass has.
        edge: height and width of what :meth:`batches` yields.
        white: brightest value of pictures with more than 8 bits of grey.
    """

    title: str
    stream: Any
    image: str
    label: str
    classes: int
    count: int
    edge: int = DEFAULT_EDGE
    white: float = WHITE
    labels: Tensor | None = field(default=None, init=False)

    def __len__(self) -> int:
        return self.count

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return self.edge, self.edge

    def subset(self, indices: Tensor) -> StreamSet:
        """The first images; no others can be picked.

        Raises:
            SpotkdError: others are asked for.
        """
        count = len(indices)
        if not torch.equal(indices, torch.arange(count)):
            raise SpotkdError(f"{self.title}s stream by, and only the first ones can be picked; leave streaming out")
        return replace(self, stream=self.stream.take(count), count=count)

    def batches(self, epoch: EpochSpec) -> Iterator[RawBatch]:
        """The batches of one pass.

        Raises:
            SpotkdError: an image is damaged, a label is no class, the stream breaks off or is shorter than thought.
        """
        seed = epoch.generator().initial_seed()
        stream = self.stream.shuffle(seed=seed, buffer_size=_BUFFER) if epoch.training else self.stream
        transform = make_transform(self.edge, epoch.training and epoch.augment, epoch.flip, epoch.augmentation)
        title = f"{self.title} at shuffled place" if epoch.training else self.title
        start = min(epoch.skip * epoch.batch_size, self.count)
        rows = islice(_iterate_rows(stream, self.title), start, None)
        while batch := list(islice(rows, min(epoch.batch_size, self.count - start))):
            part = epoch.shard(len(batch))
            own, first = batch[part.start : part.stop], start + part.start
            labels = torch.tensor([_label_or_missing(row[self.label]) for row in own], dtype=torch.long)
            _check_labels(title, labels, self.classes, first)
            files = [_read_content(f"{title} {number}", row[self.image]) for number, row in enumerate(own, first)]
            images = [decode_and_transform(file, transform, seed, n, self.white) for n, file in enumerate(files, first)]
            yield torch.stack(images) if images else torch.empty(0, 3, *self.size), labels, None
            start += len(batch)
        if start < self.count:
            raise SpotkdError(
                f"{self.title}s: the stream ended after {start} of {self.count}; set data.limit to no more than that"
            )


def _iterate_rows(stream: Any, title: str) -> Iterator[Mapping[str, Any]]:
    """What a stream gives; whatever the net and the formats may raise becomes one line."""
    rows = iter(stream)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise SpotkdError(f"{title}s: the stream broke off ({one_line(error)[:300]})") from error
        yield row


def _build_streamed(
    spec: DataSpec, splits: dict[str, Any], image: str, label: str, classes: tuple[str, ...] | None
) -> Dataset:
    if classes is None:
        raise SpotkdError(f"{spec.name}: column {label} does not give the number of classes; leave streaming out")
    if spec.test_share is not None:
        raise SpotkdError(f"data.test_share is {spec.test_share:g}: no stream can be divided; leave it out")
    import_optional("torchvision.transforms.v2", "vision")  # if it is missing, let the user know now
    titles = {title: f"{spec.name}: {title} image" for title in splits}
    first = {title: list(islice(_iterate_rows(stream, titles[title]), _PEEKED)) for title, stream in splits.items()}
    if "test" in splits and all(_label_or_missing(row[label]) < 0 for row in first["test"]):
        _drop_unlabelled_test(spec, splits)
    testing = "test" if "test" in splits else "validation"
    if testing not in splits:
        raise SpotkdError(f"{spec.name}: has training images only, and no stream can be divided; leave streaming out")
    pictures = [_read_content(f"{titles['training']} {n}", row[image]) for n, row in enumerate(first["training"])]
    edge, _ = choose_size([pictures], spec.image_size)
    white = choose_white(spec.name, [pictures], spec.white)
    read = {
        title: StreamSet(
            titles[title], stream, image, label, len(classes), _count_images(spec, title, stream, label), edge, white
        )
        for title, stream in splits.items()
    }
    val = read.get("validation") if testing == "test" else None
    data = Dataset(spec.name, read["training"], read[testing], classes, MEAN, STD, flip=True, val=val, borrowed=True)
    return replace(data, white=white)


def _count_images(spec: DataSpec, title: str, stream: Any, label: str) -> int:
    """How many images a split has; if it does not say, training images are limited, others are counted."""
    known = (stream.info.splits or {}).get(str(stream.split))
    if known is not None and known.num_examples:
        return int(known.num_examples)
    if title != "training":
        return sum(1 for _ in _iterate_rows(stream.select_columns([label]), f"{spec.name}: {title} image"))
    if spec.limit is None:
        raise SpotkdError(
            f"{spec.name}: does not say how many training images it has; set data.limit to how many to use"
        )
    return spec.limit
