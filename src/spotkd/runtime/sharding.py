"""A network that never changes, with each process of a run keeping a share of its weights."""

from __future__ import annotations

import torch
from torch import nn


def shard_network(network: nn.Module, device: torch.device, processes: int) -> None:
    """Leave each process with its share of the parameters, by PyTorch's FSDP2; ``state_dict()`` has ``DTensor`` then.

    Every module with parameters of its own gathers them for its own pass and drops them again: a chain of stages is
    run in pieces, so there is no pass of the whole network to do it around. All processes must run the same modules in
    the same order.

    Args:
        network: whose parameters need no gradient; every module that has any must be called to be run.
        device: of this process.
        processes: how many there are.
    """
    from torch.distributed.device_mesh import init_device_mesh  # slow to import, and needed by few runs
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 knows no other layout
    for module in [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]:
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        sharded.unshard()  # or an evaluation would make the memory for it, which training could not use
        sharded.reshard()
