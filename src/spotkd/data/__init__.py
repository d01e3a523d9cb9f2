"""Data sets by name, and batches of them."""

from __future__ import annotations

from dataclasses import replace

from ..errors import SpotkdError
from ..registry import PYTHON, import_name
from . import cifar, folders, glyph94, hub, tiny_imagenet  # noqa: F401  # fills the registries
from .glyph94 import load_glyph94
from .images import DATASETS, SOURCES, Dataset, ImageSet, Pass, Split, augment, check_options, picked
from .lazy import LazySet
from .loader import Loader, prepare
from .preprocessing import Preprocessing, preprocessing_of, read_preprocessing
from .spec import DataSpec

__all__ = [
    "DATASETS",
    "SOURCES",
    "DataSpec",
    "Dataset",
    "ImageSet",
    "LazySet",
    "Loader",
    "Pass",
    "Preprocessing",
    "Split",
    "augment",
    "canonical",
    "load_data",
    "load_dataset",
    "load_glyph94",
    "picked",
    "prepare",
    "preprocessing_of",
    "read_preprocessing",
]

_ALIASES = {"cifar-10": "cifar10", "cifar-100": "cifar100", "tiny_imagenet": "tiny-imagenet"}  # other usual spellings


def canonical(name: str) -> str:
    """A data set's own name from other usual spellings of it: cifar100 for CIFAR-100."""
    low = name.lower()
    return _ALIASES.get(low, low if low in DATASETS else name)


def load_data(spec: DataSpec) -> Dataset:
    """The data set that a spec describes, limited and with its validation images held out.

    Raises:
        SpotkdError: an unknown name, missing or damaged files, an option that does not fit.
    """
    name = canonical(spec.name)
    source, colon, rest = name.partition(":")
    if name.startswith(PYTHON):
        data = _own(spec)
    elif colon:
        data = SOURCES[source](rest, spec)
    else:
        data = DATASETS[name](spec)
    if not spec.augment:
        data = replace(data, augment=False)
    return data.limited(spec.limit).holding_out(spec.val_share)


def load_dataset(name: str, **options: object) -> Dataset:
    """A data set by name: ``load_dataset("cifar100", root="data", val_share=0.1)``.

    Args:
        name: what ``--data`` takes: a name that ``spotkd data`` lists, ``folder:PATH``, ``hf:NAME`` or
            ``python:MODULE.FUNCTION``.
        options: the fields of :class:`DataSpec`.

    Raises:
        SpotkdError: as :func:`load_data`; or an unknown option.
    """
    try:
        spec = DataSpec(name, **options)  # type: ignore[arg-type]  # checked by the constructor
    except TypeError as error:
        raise SpotkdError(f"load_dataset: {error}") from error
    return load_data(spec)


def _own(spec: DataSpec) -> Dataset:
    """The data set that a function of the user's returns."""
    check_options(spec)
    make = import_name(spec.name.removeprefix(PYTHON))
    data = make() if callable(make) else make
    if not isinstance(data, Dataset):
        raise SpotkdError(f"{spec.name} gives a {type(data).__name__}, not a spotkd.Dataset")
    return data
