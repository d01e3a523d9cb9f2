"""Collective operations over the processes of a run; without effect where there is one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed import Shard, is_sharded


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of what each process has; what this one has where it is alone."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def broadcast_state(method: nn.Module) -> None:
    """Copy the first process's parameters and buffers to all others."""
    if dist.is_initialized():
        for name, tensor in method.state_dict().items():
            # What is no tensor of the device is the same everywhere, and so are weights of which each has a share.
            if not name.endswith("_extra_state") and not is_sharded(tensor):
                dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their mean over the processes, after a backward pass."""
    average_tensors(p.grad for p in parameters if p.grad is not None)


def average_tensors(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their mean over the processes."""
    if dist.is_initialized():
        _average(list(tensors), 1 / dist.get_world_size())


def average_statistics(method: nn.Module, shard: Shard) -> None:
    """Replace BatchNorm's running statistics by their mean over the samples of all processes, after a step.

    Each process normalised with the statistics of its own samples and moved the running ones by them. Afterwards these
    are the same everywhere, so the state of a run does not depend on how many processes there are.
    """
    if shard.processes > 1:
        norms = [m for m in method.modules() if isinstance(m, _BatchNorm) and m.training]
        statistics = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        _average(statistics, shard.effective_size / shard.total)


@torch.no_grad()
def _average(tensors: Sequence[Tensor], weight: float) -> None:
    if tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors]) * weight
        dist.all_reduce(flat)
        values = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value.view_as(tensor))


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def merge_rows(values: Tensor, known: Tensor) -> None:
    """Give the first process the rows that any process knows, bit for bit; what the others have is lost.

    Args:
        values: ``(N, ...)``.
        known: ``(N,)`` bool, which rows this process knows.
    """
    if not dist.is_initialized():
        return
    mine = dist.get_rank() + 1
    owners = known.to(torch.int32) * mine
    dist.all_reduce(owners, dist.ReduceOp.MAX)  # a row that several know may differ in its last bits
    values[owners != mine] = 0
    order = sorted(range(values.dim()), key=values.stride, reverse=True)
    dist.reduce(values.permute(order).view(torch.uint8), 0, dist.ReduceOp.MAX)
    known.copy_(owners > 0)
