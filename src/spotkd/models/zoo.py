"""The registry of networks that are known by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch

from ..registry import Registry
from ..stages import StagedModel

MODELS: Registry[Callable[[int], StagedModel]] = Registry("model")
CLASSES = 100  # for which parameters are counted, as papers do


def describe(name: str) -> str:
    """One line on a network: ``ResNet for CIFAR (He et al., CVPR 2016), depth 20, 0.28 M parameters with 100 classes``.

    It is made of the first line of the class's docstring, of the numbers that tell this network from others of its
    class, and of a count of parameters on the meta device, where a network takes neither memory nor random numbers.
    """
    entry = MODELS[name]
    maker, settings = entry, {}
    if isinstance(entry, partial):
        maker = entry.func
        settings = inspect.signature(maker).bind_partial(*entry.args, **entry.keywords).arguments
    what = (maker.__doc__ or name).strip().splitlines()[0].removesuffix(".")
    numbers = [f"{key} {value}" for key, value in settings.items() if isinstance(value, int | float)]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in entry(CLASSES).parameters())
    return ", ".join((what, *numbers, f"{count / 1e6:.2f} M parameters with {CLASSES} classes"))
