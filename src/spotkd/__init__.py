"""spotkd: spot-adaptive knowledge distillation for PyTorch.

    from spotkd import SpotKD, create_model

The names below are imported when they are first used, so that ``spotkd --help`` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compiling import compile_method
    from .data import DATASETS, Dataset, Loader, load_dataset, load_glyph94
    from .distillers import DISTILLERS, Distiller
    from .errors import SpotkdError
    from .folding import fold_batchnorm
    from .method import Losses, SpotKD, Supervised
    from .models import MODELS, create_model
    from .routing import STRATEGIES, Decisions, Strategy
    from .runs.folder import RunFolder
    from .stages import Batch, StagedModel
    from .staging import stage

__version__ = version("spotkd")

_HOME = {
    "compiling": ("compile_method",),
    "data": ("DATASETS", "Dataset", "Loader", "load_dataset", "load_glyph94"),
    "distillers": ("DISTILLERS", "Distiller"),
    "errors": ("SpotkdError",),
    "folding": ("fold_batchnorm",),
    "method": ("Losses", "SpotKD", "Supervised"),
    "models": ("MODELS", "create_model"),
    "routing": ("STRATEGIES", "Decisions", "Strategy"),
    "runs.folder": ("RunFolder",),
    "stages": ("Batch", "StagedModel"),
    "staging": ("stage",),
}

__all__ = [
    "DATASETS",
    "DISTILLERS",
    "MODELS",
    "STRATEGIES",
    "Batch",
    "Dataset",
    "Decisions",
    "Distiller",
    "Loader",
    "Losses",
    "RunFolder",
    "SpotKD",
    "SpotkdError",
    "StagedModel",
    "Strategy",
    "Supervised",
    "compile_method",
    "create_model",
    "fold_batchnorm",
    "load_dataset",
    "load_glyph94",
    "stage",
]


_RENAMED = {"compiled": "compile_method", "folded": "fold_batchnorm"}  # former names, for one more release


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        from .deprecation import warn_renamed

        warn_renamed(f"spotkd.{name}", f"spotkd.{_RENAMED[name]}")
        name = _RENAMED[name]
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module 'spotkd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
