"""Several processes that train together: whether this is one of them, and how they find each other and part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from ..errors import SpotkdError
from .device import make_fabric


class PeerLostError(SpotkdError):
    """Another process has gone, and this one cannot continue without it: an echo of what happened there."""


class UnwrappedDDP(DDPStrategy):
    """Fabric's devices and process group for DDP, without its wrapper around the method.

    Gradients are averaged in one go after the backward pass. The wrapper would overlap the two, but broadcast CRD's
    memories at every step or leave BatchNorm's statistics apart, and stop at a part of a network that gets no gradient
    or walk through the graph to find it.
    """

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module


def launched_processes() -> int:
    """How many processes were launched together with this one, by ``--devices`` or by torchrun; 1 if it is alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def connect(accelerator: str, precision: str) -> Fabric:
    """This process's device; where several were launched together, it finds the others.

    Raises:
        SpotkdError: there is no such device, or the processes do not find each other.
    """
    processes = launched_processes()
    if processes == 1:
        return make_fabric(accelerator, precision)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    plugins = None if dist.is_torchelastic_launched() else [LightningEnvironment()]
    nodes = {"devices": here, "num_nodes": processes // here}
    fabric = make_fabric(accelerator, precision, strategy=UnwrappedDDP(), plugins=plugins, **nodes)
    try:
        fabric.launch()
    except RuntimeError as error:
        raise SpotkdError(f"devices is {processes}: the processes do not find each other ({error})") from error
    return fabric


@contextmanager
def leaving_process_group() -> Iterator[None]:
    """Leaves the group at the end of the block, so that no process waits for one that has gone.

    Raises:
        PeerLostError: another process has gone while the block ran.
    """
    ended_well = False
    try:
        yield
        ended_well = True
    except RuntimeError as error:
        if dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise PeerLostError("another process of this run has gone; this one cannot continue without it") from error
        raise
    finally:
        # Left alone, gloo's threads end some failing processes with SIGABRT; NCCL may wait here for those gone.
        if dist.is_initialized() and (ended_well or dist.get_backend() == "gloo"):
            dist.destroy_process_group()
