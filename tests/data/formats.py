"""Small data sets in the formats of the genuine ones, written to disk: random images of known labels."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

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


# Pictures


def random_picture(
    generator: np.random.Generator, height: int, width: int, mode: str = "RGB", kind: str = "png"
) -> bytes:
    """The file of a picture of random blocks, so that JPEG leaves something of it."""
    blocks = generator.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    picture = Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)[:height, :width]).convert(mode)
    with BytesIO() as file:
        picture.save(file, kind)
        return file.getvalue()


def pixels_of(content: bytes) -> Array:
    """``(3, H, W)`` uint8 of a picture's file."""
    with Image.open(BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def write_folder(
    root: Path,
    splits: Sequence[str] = ("train", "val"),
    classes: Sequence[str] = ("bee", "ant", "cat"),
    count: int = 4,
    sizes: Sequence[tuple[int, int]] = ((16, 16),),
) -> dict[str, tuple[list[Array], list[int]]]:
    """``root/SPLIT/CLASS/NUMBER.png``, or ``root/CLASS/NUMBER.png`` for a split called "".

    Args:
        root: the folder, made if need be.
        splits: names of the folders of splits.
        classes: names of the class folders, in any order.
        count: images a class.
        sizes: height and width of the images, in turn.

    Returns:
        Images ``(3, H, W)`` and labels of each split, by class and number.
    """
    generator = np.random.default_rng(20)
    written: dict[str, tuple[list[Array], list[int]]] = {}
    for split in splits:
        images, labels = [], []
        for label, name in enumerate(sorted(classes)):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                content = random_picture(generator, *sizes[(label * count + number) % len(sizes)])
                (folder / f"{number:03}.png").write_bytes(content)
                images.append(pixels_of(content))
                labels.append(label)
        written[split] = images, labels
    return written


WORDS = """n00000001\tentity
n01443537\tgoldfish, Carassius auratus
n02012849\tcrane
n03126707\tcrane, machine
"""


def write_imagenet(root: Path, splits: Sequence[str] = ("train_set", "test_set")) -> tuple[str, ...]:
    """Class folders of ImageNet with large pictures, and Kaggle's file of names beside them; the names."""
    write_folder(root, splits, ("n03126707", "n01443537", "n02012849", "n09999999"), 2, ((70, 100), (120, 110)))
    (root / "LOC_synset_mapping.txt").write_text(WORDS.replace("\t", " "))
    return "goldfish", "crane (n02012849)", "crane (n03126707)", "n09999999"


def write_tiny_imagenet(root: Path, as_zip: bool = False, train: int = 3, val: int = 5) -> Written:
    """``root/tiny-imagenet-200`` or its zip: four classes, ``train`` images a class and ``val`` in all, some grey."""
    generator = np.random.default_rng(30)
    synsets = ["n03126707", "n01443537", "n09999999", "n02012849"]
    files: dict[str, bytes] = {
        "wnids.txt": "".join(f"{synset}\n" for synset in synsets).encode(),
        "words.txt": WORDS.encode(),
    }
    train_images, train_labels = [], []
    for label, synset in enumerate(sorted(synsets)):
        files[f"train/{synset}/{synset}_boxes.txt"] = b"n03126707_0.JPEG\t0\t0\t63\t63\n"
        for number in range(train):
            content = random_picture(generator, 64, 64, "RGB" if number else "L", "jpeg")
            files[f"train/{synset}/images/{synset}_{number}.JPEG"] = content
            train_images.append(pixels_of(content))
            train_labels.append(label)
    val_images, val_labels = [], generator.integers(0, 4, val).tolist()
    lines = []
    for number, label in enumerate(val_labels):
        content = random_picture(generator, 64, 64, "RGB", "jpeg")
        files[f"val/images/val_{number}.JPEG"] = content
        lines.append(f"val_{number}.JPEG\t{sorted(synsets)[label]}\t0\t0\t63\t63\n")
        val_images.append(pixels_of(content))
    files["val/val_annotations.txt"] = "".join(reversed(lines)).encode()
    files["test/images/test_0.JPEG"] = random_picture(generator, 64, 64, "RGB", "jpeg")
    write_files(root, files, as_zip)
    classes = ("goldfish", "crane (n02012849)", "crane (n03126707)", "n09999999")
    return Written(np.stack(train_images), train_labels, np.stack(val_images), val_labels, classes)


def write_files(root: Path, files: dict[str, bytes], as_zip: bool) -> None:
    """Files of ``tiny-imagenet-200`` by name."""
    root.mkdir(parents=True, exist_ok=True)
    if as_zip:
        with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
            archive.writestr("tiny-imagenet-200/", "")
            for name, content in files.items():
                archive.writestr(f"tiny-imagenet-200/{name}", content)
        return
    for name, content in files.items():
        path = root / "tiny-imagenet-200" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_hub(
    folder: Path,
    splits: Mapping[str, Sequence[int | None]],
    sizes: Sequence[tuple[int, int]] = ((12, 12),),
    columns: Mapping[str, Any] | None = None,
    tell: bool = False,
) -> dict[str, list[bytes]]:
    """A folder of parquet files, as the Hub has them.

    Args:
        folder: made if need be.
        splits: labels of each split's images.
        sizes: height and width of the images, in turn.
        columns: columns besides ``image``, and their types; each gets the labels. Unset: ``label`` of three classes.
        tell: note in README.md how many images there are, as sets on the Hub mostly do.

    Returns:
        The files of each split's images.
    """
    import datasets

    generator = np.random.default_rng(40)
    columns = columns or {"label": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    kinds = datasets.Features({"image": datasets.Image(), **columns})
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[bytes]] = {}
    for split, labels in splits.items():
        contents = [random_picture(generator, *sizes[number % len(sizes)]) for number in range(len(labels))]
        rows: dict[str, list[Any]] = {"image": [{"bytes": content, "path": None} for content in contents]}
        rows |= {column: list(labels) for column in columns}
        table = datasets.Dataset.from_dict(rows, features=kinds)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        written[split] = contents
    if tell:
        noted = "  - name: {}\n    num_bytes: 1000\n    num_examples: {}\n"
        counts = "".join(noted.format(split, len(labels)) for split, labels in splits.items())
        (folder / "README.md").write_text(f"---\ndataset_info:\n  splits:\n{counts}---\n")
    return written
