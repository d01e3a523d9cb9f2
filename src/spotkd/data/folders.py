"""Folders of images, a folder for each class, and ImageNet, which is kept like that."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import SpotkdError, tell
from ..untrusted.names import is_trusted
from .image_files import EXTENSIONS, FolderImages, is_image_file
from .images import DATASETS, SOURCES, Dataset, reject_unused
from .lazy import DEFAULT_EDGE, MEAN, STD, LazySet, check_image_size
from .optional import import_optional
from .pictures import build_dataset
from .spec import DataSpec

_SPLIT_NAMES = {  # how folders that hold a split are called, whatever their case, in front of _set, _data or _images
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
_CONTENT_NAMES = ("dataset", "set", "data", "images", "imgs", "pictures", "split")
_MOST_SPLITS = 3
_MOST_FOLDERS = 20_000  # below a class folder, of a set that somebody else's file names
_BY_SYSTEMS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "lost+found")
_EXPECTED_LAYOUT = "FOLDER/train/CLASS/1.jpg with FOLDER/val/CLASS/2.jpg, or FOLDER/CLASS/1.jpg, is expected"
_CLASS_NAME_FILES = ("LOC_synset_mapping.txt", "words.txt")  # class names of ImageNet, in the files that come with it


@SOURCES.register("folder")
def _load_folder(path: str, spec: DataSpec) -> Dataset:
    """Your own images: PATH/train/CLASS/*.jpg with val/ or test/ beside train/, or PATH/CLASS/*.jpg"""
    reject_unused(spec, "image_size", "test_share", "white")
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        if folder.is_file():
            raise SpotkdError(f"{spec.name}: is a file; unpack it, if it is an archive, and name the folder")
        raise SpotkdError(f"{spec.name}: no such folder, seen from {Path.cwd()}")
    left_out = LeftOut(folder)
    if (inside := _enter_only_folder(folder)) != folder:
        left_out.add_beside(folder, [inside])
        folder = inside
    places = _find_split_folders(folder)
    others = [place for place in _list_subfolders(folder) if place not in places.values()]
    are_classes = places and not any(_list_subfolders(place) for place in places.values())
    if not places or (are_classes and (others or list(places) == ["train"])):  # classes called train or test
        train, classes = _read_split(folder, left_out)
        held_out = f"{spec.test_share or 0.2:.0%} of each class are held out as test images"
        left_out.tell(f"no train/ and no test/: {held_out}{_ask_about_splits(folder)}")
        return build_dataset(spec, classes, train, None, None)
    if "train" not in places:
        name = next(iter(places.values())).name
        raise SpotkdError(
            f"{folder}: has {name}/ and no train/; {_EXPECTED_LAYOUT}; where {name} is a class, call it class_{name}"
        )
    splits, classes = _read_splits(places, left_out)
    left_out.add_beside(folder, list(places.values()))
    taken = [f"{place.name}/ as {split}" for split, place in places.items() if place.name != split]
    if len(places) == 1:
        taken.append(f"{spec.test_share or 0.2:.0%} of each class of {places['train'].name}/ for the test images")
    elif "test" not in places and taken:
        taken.append(f"{places['val'].name}/ for the test images")
    left_out.tell(f"takes {', '.join(taken)}" if taken else "")
    return build_dataset(spec, classes, splits["train"], splits.get("test"), splits.get("val"))


def _ask_about_splits(folder: Path) -> str:
    """A question, where the folders taken as classes all hold the same folders, and may be splits of other names."""
    classes = [place for place in _list_subfolders(folder) if place.name not in _BY_SYSTEMS]
    inner = [sorted(place.name for place in _list_subfolders(each)) for each in classes]
    if not 2 <= len(classes) <= _MOST_SPLITS or len(inner[0]) < 2 or any(names != inner[0] for names in inner):
        return ""
    taken, held = ", ".join(place.name for place in classes), ", ".join(inner[0][:3]) + ", ..." * (len(inner[0]) > 3)
    advice = "if those are the classes, call the outer ones train, val"
    return f"; {taken} are taken as classes, and all hold {held}: {advice}"


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
    left_out = LeftOut(folder)
    splits, classes = _read_splits(places, left_out)
    left_out.tell("")
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


class LeftOut:
    """What a folder holds beside the pictures that are read: counted by kind, with an example of each.

    Args:
        folder: the data set's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, place: Path) -> None:
        self._counts[kind] += 1
        self._examples.setdefault(kind, str(place.relative_to(self._folder)))

    def add_beside(self, folder: Path, taken: Sequence[Path]) -> None:
        """What lies in a folder beside the folders that are taken; hidden files of systems are not worth a word."""
        for place in sorted(folder.iterdir()):
            if place in taken or place.name.startswith("."):
                continue
            if place.is_dir():
                self.add("folders", place)
            elif is_image_file(place.name):
                self.add("pictures outside of class folders", place)
            else:
                self.add(f"{place.suffix.lower() or 'other'} files", place)

    def tell(self, taken: str) -> None:
        """One line with what was taken as what and what was left out, where there is something to say."""
        parts = [f"{count} {kind} ({self._examples[kind]})" for kind, count in self._counts.most_common()]
        words = [taken] * bool(taken) + [f"left out: {', '.join(parts)}"] * bool(parts)
        if words:
            tell(f"{self._folder}: {'; '.join(words)}")


def _find_split_folders(folder: Path) -> dict[str, Path]:
    """The folders that hold a split, by its name in ``_SPLIT_NAMES``."""
    found: dict[str, Path] = {}
    for split, names in _SPLIT_NAMES.items():
        places = [place for place in _list_subfolders(folder) if _reduce_name(place.name) in names]
        if len(places) > 1:
            raise SpotkdError(f"{folder}: has both {places[0].name}/ and {places[1].name}/; keep one of them")
        if places:
            found[split] = places[0]
    return found


def _reduce_name(name: str) -> str:
    """A split's name without what stands behind it: train for Training_Set or train-images."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    ending = next((end for end in _CONTENT_NAMES if letters.endswith(end)), "")
    return letters.removesuffix(ending)


def _enter_only_folder(folder: Path) -> Path:
    """The only folder in a folder, as archives have it, if that holds the splits or the classes."""
    inside = _list_subfolders(folder)
    if len(inside) == 1 and not _find_split_folders(folder) and len(_list_subfolders(inside[0])) > 1:
        return inside[0]
    return folder


def _read_splits(places: dict[str, Path], left_out: LeftOut) -> tuple[dict[str, LazySet], tuple[str, ...]]:
    """The splits by name, and the classes, which are those of the training images."""
    train, classes = _read_split(places["train"], left_out)
    read = {"train": train}
    for split, place in places.items():
        if split == "train":
            continue
        ignored = LeftOut(place)
        found = {folder.name for folder in _list_subfolders(place) if _list_images(folder, place, ignored)}
        if extra := sorted(found - set(classes)):
            lacking = sorted(set(classes) - found)
            parts = [f"lacks {_join_first(lacking)}"] * bool(lacking) + [f"alone has {_join_first(extra)}"]
            raise SpotkdError(
                f"{place}: its class folders are not those of {places['train']}: it {' and '.join(parts)}; give them "
                "the same names"
            )
        read[split], _ = _read_split(place, left_out, classes)
    return read, classes


def _read_split(
    folder: Path, left_out: LeftOut, classes: tuple[str, ...] | None = None
) -> tuple[LazySet, tuple[str, ...]]:
    """The images below the class folders in ``folder``, and the classes; where these are known, some may be empty."""
    places = _list_subfolders(folder) if classes is None else [folder / name for name in classes]
    if len(places) < 2:
        what = f"only one class folder ({places[0].name})" if places else "no class folders"
        raise SpotkdError(f"{folder}: {what} in it, and two classes are the least; {_EXPECTED_LAYOUT}")
    names = [_list_images(place, folder, left_out) for place in places]
    empty = [place for place, found in zip(places, names, strict=True) if not found]
    if empty and (classes is None or len(empty) == len(places)):
        raise SpotkdError(
            f"{empty[0]}: a class folder without pictures ({', '.join(sorted(EXTENSIONS))}); add some, or remove it "
            "together with those of its name in other splits"
        )
    if empty:
        tell(f"{folder}: has no pictures of {_join_first([place.name for place in empty])}")
    left_out.add_beside(folder, places)
    pictures = FolderImages(str(folder), np.array([os.fsencode(name) for found in names for name in found]))
    labels = torch.repeat_interleave(torch.arange(len(places)), torch.tensor([len(found) for found in names]))
    return LazySet(pictures, torch.arange(len(labels)), labels), tuple(place.name for place in places)


def _list_subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, but for hidden ones, those that systems make and links that lead back up."""
    try:
        home = folder.resolve()
        return sorted(
            place
            for place in folder.iterdir()
            if place.is_dir() and not place.name.startswith(".") and place.name not in _BY_SYSTEMS
            if not (place.is_symlink() and home.is_relative_to(place.resolve()))  # it would hold every picture
        )
    except OSError as error:
        raise SpotkdError(f"{folder}: cannot be read ({error.strerror})") from error


def _list_images(place: Path, root: Path, left_out: LeftOut) -> list[str]:
    """Paths relative to ``root`` of the pictures in a class folder and the folders in it, in a fixed order."""
    found: list[str] = []
    for count, (folder, folders, files) in enumerate(os.walk(place)):
        if count == _MOST_FOLDERS and not is_trusted():  # a stranger's file may name the whole disk
            raise SpotkdError(
                f"{place}: holds more than {_MOST_FOLDERS} folders, and a file names it; to read them, say --trust true"
            )
        for name in folders:
            if Path(folder, name).is_symlink():  # which may lead in circles
                left_out.add("linked folders", Path(folder, name))
            elif name.startswith("."):
                left_out.add("hidden folders", Path(folder, name))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            if is_image_file(name):
                found.append(f"{start}/{name}")
            else:
                kind = "hidden" if name.startswith(".") else Path(name).suffix.lower() or "other"
                left_out.add(f"{kind} files", Path(folder, name))
    return found


def _join_first(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
