"""``spotkd export``: a student's file, compared with the student before it is left on the disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..models.weights import find_weights
from ..options import ExportOptions
from .formats import FORMATS, Classifier, as_classifier
from .student import Student, load_student, named_data

TOLERANCE = 1e-4  # of a logit; of the largest one where that is above 1
BATCHES = (1, 3, 8)  # images at once, of each comparison


class ExportedFile(NamedTuple):
    """A written file, and its largest difference from the student's logits on random images."""

    path: Path
    difference: float
    images: int


def export(options: ExportOptions) -> ExportedFile:
    """Write the student of a run in another format.

    Raises:
        SpotkdError: nothing to export; the format's library is missing; a network that the format cannot hold; a file
            that already exists; or one whose logits are not the student's, of which nothing is left.
    """
    for option, given in (("card_only", options.card_only), ("license", options.license), ("private", options.private)):
        if given:
            raise SpotkdError(f"{option} has no effect without push_to_hub: leave it out or add --push-to-hub")
    student = load_student(options.run, options.model, named_data(options), options.trust)
    return write_student(student, options.format, _target_path(options), options.overwrite)


def _target_path(options: ExportOptions) -> Path:
    """Where the file goes."""
    suffix = FORMATS[options.format].suffix
    source = find_weights(options.run)
    path = source.with_suffix(suffix) if options.out is None else Path(options.out)
    if path.suffix != suffix:
        raise SpotkdError(f"out is {path}: a {options.format} file ends in {suffix}")
    if path.resolve() == source.resolve():
        raise SpotkdError(f"{path}: is the student itself; give another file with --out")
    return path


def write_student(student: Student, format_name: str, path: Path, overwrite: bool = False) -> ExportedFile:
    """Write a student, read it again and compare the two; on any error what was at ``path`` stays as it is.

    Raises:
        SpotkdError: see :func:`export`.
    """
    file_format = FORMATS[format_name]
    if path.exists() and not overwrite:
        raise SpotkdError(f"{path}: already exists; give another file with --out, or replace it: --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            made = Path(folder) / path.name
            try:
                file_format.write(student, made)
            except (SpotkdError, OSError):
                raise
            except Exception as error:  # whatever the exporter says of the network
                raise SpotkdError(
                    f"{student.metadata.model}: cannot be written as {format_name} "
                    f"({type(error).__name__}: {one_line(error)[:300]})"
                ) from error
            difference = compare_logits(student, file_format.read(made))
            with atomic_write(path) as temporary:
                made.replace(temporary)
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be written ({error.strerror or error})") from error
    return ExportedFile(path, difference, sum(BATCHES))


def compare_logits(student: Student, written: Classifier) -> float:
    """The largest difference between the logits of both, on random images in batches of several sizes.

    Raises:
        SpotkdError: it is above the tolerance, or the metadata differ.
    """
    if written.metadata != student.metadata:
        raise SpotkdError(f"{student.metadata.model}: the metadata in the written file are not the student's")
    generator = torch.Generator().manual_seed(0)
    preprocessing = student.metadata.preprocessing
    original = as_classifier(student).logits
    largest = 0.0
    for size in BATCHES:
        raw = torch.randint(256, (size, *preprocessing.image_shape), generator=generator, dtype=torch.uint8)
        images = preprocessing.normalise(raw)
        expected, found = original(images), written.logits(images)
        difference = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
        allowed = TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:  # so that NaN fails, too
            raise SpotkdError(
                f"{student.metadata.model}: the written file's logits differ from the student's by {difference:.2g} on "
                f"{size} images, and {allowed:.2g} is allowed; nothing was left"
            )
        largest = max(largest, difference)
    return largest
