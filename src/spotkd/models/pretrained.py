"""Weights that torchvision and timm offer for their networks: from these libraries' caches, or fetched into them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import SpotkdError, one_line
from ..registry import unknown_name
from ..stages import Shape
from ..untrusted.names import is_looking
from .sources import build, import_library
from .weights import load_weights, read_state_dict


@dataclass(frozen=True)
class PretrainedWeights:
    """What is known of weights before they are fetched.

    Attributes:
        name: of network and weights, ``torchvision:resnet50 IMAGENET1K_V2``.
        classes: how many classes they tell apart.
        mean, std: of pixels in [0, 1], for each channel, with which they were trained.
        size: height and width of the images that they are made for.
        load: makes the network with them, for a number of classes and a shape of images.
    """

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    load: Callable[[int, Shape], nn.Module]


def find_pretrained(network: str, weights: bool | str) -> PretrainedWeights:
    """The weights of that name for a network of torchvision or timm; nothing is fetched yet.

    Args:
        network: ``torchvision:resnet50`` or ``timm:resnet50``.
        weights: their name or tag; True for the library's default.

    Raises:
        SpotkdError: a network from elsewhere, or an unknown name (with those that are known).
    """
    source, _, name = network.partition(":")
    if source not in ("torchvision", "timm"):
        raise SpotkdError(
            f"pretrained has no effect on {network}: torchvision: and timm: networks have such weights; a file of "
            "yours is named with checkpoint"
        )
    build(network, 1, None)  # an unknown network is told with the near ones
    return (_find_torchvision if source == "torchvision" else _find_timm)(name, weights)


def _find_torchvision(name: str, weights: bool | str) -> PretrainedWeights:
    known = import_library("torchvision").models.get_model_weights(name)
    if weights is not True and str(weights) not in known.__members__:
        raise unknown_name(f"weights of torchvision:{name}", str(weights), list(known.__members__))
    entry = known.DEFAULT if weights is True else known[str(weights)]
    seen = entry.transforms()
    title, classes = f"torchvision:{name}", len(entry.meta["categories"])

    def load(num_classes: int, image_shape: Shape) -> nn.Module:
        model = build(title, num_classes, image_shape)
        path = _fetch_url(title, entry.url)
        load_weights(model, path, title, replace_head=num_classes != classes)
        return model

    size = (seen.crop_size * 2)[:2]
    return PretrainedWeights(f"{title} {entry.name}", classes, tuple(seen.mean), tuple(seen.std), tuple(size), load)


def _find_timm(name: str, weights: bool | str) -> PretrainedWeights:
    timm = import_library("timm")
    network = name.partition(".")[0]
    tagged = name if weights is True else f"{network}.{weights}"
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{network}*") if full.partition(".")[0] == network]
    if tagged.partition(".")[2] not in ("", *tags):
        raise unknown_name(f"weights of timm:{network}", tagged.partition(".")[2], tags)
    known = timm.models.get_pretrained_cfg(tagged)
    if known is None or not known.hf_hub_id:
        raise SpotkdError(f"timm:{network}: there are no weights for it, leave pretrained out")

    def load(num_classes: int, image_shape: Shape) -> nn.Module:
        path = _fetch_from_hub(f"timm:{tagged}", known.hf_hub_id, known.hf_hub_filename)
        overlay = {"state_dict": read_state_dict(path).tensors}
        model: Any = build(f"timm:{tagged}", num_classes, image_shape, pretrained=True, pretrained_cfg_overlay=overlay)
        model.pretrained_cfg.pop("state_dict", None)  # or every copy of the network would hold them
        return model  # type: ignore[no-any-return]

    title = f"timm:{network} {known.tag}"
    return PretrainedWeights(title, known.num_classes, known.mean, known.std, known.input_size[1:], load)


def _fetch_url(title: str, url: str) -> Path:
    """The file of that address in torch.hub's cache, fetched if it is not there.

    Raises:
        SpotkdError: it is not there and cannot be fetched, or may not be.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if path.is_file():
        return path
    digest = re.search(r"-([a-f0-9]{8,})\.", name)
    reason = "nothing is fetched here"
    if not is_looking():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=sys.stderr.isatty())
            return path
        except (OSError, RuntimeError, ValueError) as error:
            reason = f"they cannot be fetched, {one_line(error)[:200]}"
    raise SpotkdError(f"{title}: its weights are not there ({reason}): put {url} there, as {path}")


def _fetch_from_hub(title: str, repository: str, name: str | None) -> Path:
    """A file of a repository of the Hugging Face Hub, in the Hub's own cache, fetched if it is not there.

    Raises:
        SpotkdError: it is not there and cannot be fetched, or may not be.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise SpotkdError("huggingface_hub is not installed: pip install 'spotkd[hub]'") from error
    usual = (hub.constants.SAFETENSORS_SINGLE_FILE, hub.constants.PYTORCH_WEIGHTS_NAME)
    names = usual if name is None else (name,)
    for candidate in names:
        found = hub.try_to_load_from_cache(repository, candidate)
        if isinstance(found, str):
            return Path(found)
    reason = "nothing is fetched here"
    if not is_looking():
        try:
            there = hub.list_repo_files(repository) if name is None else names
            return Path(hub.hf_hub_download(repository, next(file for file in names if file in there)))
        except Exception as error:  # of several libraries, for whatever is wrong with the network or the repository
            reason = f"they cannot be fetched, {one_line(error)[:200] or type(error).__name__}"
    raise SpotkdError(
        f"{title}: its weights are not there ({reason}): 'hf download {repository} {names[0]}' puts them into "
        f"{hub.constants.HF_HUB_CACHE}; or name a file of them with checkpoint, and replace_head"
    )
