"""``spotkd predict``: image files classified by a student in any format."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..data import DataSpec, Preprocessing
from ..data.image_files import is_image_file
from ..errors import SpotkdError, one_line
from ..escaping import escape_csv
from ..files import atomic_write, check_target
from ..models.weights import find_weights
from ..options import PredictOptions
from ..untrusted.images import decode_and_use, ignore_warnings, read_image_file
from .formats import FORMATS, Classifier, as_classifier
from .student import load_student, named_data


class Prediction(NamedTuple):
    """A picture's file, and its likeliest classes with their probabilities, the likeliest first."""

    file: str
    classes: tuple[tuple[str, float], ...]


def open_student(path: str, model: str | None = None, data: DataSpec | None = None, trust: bool = False) -> Classifier:
    """The student in a run folder, a weights file, an .onnx or a .pt2 file.

    Args:
        path: which.
        model: as in :func:`load_student`, for weights.
        data: likewise.
        trust: open a .pt2 file, which can run code: PyTorch evaluates expressions in it, and unpickles parts; and
            follow a model's name that stands for code.

    Raises:
        SpotkdError: no such file, a damaged one, or one that is not trusted.
    """
    suffix = Path(path).suffix
    if suffix not in (".onnx", ".pt2"):
        return as_classifier(load_student(path, model, data, trust))
    if not Path(path).is_file():
        raise SpotkdError(f"{path}: no such file; 'spotkd export' makes one")
    for option, value in (("model", model), ("data", data)):
        if value is not None:
            raise SpotkdError(f"{option} has no effect on {path}, which holds its own: leave it out")
    if suffix == ".pt2" and not trust:
        raise SpotkdError(f"{path}: opening a .pt2 file can run code that is in it; if you trust it, say --trust")
    return next(file_format.read(Path(path)) for file_format in FORMATS.values() if file_format.suffix == suffix)


def predict(options: PredictOptions, failed: Callable[[str], None]) -> Iterator[Prediction]:
    """Classify pictures, in the order given, those in a folder sorted.

    Args:
        options: the options.
        failed: called with one line about each picture that cannot be read; the others are classified.

    Raises:
        SpotkdError: no such student or picture; a student that cannot be run.
    """
    if options.batch_size < 1 or options.top < 1:
        raise SpotkdError(f"batch_size is {options.batch_size} and top {options.top}: both must be at least 1")
    files = find_images(options.images)
    check_target("csv", options.csv)
    if options.csv is not None:
        _check_target(Path(options.csv), [options.student, *files])
    student = open_student(options.student, options.model, named_data(options), options.trust)
    waiting = iter(files)
    while names := list(islice(waiting, options.batch_size)):
        images: dict[str, Tensor] = {}
        with ignore_warnings():
            for name in names:
                image = _load_pixels(name, student.metadata.preprocessing)
                if isinstance(image, SpotkdError):
                    failed(str(image))
                else:
                    images[name] = image
        if images:
            yield from classify(student, list(images), torch.stack(list(images.values())), options.top, options.student)


def _check_target(target: Path, read: Sequence[str]) -> None:
    """The table may not take the place of what is read.

    Raises:
        SpotkdError: it would.
    """
    sources = [Path(name) for name in read]
    sources += [find_weights(name) for name in sources[:1] if name.is_dir()]
    if any(target.exists() and source.exists() and target.samefile(source) for source in sources):
        raise SpotkdError(f"csv is {target}: that is the student or a picture; give another file")


def _load_pixels(name: str, preprocessing: Preprocessing) -> Tensor | SpotkdError:
    """A picture as the network's raw input, or why it is none."""
    try:
        return decode_and_use(name, read_image_file(Path(name)), preprocessing.to_pixels, preprocessing.white)
    except SpotkdError as error:
        return error


def classify(student: Classifier, names: Sequence[str], images: Tensor, top: int, path: str) -> Iterator[Prediction]:
    """The predictions for uint8 images ``(B, 1 or 3, H, W)``.

    Raises:
        SpotkdError: the student, ``path``, cannot be run on them or gives something else than logits.
    """
    try:
        logits = student.logits(student.metadata.preprocessing.normalise(images))
    except Exception as error:  # of whichever library runs it
        raise SpotkdError(f"{path}: cannot be run on its images ({one_line(error)[:300]})") from error
    if logits.shape != (len(names), len(student.metadata.classes)) or not logits.isfinite().all():
        raise SpotkdError(f"{path}: gives no finite logits for its {len(student.metadata.classes)} classes")
    best = logits.double().softmax(1).topk(min(top, logits.shape[1]))
    for name, labels, shares in zip(names, best.indices.tolist(), best.values.tolist(), strict=True):
        of_label = zip(labels, shares, strict=True)
        yield Prediction(name, tuple((student.metadata.classes[label], share) for label, share in of_label))


def save_predictions(predictions: Iterable[Prediction], path: str) -> Iterator[Prediction]:
    """The same predictions, and after the last one a CSV file of them: a row for each file and class.

    Raises:
        SpotkdError: it cannot be written.
    """
    try:
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("file", "rank", "class", "probability"))
            for prediction in predictions:
                for rank, (name, share) in enumerate(prediction.classes, 1):
                    writer.writerow((escape_csv(prediction.file), rank, escape_csv(name), f"{share:.6f}"))
                yield prediction
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be written ({error.strerror or error})") from error


def find_images(given: Sequence[str]) -> list[str]:
    """Files as they are given, and the pictures below the folders that are, each once.

    Raises:
        SpotkdError: no such file; a folder without pictures.
    """
    found: list[str] = []
    for name in given:
        if Path(name).is_file():
            found.append(name)
        elif Path(name).is_dir():
            inside = sorted(_image_files(Path(name)))
            if not inside:
                raise SpotkdError(f"{name}: no pictures in this folder")
            found += inside
        else:
            raise SpotkdError(f"{name}: no such picture or folder")
    return list(dict.fromkeys(found))


def _image_files(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(Path(folder, name)) for name in files if is_image_file(name))
