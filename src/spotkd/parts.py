"""Several processes at one batch: which samples are this one's, and how the processes act as one.

Every process draws the random numbers of the whole batch and keeps those of its own samples. So they all stay at the
same place of one stream, and how a batch is parted changes no decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_LEAST = 2  # samples of a process in training: BatchNorm knows no variance of one


class Part(NamedTuple):
    """Samples ``start`` to ``stop - 1`` of a batch of ``total``: what one of several processes computes.

    Attributes:
        start: its first sample.
        stop: the one after its last.
        total: samples of the batch.
        processes: how many compute it together.
        noise: seed of the random numbers that a network draws for itself, such as dropout's.
    """

    start: int
    stop: int
    total: int
    processes: int = 1
    noise: int = 0

    @classmethod
    def of(cls, total: int, rank: int = 0, processes: int = 1, training: bool = True, noise: int = 0) -> Part:
        """The part of process ``rank``: neighbouring samples, in the order of the ranks, the first ones one more.

        In training a batch with fewer than two samples for each process is not parted: every process computes all of
        it, and the mean of their gradients is the gradient of that batch.
        """
        if training and total < _LEAST * processes:
            return cls(0, total, total, processes, noise)
        each, more = divmod(total, processes)
        start = rank * each + min(rank, more)
        return cls(start, start + each + (rank < more), total, processes, noise)

    @property
    def parted(self) -> bool:
        """Whether the processes have different samples."""
        return self.stop - self.start < self.total

    @property
    def counted(self) -> float:
        """Its samples as they count in a sum over the processes, which is to be ``total``."""
        return self.stop - self.start if self.parted else self.total / self.processes

    @property
    def weight(self) -> float:
        """What its mean loss is multiplied by, so that the mean over the processes is the mean over the samples."""
        return self.counted * self.processes / self.total


_WHOLE = Part(0, 1, 1)
_current: ContextVar[Part] = ContextVar("part", default=_WHOLE)


@contextmanager
def working_on(part: Part) -> Iterator[Part]:
    """While this lasts, the functions below speak of the samples of this part; otherwise of a whole batch."""
    token = _current.set(part)
    try:
        yield part
    finally:
        _current.reset(token)


def uniform(*shape: int, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.rand`` with a row for each sample of this part, out of the rows of the whole batch."""
    part = _current.get()
    if not part.parted:
        return torch.rand(*shape, device=device, dtype=dtype)
    return torch.rand(part.total, *shape[1:], device=device, dtype=dtype)[part.start : part.stop]


@contextmanager
def own_noise(device: torch.device) -> Iterator[None]:
    """While this lasts, random numbers are this process's own, and the common stream stays where it is.

    For what a network draws for itself, which may differ in amount from process to process.
    """
    part = _current.get()
    if part.processes == 1:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(part.noise)
        yield


def summed(x: Tensor) -> Tensor:
    """The sum over the processes of what each has from its own samples; without gradient."""
    if not _current.get().parted:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def averaged(x: Tensor) -> Tensor:
    """The mean over the samples of the batch, from each process's mean over its own; without gradient."""
    part = _current.get()
    return summed(x * (part.counted / part.total)) if part.parted else x


def gathered(x: Tensor) -> Tensor:
    """The rows of all samples of the batch, from each process's own ``(B, ...)``.

    Where every process computes the same loss from them, the mean of the processes' gradients is that loss's gradient.
    """
    part = _current.get()
    if not part.parted:
        return x
    rows: Tensor = _Gathered.apply(x, part)  # type: ignore[no-untyped-call]
    return rows


@contextmanager
def gathering() -> Iterator[None]:
    """While this lasts, the batch counts as whole: for what is computed from gathered rows."""
    with working_on(_WHOLE):
        yield


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Part) -> Tensor:
        ctx.part = part
        parts = [Part.of(part.total, rank, part.processes) for rank in range(part.processes)]
        sizes = [each.stop - each.start for each in parts]
        sent = x.new_zeros(max(sizes), *x.shape[1:])  # all send equally much
        sent[: len(x)] = x
        received = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(received, sent)
        return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[ctx.part.start : ctx.part.stop], None
