"""Folders of images, a folder for each class, and ImageNet, which is kept like that."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import SpotkdError
from .images import DATASETS, SOURCES, Dataset, check_options
from .lazy import LARGE, MEAN, STD, LazySet, assemble, checked_edge, library
from .pictures import EXTENSIONS, Files, is_picture
from .spec import DataSpec

_SPLITS = {  # how folders that hold a split are called, whatever their case
    "train": ("train", "training", "train_set"),
    "val": ("val", "valid", "validation", "val_set"),
    "test": ("test", "testing", "test_set"),
}
_EXPECTED = "FOLDER/train/CLASS/1.jpg with FOLDER/val/CLASS/2.jpg, or FOLDER/CLASS/1.jpg, is expected"
_WORDS = ("LOC_synset_mapping.txt", "words.txt")  # class names of ImageNet, in the files that come with it


@SOURCES.register("folder")
def _folder(path: str, spec: DataSpec) -> Dataset:
    """Your own images: PATH/train/CLASS/*.jpg with val/ or test/ beside train/, or PATH/CLASS/*.jpg"""
    check_options(spec, "image_size", "test_share")
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise SpotkdError(f"{spec.name}: no such folder, seen from {Path.cwd()}")
    places = _split_folders(folder)
    if places and "train" not in places:
        raise SpotkdError(f"{folder}: has {next(iter(places.values())).name}/ and no train/; {_EXPECTED}")
    if not places or (list(places) == ["train"] and not _subfolders(places["train"])):  # a class may be called train
        train, classes = _split(folder)
        return assemble(spec, classes, train, None, None)
    splits, classes = _splits(places)
    return assemble(spec, classes, splits["train"], splits.get("test"), splits.get("val"))


@DATASETS.register("imagenet")
def _imagenet(spec: DataSpec) -> Dataset:
    """1000 classes of photographs, at 224x224, 1.28 million / 50 000 images (ILSVRC 2012); read from ROOT/imagenet"""
    home = Path(spec.root, "imagenet")
    if spec.download:
        raise SpotkdError(
            "imagenet: data.download has no effect, its terms have to be agreed to; get ILSVRC 2012 from "
            f"https://image-net.org/download and unpack it to {home}/train/CLASS and {home}/val/CLASS"
        )
    check_options(spec, "image_size")
    for folder in (home, Path(spec.root)):
        places = _split_folders(folder) if folder.is_dir() else {}
        if "train" in places and len(places) > 1:
            break
    else:
        raise SpotkdError(
            f"imagenet: no {home}/train and {home}/val; get ILSVRC 2012 from https://image-net.org/download and put it "
            "there, with a folder for each class in both"
        )
    if "val" in places:
        places.pop("test", None)  # of which nobody has the labels
    splits, classes = _splits(places)
    library("torchvision.transforms.v2", "vision")
    test = splits.get("val", splits.get("test"))
    assert test is not None  # for type checkers: there is more than train
    edge = LARGE if spec.image_size is None else checked_edge(spec.image_size)
    words = next((folder / name for name in _WORDS if (folder / name).is_file()), None)
    names = classes if words is None else synset_names(classes, words.read_text("utf-8", "replace").splitlines())
    train, test = (LazySet(split.pictures, split.numbers, split.labels, edge) for split in (splits["train"], test))
    return Dataset("imagenet", train, test, names, MEAN, STD, flip=True)


def synset_names(synsets: Sequence[str], words: Iterable[str]) -> tuple[str, ...]:
    """The first name of each WordNet id, such as goldfish for n01443537.

    Args:
        synsets: the ids.
        words: lines: an id, white space and its names, separated by commas.

    Returns:
        A name for each id, together with the id where two have the same; the id alone where it has none.
    """
    lines = (line.split(maxsplit=1) for line in words)
    known = {line[0]: line[1].partition(",")[0].strip() for line in lines if len(line) == 2}
    names = [known.get(synset, synset) for synset in synsets]
    count = Counter(names)
    return tuple(
        name if count[name] == 1 else f"{name} ({synset})" for name, synset in zip(names, synsets, strict=True)
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders that hold a split, by its name in ``_SPLITS``."""
    found: dict[str, Path] = {}
    for split, names in _SPLITS.items():
        places = [place for place in _subfolders(folder) if place.name.lower() in names]
        if len(places) > 1:
            raise SpotkdError(f"{folder}: has both {places[0].name}/ and {places[1].name}/; keep one of them")
        if places:
            found[split] = places[0]
    return found


def _splits(places: dict[str, Path]) -> tuple[dict[str, LazySet], tuple[str, ...]]:
    """The splits by name, and the classes, which must be the same in all."""
    read = {split: _split(place) for split, place in places.items()}
    classes = read["train"][1]
    for split, (_, others) in read.items():
        lacking, extra = (sorted(set(one) - set(other)) for one, other in ((classes, others), (others, classes)))
        if lacking or extra:
            parts = [f"lacks {_few(lacking)}"] * bool(lacking) + [f"alone has {_few(extra)}"] * bool(extra)
            raise SpotkdError(
                f"{places[split]}: its class folders are not those of {places['train']}: it {' and '.join(parts)}"
            )
    return {split: images for split, (images, _) in read.items()}, classes


def _split(folder: Path) -> tuple[LazySet, tuple[str, ...]]:
    """The images below the class folders in ``folder``, and the classes."""
    places = _subfolders(folder)
    if len(places) < 2:
        what = f"only one class folder ({places[0].name})" if places else "no class folders"
        raise SpotkdError(f"{folder}: {what} in it, and two classes are the least; {_EXPECTED}")
    names = [_pictures_below(place, folder) for place in places]
    for place, found in zip(places, names, strict=True):
        if not found:
            raise SpotkdError(
                f"{place}: a class folder without pictures ({', '.join(sorted(EXTENSIONS))}); remove it or add some"
            )
    pictures = Files(str(folder), np.array([os.fsencode(name) for found in names for name in found]))
    labels = torch.repeat_interleave(torch.arange(len(places)), torch.tensor([len(found) for found in names]))
    return LazySet(pictures, torch.arange(len(labels)), labels), tuple(place.name for place in places)


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder but for hidden ones, sorted."""
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    except OSError as error:
        raise SpotkdError(f"{folder}: cannot be read ({error.strerror})") from error


def _pictures_below(place: Path, root: Path) -> list[str]:
    """Paths relative to ``root`` of the pictures in a class folder and the folders in it, in a fixed order."""
    found: list[str] = []
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = Path(folder).relative_to(root).as_posix()
        found += [f"{start}/{name}" for name in sorted(files) if is_picture(name)]
    return found


def _few(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
