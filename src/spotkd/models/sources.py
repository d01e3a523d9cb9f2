"""Networks from elsewhere: ``torchvision:resnet50``, ``timm:mobilenetv3_small_100``, ``python:my_module.build``.

The libraries are imported only when one of their networks is asked for; none of them loads pretrained weights here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import SpotkdError, one_line
from ..registry import PYTHON, Registry, import_name, unknown_name
from ..stages import Shape
from ..untrusted.names import check_name, is_looking

MAX_NETWORK_BYTES = 1 << 30  # of a network that a stranger's file names
_SOURCES: Registry[Callable[..., nn.Module]] = Registry("source of models")


def build(name: str, num_classes: int, image_shape: Shape | None, **settings: Any) -> nn.Module:
    """Make the network ``source:name`` with ``num_classes`` logits, freshly initialised.

    Args:
        name: ``torchvision:`` or ``timm:`` and a name of that library, or ``python:module.function``: the function
            takes the number of classes and returns an ``nn.Module``; its module may lie in the working directory.
        num_classes: number of logits.
        image_shape: ``(C, H, W)``, for networks that are built for one size, such as vision transformers.
        settings: further ones for timm's ``create_model``.

    Raises:
        SpotkdError: unknown source or name (with the near ones), a library that is not installed, or an error of the
            function or the library.
    """
    source, _, rest = name.partition(":")
    make = _SOURCES[source]
    if is_looking() and source != "python" and not _is_small(partial(make, rest, num_classes, image_shape)):
        check_name(name)  # a network of a stranger's choice may be of any size
    return make(rest, num_classes, image_shape, **settings)


def _is_small(make: Callable[[], nn.Module]) -> bool:
    """Whether a network is known to take little memory: it is made once without any."""
    try:
        with torch.device("meta"):
            network = make()
    except SpotkdError as error:
        if error.__cause__ is None:  # an unknown name
            raise
        return False  # some look at numbers, which are not there
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())) <= MAX_NETWORK_BYTES


def import_library(name: str) -> Any:
    """torchvision or timm, imported when it is needed.

    Raises:
        SpotkdError: it is missing or broken; the message names what installs it.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in ("torchvision", "timm"):  # timm needs torchvision
            raise SpotkdError(f"{error.name} is not installed: pip install 'spotkd[vision]'") from error
        raise SpotkdError(
            f"{name} is installed but cannot be imported ({one_line(error)[:200]}): install builds of torch and "
            "torchvision that belong together"
        ) from error


def _call(name: str, make: Callable[..., Any], *args: Any, **settings: Any) -> nn.Module:
    """What ``make`` returns, if it is a network; an error of it becomes one line."""
    try:
        model = make(*args, **settings)
    except Exception as error:
        raise SpotkdError(f"{name} cannot be made ({type(error).__name__}: {one_line(error)[:300]})") from error
    if not isinstance(model, nn.Module):
        raise SpotkdError(f"{name} gives a {type(model).__name__}, not an nn.Module")
    return model


def _unknown(library: str, name: str, known: list[str]) -> SpotkdError:
    if get_close_matches(name, known):
        return unknown_name(f"{library} model", name, known)
    return SpotkdError(f"unknown {library} model '{name}': {library}'s list_models() gives the {len(known)} it knows")


@_SOURCES.register("torchvision")
def _torchvision(name: str, num_classes: int, image_shape: Shape | None) -> nn.Module:
    models = import_library("torchvision").models
    known = models.list_models(module=models)  # those that classify images
    if name not in known:
        raise _unknown("torchvision", name, known)
    settings: dict[str, Any] = {"num_classes": num_classes, "weights": None}
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}  # one output in train mode, too
    if image_shape is not None and name.startswith("vit_"):
        settings["image_size"] = image_shape[-1]
    if image_shape is not None and name.startswith("maxvit_"):
        settings["input_size"] = image_shape[-2:]
    return _call(f"torchvision:{name}", models.get_model, name, **settings)


@_SOURCES.register("timm")
def _timm(name: str, num_classes: int, image_shape: Shape | None, **more: Any) -> nn.Module:
    timm = import_library("timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    settings: dict[str, Any] = {"num_classes": num_classes, "pretrained": False} | more
    if image_shape is None:
        return _call(f"timm:{name}", timm.create_model, name, **settings)
    settings["in_chans"] = image_shape[0]

    def make(name: str, **settings: Any) -> Any:
        try:
            model = timm.create_model(name, img_size=image_shape[-2:], **settings)
            if getattr(model, "dynamic_img_size", False):  # made for this size, it need not look at that of each batch
                model = timm.create_model(name, img_size=image_shape[-2:], dynamic_img_size=False, **settings)
            return model
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        return timm.create_model(name, **settings)  # a network for any size does not take one

    return _call(f"timm:{name}", make, name, **settings)


@_SOURCES.register("python")
def _python(path: str, num_classes: int, image_shape: Shape | None) -> nn.Module:
    make = import_name(path)
    if not callable(make):
        raise SpotkdError(f"{PYTHON}{path} is a {type(make).__name__}, not a function of the number of classes")
    return _call(f"{PYTHON}{path}", make, num_classes)
