"""Folders of images, a folder for each class, and ImageNet, which is kept like that."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import SpotkdError
from .image_files import EXTENSIONS, FolderImages, is_image_file
from .images import DATASETS, SOURCES, Dataset, reject_unused
from .lazy import DEFAULT_EDGE, MEAN, STD, LazySet, build_dataset, check_image_size, import_optional
from .spec import DataSpec

_SPLIT_NAMES = {  # how folders that hold a split are called, whatever their case
    "train": ("train", "training", "train_set"),
    "val": ("val", "valid", "validation", "val_set"),
    "test": ("test", "testing", "test_set"),
}
_EXPECTED_LAYOUT = "FOLDER/train/CLASS/1.jpg with FOLDER/val/CLASS/2.jpg, or FOLDER/CLASS/1.jpg, is expected"
_CLASS_NAME_FILES = ("LOC_synset_mapping.txt", "words.txt")  # class names of ImageNet, in the files that come with it


@SOURCES.register("folder")
def _load_folder(path: str, spec: DataSpec) -> Dataset:
    """Your own images: PATH/train/CLASS/*.jpg with val/ or test/ beside train/, or PATH/CLASS/*.jpg"""
    reject_unused(spec, "image_size", "test_share")
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise SpotkdError(f"{spec.name}: no such folder, seen from {Path.cwd()}")
    places = _find_split_folders(folder)
    if places and "train" not in places:
        raise SpotkdError(f"{folder}: has {next(iter(places.values())).name}/ and no train/; {_EXPECTED_LAYOUT}")
    one_class_called_train = list(places) == ["train"] and not _list_subfolders(places["train"])
    if not places or one_class_called_train:
        train, classes = _read_split(folder)
        return build_dataset(spec, classes, train, None, None)
    splits, classes = _read_splits(places)
    return build_dataset(spec, classes, splits["train"], splits.get("test"), splits.get("val"))


@DATASETS.register("imagenet")
def _load_imagenet(spec: DataSpec) -> Dataset:
    """1000 classes of photographs, at 224x224, 1.28 million / 50 000 images (ILSVRC 2012); read from ROOT/imagenet"""
    home = Path(spec.root, "imagenet")
    if spec.download:
        raise SpotkdError(
            "imagenet: data.download has no effect, its terms have to be agreed to; get ILSVRC 2012 from "
            f"https://image-net.org/download and unpack it to {home}/train/CLASS and {home}/val/CLASS"
        )
    reject_unused(spec, "image_size")
    for folder in (home, Path(spec.root)):
        places = _find_split_folders(folder) if folder.is_dir() else {}
        if "train" in places and len(places) > 1:
            break
    else:
        raise SpotkdError(
            f"imagenet: no {home}/train and {home}/val; get ILSVRC 2012 from https://image-net.org/download and put it "
            "there, with a folder for each class in both"
        )
    if "val" in places:
        places.pop("test", None)  # whose labels are not published
    splits, classes = _read_splits(places)
    import_optional("torchvision.transforms.v2", "vision")
    test = splits.get("val", splits.get("test"))
    assert test is not None  # for type checkers: there is more than train
    edge = DEFAULT_EDGE if spec.image_size is None else check_image_size(spec.image_size)
    words = next((folder / name for name in _CLASS_NAME_FILES if (folder / name).is_file()), None)
    names = classes if words is None else name_synsets(classes, words.read_text("utf-8", "replace").splitlines())
    train, test = (LazySet(split.image_files, split.numbers, split.labels, edge) for split in (splits["train"], test))
    return Dataset("imagenet", train, test, names, MEAN, STD, flip=True)


def name_synsets(synsets: Sequence[str], words: Iterable[str]) -> tuple[str, ...]:
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


def _find_split_folders(folder: Path) -> dict[str, Path]:
    """The folders that hold a split, by its name in ``_SPLIT_NAMES``."""
    found: dict[str, Path] = {}
    for split, names in _SPLIT_NAMES.items():
        places = [place for place in _list_subfolders(folder) if place.name.lower() in names]
        if len(places) > 1:
            raise SpotkdError(f"{folder}: has both {places[0].name}/ and {places[1].name}/; keep one of them")
        if places:
            found[split] = places[0]
    return found


def _read_splits(places: dict[str, Path]) -> tuple[dict[str, LazySet], tuple[str, ...]]:
    """The splits by name, and the classes, which must be the same in all."""
    read = {split: _read_split(place) for split, place in places.items()}
    classes = read["train"][1]
    for split, (_, others) in read.items():
        lacking, extra = (sorted(set(one) - set(other)) for one, other in ((classes, others), (others, classes)))
        if lacking or extra:
            parts = [f"lacks {_join_first(lacking)}"] * bool(lacking)
            parts += [f"alone has {_join_first(extra)}"] * bool(extra)
            raise SpotkdError(
                f"{places[split]}: its class folders are not those of {places['train']}: it {' and '.join(parts)}"
            )
    return {split: images for split, (images, _) in read.items()}, classes


def _read_split(folder: Path) -> tuple[LazySet, tuple[str, ...]]:
    """The images below the class folders in ``folder``, and the classes."""
    places = _list_subfolders(folder)
    if len(places) < 2:
        what = f"only one class folder ({places[0].name})" if places else "no class folders"
        raise SpotkdError(f"{folder}: {what} in it, and two classes are the least; {_EXPECTED_LAYOUT}")
    names = [_list_images(place, folder) for place in places]
    for place, found in zip(places, names, strict=True):
        if not found:
            raise SpotkdError(
                f"{place}: a class folder without pictures ({', '.join(sorted(EXTENSIONS))}); remove it or add some"
            )
    pictures = FolderImages(str(folder), np.array([os.fsencode(name) for found in names for name in found]))
    labels = torch.repeat_interleave(torch.arange(len(places)), torch.tensor([len(found) for found in names]))
    return LazySet(pictures, torch.arange(len(labels)), labels), tuple(place.name for place in places)


def _list_subfolders(folder: Path) -> list[Path]:
    """The folders in a folder but for hidden ones, sorted."""
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    except OSError as error:
        raise SpotkdError(f"{folder}: cannot be read ({error.strerror})") from error


def _list_images(place: Path, root: Path) -> list[str]:
    """Paths relative to ``root`` of the pictures in a class folder and the folders in it, in a fixed order."""
    found: list[str] = []
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = Path(folder).relative_to(root).as_posix()
        found += [f"{start}/{name}" for name in sorted(files) if is_image_file(name)]
    return found


def _join_first(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
