"""The commands that list what can be named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import SpotkdError

_SOURCE_OF = {"folder": "PATH", "hf": "NAME"}  # what follows the colon


def _data() -> None:
    from ..data import DATASETS, SOURCES

    for name in DATASETS:
        print(f"{name:<16} {_first_line(DATASETS[name])}")
    for name, what in (
        *((f"{source}:{_SOURCE_OF[source]}", _first_line(SOURCES[source])) for source in SOURCES),
        ("python:MODULE.F", "one of yours: F() returns a spotkd.Dataset"),
    ):
        print(f"{name:<16} {what}")


def _distillers() -> None:
    from ..distillers import DISTILLERS, accepted_features

    for name in DISTILLERS:
        entry: Any = DISTILLERS[name]
        takes = accepted_features(entry)
        print(f"{name:<13} {_first_line(sys.modules[entry.__module__])} Takes {takes}.")


def _models() -> None:
    from ..models import MODELS, describe

    for name in MODELS:
        print(f"{name:<16} {describe(name)}")
    for name, what in (
        ("torchvision:NAME", "a network of torchvision, such as torchvision:resnet50 (pip install 'spotkd[vision]')"),
        ("timm:NAME", "a network of timm, such as timm:mobilenetv3_small_100 (pip install 'spotkd[vision]')"),
        ("python:MODULE.F", "one of yours: F(number of classes) returns an nn.Module"),
    ):
        print(f"{name:<16} {what}")


def _strategies() -> None:
    from ..routing import STRATEGIES

    for name in STRATEGIES:
        print(f"{name:<9} {_first_line(STRATEGIES[name])}")


def _first_line(entry: object) -> str:
    return (entry.__doc__ or "(not described)").strip().splitlines()[0]


def list_recipes(arguments: Sequence[str]) -> None:
    """``spotkd recipes`` and ``spotkd recipes show NAME [options]``."""
    from ..recipes import as_yaml, describe, parse, recipe_names
    from .arguments import read

    if not arguments:
        for name in recipe_names():
            print(f"{name:<44} {describe(name)}")
    elif arguments[0] == "show" and len(arguments) > 1 and not arguments[1].startswith("--"):
        command = "distill" if parse(arguments[1]).distiller else "train"
        print(as_yaml(read(command, arguments[2:], arguments[1])), end="")
    else:
        raise SpotkdError("write 'spotkd recipes' for the list, or 'spotkd recipes show NAME [options]'")


LISTS: dict[str, tuple[Callable[[], None], str]] = {
    "distillers": (_distillers, "what can be distilled, a line each"),
    "strategies": (_strategies, "who decides where, a line each"),
    "models": (_models, "the networks known by name, a line each"),
    "data": (_data, "the data sets known by name, a line each"),
    "recipes": (lambda: list_recipes(()), "the paper's experiments by name; 'recipes show NAME' prints one in full"),
}
