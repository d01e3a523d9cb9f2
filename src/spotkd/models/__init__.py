"""The zoo: networks by name, and the reading and writing of their weights.

:func:`create_model` makes a network, optionally with the weights of a checkpoint. The file may be a safetensors
file, a bare state dict, the ``{"model": state_dict}`` layout of RepDistiller, or a run folder of spotkd. Files from
outside are never unpickled freely: only tensors and plain containers are read.
"""

from __future__ import annotations

from pathlib import Path

from ..stages import StagedModel
from . import resnet  # noqa: F401  # fills the registry
from .weights import WEIGHT_FILES, load_weights, save_weights
from .zoo import MODELS

__all__ = ["MODELS", "WEIGHT_FILES", "create_model", "load_weights", "save_weights"]


def create_model(name: str, num_classes: int, checkpoint: str | Path | None = None) -> StagedModel:
    """Make the network ``name`` with ``num_classes`` logits, freshly initialised or with a checkpoint's weights.

    Args:
        name: a name of the zoo, such as ``resnet20``; ``spotkd.MODELS`` lists them.
        num_classes: number of logits.
        checkpoint: a weights file or a run folder; loaded strictly, key by key and shape by shape.

    Raises:
        SpotkdError: unknown name (with the near ones), missing or unreadable file, keys or shapes that do not fit.
    """
    model = MODELS[name](num_classes)
    if checkpoint is not None:
        load_weights(model, checkpoint, name)
    return model
