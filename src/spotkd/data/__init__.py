"""Data sets by name, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..deprecation import warn_renamed
from ..errors import SpotkdError, one_line
from ..registry import PYTHON, import_name
from ..untrusted.names import is_looking
from . import cifar, folders, glyph94, hub, tiny_imagenet  # noqa: F401  # fills the registries
from .augmentation import NO_AUGMENTATION, Augmentation, augment
from .glyph94 import load_glyph94
from .images import DATASETS, SOURCES, Dataset, EpochSpec, ImageSet, Split, reject_unused
from .lazy import LazySet
from .loader import Loader, count_batches, normalise, pick_images
from .measuring import measure_normalisation
from .mixing import Mixing
from .optional import import_optional
from .preprocessing import Preprocessing, make_preprocessing, read_preprocessing
from .spec import DataSpec

__all__ = [
    "DATASETS",
    "SOURCES",
    "Augmentation",
    "DataSpec",
    "Dataset",
    "EpochSpec",
    "ImageSet",
    "LazySet",
    "Loader",
    "Mixing",
    "Preprocessing",
    "Split",
    "augment",
    "count_batches",
    "load_data",
    "load_dataset",
    "load_glyph94",
    "make_preprocessing",
    "measure_normalisation",
    "normalise",
    "normalised_with",
    "pick_images",
    "read_preprocessing",
    "resolve_name",
]

_ALIASES = {"cifar-10": "cifar10", "cifar-100": "cifar100", "tiny_imagenet": "tiny-imagenet"}  # other usual spellings


_FORMER_NAMES = {
    "Pass": "EpochSpec",
    "canonical": "resolve_name",
    "picked": "pick_images",
    "prepare": "normalise",
    "preprocessing_of": "make_preprocessing",
}

if not TYPE_CHECKING:  # type checkers should report the former names

    def __getattr__(name: str) -> object:
        if name not in _FORMER_NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warn_renamed(f"{__name__}.{name}", _FORMER_NAMES[name])
        return globals()[_FORMER_NAMES[name]]


def resolve_name(name: str) -> str:
    """A data set's own name from other usual spellings of it: cifar100 for CIFAR-100."""
    low = name.lower()
    return _ALIASES.get(low, low if low in DATASETS else name)


def load_data(spec: DataSpec) -> Dataset:
    """The data set that a spec describes, limited and with its validation images held out.

    Raises:
        SpotkdError: an unknown name, missing or damaged files, an option that does not fit.
    """
    if is_looking():
        spec = replace(spec, download=False, mirror=None)
    name = resolve_name(spec.name)
    source, colon, rest = name.partition(":")
    if name.startswith(PYTHON):
        data = _load_from_python(spec)
    elif colon:
        data = SOURCES[source](rest, spec)
    elif name not in DATASETS and Path(spec.name).expanduser().is_dir():
        raise SpotkdError(f"unknown data set '{spec.name}', which is a folder: write folder:{spec.name}")
    else:
        data = DATASETS[name](spec)
    if not spec.augment:
        data = replace(data, augment=False)
    if not spec.flip:
        data = replace(data, flip=False)
    data = _augment_more(data, spec)
    data = normalised_with(data, spec.mean, spec.std).limited(spec.limit).hold_out(spec.val_share)
    if not spec.conceal_test:
        return data
    if data.val is None:
        raise SpotkdError(
            f"data.conceal_test: {data.name} has no validation images; hold some out: --data.val_share 0.2"
        )
    return replace(data, test=data.val)


def _augment_more(data: Dataset, spec: DataSpec) -> Dataset:
    """The data set with torchvision's augmentations, where they are asked for.

    Raises:
        SpotkdError: nothing is augmented, or torchvision is missing or broken.
    """
    chosen = Augmentation(spec.crop_area, spec.randaugment, spec.jitter)
    if chosen == NO_AUGMENTATION:
        return data
    if not spec.augment:
        raise SpotkdError("data.augment is false, and so crop_area, randaugment and jitter do nothing: leave them out")
    import_optional("torchvision.transforms.v2", "vision")
    padding = 0 if spec.crop_area else data.padding  # one kind of crop is enough
    return replace(data, padding=padding, augmentation=chosen)


def normalised_with(data: Dataset, mean: Sequence[float] | None, std: Sequence[float] | None) -> Dataset:
    """The data set with another mean and deviation of its pixels; grey images get the average of the channels'.

    Raises:
        SpotkdError: numbers that cannot be a mean or a deviation of pixels in [0, 1].
    """
    if mean is None and std is None:
        return data
    chosen = {"mean": mean or data.mean, "std": std or data.std}
    for key, numbers in chosen.items():
        least = 1e-6 if key == "std" else 0.0
        if len(numbers) not in (1, 3) or not all(least <= number <= 1 for number in numbers):
            raise SpotkdError(f"data.{key} is {list(numbers)}: give one number or three, of pixels in [0, 1]")
    if isinstance(data.train, ImageSet) and data.train.images.shape[1] == 1:
        chosen = {key: (sum(numbers) / len(numbers),) for key, numbers in chosen.items()}
    return replace(
        data, mean=tuple(chosen["mean"]), std=tuple(chosen["std"]), borrowed=data.borrowed and None in (mean, std)
    )


def load_dataset(name: str, **options: object) -> Dataset:
    """A data set by name: ``load_dataset("cifar100", root="data", val_share=0.1)``.

    Args:
        name: what ``--data`` takes: a name that ``spotkd data`` lists, ``folder:PATH``, ``hf:NAME`` or
            ``python:MODULE.FUNCTION``.
        options: the fields of :class:`DataSpec`. Without ``mean`` and ``std``, those of the training images of a folder
            or the Hub are measured, see :func:`measure_normalisation`.

    Raises:
        SpotkdError: as :func:`load_data`; or an unknown option.
    """
    try:
        spec = DataSpec(name, **options)  # type: ignore[arg-type]  # checked by the constructor
    except TypeError as error:
        raise SpotkdError(f"load_dataset: {error}") from error
    return measure_normalisation(load_data(spec))


def _load_from_python(spec: DataSpec) -> Dataset:
    """The data set that a function of the user's returns."""
    reject_unused(spec)
    make = import_name(spec.name.removeprefix(PYTHON))
    try:
        data = make() if callable(make) else make
    except SpotkdError:
        raise
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {one_line(error)[:300]}"
        raise SpotkdError(f"{spec.name} cannot be made ({reason})") from error
    if not isinstance(data, Dataset):
        raise SpotkdError(f"{spec.name} gives a {type(data).__name__}, not a spotkd.Dataset")
    return data
