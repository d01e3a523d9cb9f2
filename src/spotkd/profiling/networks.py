"""Size, arithmetic, speed and memory of networks."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..models import build_model
from ..stages import Shape
from ..statistics import MedianRange, median_range
from .timing import Call, interleaved


@dataclass(frozen=True)
class NetworkProfile:
    """One network, whole and in eval mode.

    Attributes:
        name: as on the command line.
        parameters: their number.
        flops: operations for one image, two a multiplication.
        one: milliseconds for one image.
        batch: milliseconds for a batch.
        activations: bytes of a batch's activations that are alive at once.
    """

    name: str
    parameters: int
    flops: int
    one: MedianRange
    batch: MedianRange
    activations: int


def measure_networks(
    names: Sequence[str], classes: int, shape: Shape, batch_size: int, rounds: int, device: torch.device
) -> list[NetworkProfile]:
    """Profiles of networks for ``classes`` classes, on random images ``(batch_size, *shape)``, all timed in turn."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, *shape, generator=generator).to(device, memory_format=torch.channels_last)
    networks: dict[str, nn.Module] = {}
    for name in names:
        model = build_model(name, classes, image_shape=shape).eval()
        networks[name] = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(name: str, some: Tensor) -> Call:
        return torch.inference_mode()(lambda: networks[name](some))

    calls = {(name, size): forward(name, images[:size]) for name in names for size in (1, batch_size)}
    times = interleaved(calls, rounds, device)
    return [
        NetworkProfile(
            name,
            count_parameters(networks[name]),
            count_flops(networks[name], images[:1]),
            median_range(times[name, 1]),
            median_range(times[name, batch_size]),
            activation_bytes(networks[name], images),
        )
        for name in names
    ]


def count_parameters(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: nn.Module, images: Tensor) -> int:
    """Additions and multiplications of convolutions and matrix products in a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


def activation_bytes(network: nn.Module, images: Tensor) -> int:
    """The most bytes of tensors made by a forward pass without a graph that are alive at once."""
    with torch.no_grad(), _LiveBytes([images, *network.parameters(), *network.buffers()]) as live:
        network(images)
    return int(live.most)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of the storages that operations make, from their making to their end."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in given}
        self._now, self.most = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)
        return result

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
