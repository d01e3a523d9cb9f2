"""Several processes compute one batch: which samples are this process's shard, and the collectives between them.

Every process draws the random numbers of the whole batch and keeps those of its own samples. So all processes stay at
the same place of one stream, and how a batch is split changes no decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_MIN_SAMPLES = 2  # of a process in training: BatchNorm cannot compute the variance of one


class Shard(NamedTuple):
    """Samples ``start`` to ``stop - 1`` of a batch of ``total``: what one of several processes computes.

    Attributes:
        start: index of its first sample.
        stop: index after its last sample.
        total: samples of the whole batch.
        processes: how many processes compute the batch together.
        seed: seed of the random numbers that a network draws for itself, such as dropout's.
    """

    start: int
    stop: int
    total: int
    processes: int = 1
    seed: int = 0

    @classmethod
    def of(cls, total: int, rank: int = 0, processes: int = 1, training: bool = True, seed: int = 0) -> Shard:
        """The shard of process ``rank``: consecutive samples in the order of the ranks; the first shards have one more.

        In training a batch with fewer than two samples for each process is not split: every process computes all of
        it, and the mean of their gradients is the gradient of that batch.
        """
        if training and total < _MIN_SAMPLES * processes:
            return cls(0, total, total, processes, seed)
        each, more = divmod(total, processes)
        start = rank * each + min(rank, more)
        return cls(start, start + each + (rank < more), total, processes, seed)

    @property
    def is_split(self) -> bool:
        """Whether the processes have different samples."""
        return self.stop - self.start < self.total

    @property
    def effective_size(self) -> float:
        """How many samples this shard counts for: over all processes these sum to ``total``."""
        return self.stop - self.start if self.is_split else self.total / self.processes

    @property
    def loss_weight(self) -> float:
        """Factor of this shard's mean loss that makes the mean over the processes the mean over the samples."""
        return self.effective_size * self.processes / self.total


_WHOLE = Shard(0, 1, 1)
_current: ContextVar[Shard] = ContextVar("shard", default=_WHOLE)


@contextmanager
def use_shard(shard: Shard) -> Iterator[Shard]:
    """Within this context the functions below work on ``shard``; outside of it, on a whole batch."""
    token = _current.set(shard)
    try:
        yield shard
    finally:
        _current.reset(token)


def uniform(*shape: int, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.rand`` with one row for each sample of the current shard, taken from the rows of the whole batch.

    Args:
        shape: the shard's number of samples, then the shape of a row.
        device: of the result.
        dtype: of the result; None takes PyTorch's default.
    """
    shard = _current.get()
    if not shard.is_split:
        return torch.rand(*shape, device=device, dtype=dtype)
    return torch.rand(shard.total, *shape[1:], device=device, dtype=dtype)[shard.start : shard.stop]


@contextmanager
def per_rank_generator(device: torch.device) -> Iterator[None]:
    """Within this context random numbers come from this process's own seed; the common stream does not advance.

    For what a network draws for itself, which may differ in amount from process to process. With one process the
    common stream is used.
    """
    shard = _current.get()
    if shard.processes == 1:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(shard.seed)
        yield


def is_sharded(x: Tensor) -> bool:
    """Whether each process has a share of it; asked of a ``DTensor``'s method, as importing that takes a second."""
    return hasattr(x, "full_tensor")


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over the processes of what each computed from its own samples; without gradient."""
    if not _current.get().is_split:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def current_shard() -> Shard:
    """What this process computes of the batch."""
    return _current.get()


def shard_share() -> float:
    """The share of the batch that is this process's; 1 where it computes all of it."""
    shard = _current.get()
    return shard.effective_size / shard.total if shard.is_split else 1.0


def all_reduce_mean(x: Tensor) -> Tensor:
    """The mean over the samples of the batch, from each process's mean over its own samples; without gradient."""
    shard = _current.get()
    return all_reduce_sum(x * (shard.effective_size / shard.total)) if shard.is_split else x


def all_gather(x: Tensor) -> Tensor:
    """The rows ``(total, ...)`` of all samples of the batch, from each process's own ``(B, ...)``; with gradient.

    Where every process computes the same loss from them, the mean of the processes' gradients is that loss's gradient.
    """
    shard = _current.get()
    if not shard.is_split:
        return x
    rows: Tensor = _AllGather.apply(x, shard)  # type: ignore[no-untyped-call]
    return rows


def own_rows(x: Tensor) -> Tensor:
    """This process's rows ``(B, ...)`` of what was computed for all samples ``(total, ...)``."""
    shard = _current.get()
    return x[shard.start : shard.stop] if shard.is_split else x


@contextmanager
def whole_batch() -> Iterator[None]:
    """Within this context the batch counts as whole: for what is computed from gathered rows."""
    with use_shard(_WHOLE):
        yield


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        shards = [Shard.of(shard.total, rank, shard.processes) for rank in range(shard.processes)]
        sizes = [each.stop - each.start for each in shards]
        sent = x.new_zeros(max(sizes), *x.shape[1:])  # every process must send the same number of rows
        sent[: len(x)] = x
        received = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(received, sent)
        return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[ctx.shard.start : ctx.shard.stop], None
