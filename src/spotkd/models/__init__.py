"""Networks by name, and the reading and writing of their weights.

:func:`create_model` makes a network of the zoo, of torchvision or timm, or one of yours, optionally with the weights of
a checkpoint. The file may be a safetensors file, a bare state dict, one under the key ``model`` as RepDistiller and
mdistiller write it (or ``state_dict``, ``model_state_dict``, ``net``), or a run folder of spotkd. Files from outside
are never unpickled freely: only tensors and plain containers are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..errors import SpotkdError
from ..stages import Shape, StagedModel
from ..staging import stage
from ..staging.outputs import give_logits
from . import mobilenet, resnet, shufflenet, vgg, wide_resnet  # noqa: F401  # fill the registry
from .pretrained import find_pretrained
from .sources import build
from .weights import WEIGHT_FILES, load_weights, read_metadata, save_weights
from .zoo import MODELS, describe

__all__ = ["MODELS", "WEIGHT_FILES", "build_model", "create_model", "describe", "load_weights", "save_weights"]


def build_model(
    name: str,
    num_classes: int,
    checkpoint: str | Path | None = None,
    image_shape: Shape = (3, 32, 32),
    *,
    checkpoint_key: str | None = None,
    replace_head: bool = False,
    output: str | int | None = None,
    pretrained: bool | str = False,
) -> nn.Module:
    """Make the network ``name``, whole: for training on labels and for evaluation, where no stages are needed.

    Arguments and errors are those of :func:`create_model`; a checkpoint of ours notes its ``output``.
    """
    model = _make(name, num_classes, checkpoint, image_shape, checkpoint_key, replace_head, pretrained)
    if output is None and checkpoint is not None:
        output = read_metadata(checkpoint).get("output")
    return model if output is None else give_logits(model, output)


def _make(
    name: str,
    num_classes: int,
    checkpoint: str | Path | None,
    image_shape: Shape,
    checkpoint_key: str | None,
    replace_head: bool,
    pretrained: bool | str,
) -> nn.Module:
    if pretrained and checkpoint is not None:
        raise SpotkdError(f"pretrained has no effect on {name}: its weights are those of {checkpoint}; leave one out")
    if pretrained:
        return find_pretrained(name, pretrained).load(num_classes, image_shape)
    model = build(name, num_classes, image_shape) if ":" in name else MODELS[name](num_classes)
    if checkpoint is not None:
        load_weights(model, checkpoint, name, key=checkpoint_key, replace_head=replace_head)
    elif checkpoint_key is not None or replace_head:
        raise SpotkdError(f"checkpoint_key and replace_head have no effect on {name}: no checkpoint is named")
    return model


def create_model(
    name: str,
    num_classes: int,
    checkpoint: str | Path | None = None,
    *,
    at: Sequence[str] | None = None,
    image_shape: Shape = (3, 32, 32),
    checkpoint_key: str | None = None,
    replace_head: bool = False,
    output: str | int | None = None,
    pretrained: bool | str = False,
) -> StagedModel:
    """Make the network ``name`` with ``num_classes`` logits, freshly initialised or with a checkpoint's weights.

    Args:
        name: a name of the zoo, such as ``resnet20`` (``spotkd.MODELS`` lists them), or ``torchvision:resnet50``,
            ``timm:mobilenetv3_small_100``, or ``python:my_module.my_function`` for a function that takes the number of
            classes and returns an ``nn.Module``.
        num_classes: number of logits.
        checkpoint: a weights file or a run folder; loaded strictly, key by key and shape by shape, but for a prefix
            that all keys have.
        at: for networks from outside the zoo, the modules after which a stage ends; None proposes some and prints
            them, see :func:`spotkd.stage`.
        image_shape: ``(C, H, W)`` of the images, for networks from outside the zoo.
        checkpoint_key: which weights of the checkpoint to take: ema for averaged ones, raw, a key of the file, or a
            prefix of its names; None takes the raw ones and tells of others.
        replace_head: keep a fresh classifier where the checkpoint's is of another size.
        output: where the logits are in what a network from outside the zoo gives, see :func:`spotkd.stage`; a
            checkpoint of ours notes it.
        pretrained: weights that torchvision or timm offer, by name or tag, with a fresh classifier where theirs is of
            another size; True for the library's default; they are fetched where they are not in its cache.

    Raises:
        SpotkdError: unknown name (with the near ones), missing or unreadable file, keys or shapes that do not fit, a
            network that cannot be cut there.
    """
    model = _make(name, num_classes, checkpoint, image_shape, checkpoint_key, replace_head, pretrained)
    if output is None and checkpoint is not None:
        output = read_metadata(checkpoint).get("output")
    if not isinstance(model, StagedModel):
        return stage(model, at, image_shape=image_shape, output=output)
    if output is not None:
        raise SpotkdError(f"output has no effect: {name} gives one tensor, its logits")
    if at is not None:
        raise SpotkdError(f"at has no effect: {name} comes with its stages, {', '.join(model.stage_names)}")
    return model
