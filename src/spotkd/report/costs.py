"""What a network costs to store and to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data import Dataset
from ..models import build_model
from ..profiling import count_flops, count_parameters


@dataclass(frozen=True)
class NetworkCost:
    """Parameters, and floating point operations of one image's forward pass (two a multiplication)."""

    parameters: int
    flops: int


def network_cost(model: str, data: Dataset) -> NetworkCost:
    """Of the network of that name, for the images and classes of a data set."""
    network = build_model(model, len(data.classes), image_shape=data.image_shape).eval()
    return NetworkCost(count_parameters(network), count_flops(network, torch.zeros(1, *data.image_shape)))
