"""The outputs of a network that never changes, computed once for every sample and looked up from then on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .errors import SpotkdError
from .stages import Shape, StageOutputs

Rows = tuple[Tensor, Tensor]  # values (N, ...) of all samples, and which of them are known, (N,) bool
_MOST_CLASSES = 2**15  # of packed logits, whose classes are noted in 16 bits


class Store(Protocol):
    """Where rows are kept when the run is over: files, or whatever a user has."""

    def read(self, crop: int, name: str) -> Rows | None:
        """The rows of an output for a stored crop, counted from 0; None where there are none."""

    def write(self, crop: int, rows: Mapping[str, Rows]) -> None:
        """Keep the rows of these outputs."""


class TeacherCache:
    """Stage outputs of a network that never changes, for samples that never change, by the samples' indices.

    An epoch that starts with all samples cached computes nothing; any other epoch computes all of them and stores
    them. Whether all are cached is read once an epoch, so that no step waits for the device. Outputs are stored in the
    type and memory layout in which they are computed. They are in no state dict: a resumed run fills the cache again,
    or finds in its store what was there.

    Args:
        samples: how many there are; indices are below.
        shapes: of all stage outputs, without the batch dimension.
        features: the stages whose outputs are stored.
        preactivations: the stages whose outputs before the ReLU are stored; none where a distiller compares the
            outputs themselves.
        itemsize: bytes of a number.
        limit: GiB that all of it may take.
        crops: in how many augmentations every sample is seen: epoch ``e`` has the ``(e - 1) % crops``-th.
        top: keep only so many of the largest logits, in half precision, and the others by their mean probability;
            0 keeps all as they are.
        store: keeps the crops; without one all of them stay in memory.

    Attributes:
        gib: GiB that all of it takes.
        complete: whether all samples were cached when the epoch started.

    Raises:
        SpotkdError: it takes more than ``limit``; there are no more classes than ``top``, or too many.
    """

    def __init__(
        self,
        samples: int,
        shapes: Sequence[Shape],
        features: Sequence[int],
        preactivations: Sequence[int],
        itemsize: int,
        limit: float,
        crops: int = 1,
        top: int = 0,
        store: Store | None = None,
    ) -> None:
        self._keys = [*((0, stage) for stage in features), *((1, stage) for stage in preactivations)]
        self.samples, self.stages, self.separate_preactivations = samples, len(shapes), bool(preactivations)
        self.crops, self.top, self.classes, self.complete = crops, top, torch.Size(shapes[-1]).numel(), False
        if top and not top < self.classes < _MOST_CLASSES:
            raise SpotkdError(
                f"cache.top is {top}, and there are {self.classes} classes: it must be less, of at most {_MOST_CLASSES}"
            )
        size = itemsize * sum(torch.Size(shapes[stage]).numel() for _, stage in self._keys)
        if top:
            size += 2 * (2 * top + 1) - itemsize * self.classes
        self.gib = crops * samples * size / 2**30
        if self.gib > limit:
            raise SpotkdError(
                f"cache_teacher is {limit:g} GiB, and the teacher's outputs for {samples} images"
                f"{f' in {crops} crops' * (crops > 1)} take {self.gib:.3g}: allow that much, or leave it out"
            )
        self._store, self._full = store, set[tuple[int, int]]()  # which outputs are cached for all samples
        self._crop, self._crops = 0, dict[int, dict[tuple[int, int], Rows]]()  # by 0 or 1 for pre-activations, stage

    @property
    def _rows(self) -> dict[tuple[int, int], Rows]:
        return self._crops.setdefault(self._crop, {})

    def start_epoch(self, epoch: int = 1) -> None:
        """Find out whether all samples are cached, of the crop that belongs to the epoch. Waits for the device."""
        before, self._crop = self._crop, (epoch - 1) % self.crops
        if self._store is not None:
            if before != self._crop:
                self._crops.pop(before, None)
            for key in self._keys:
                if key not in self._rows and (found := self._store.read(self._crop, self._name(key))) is not None:
                    # What is all there is only read; the rest is added to.
                    self._rows[key] = found if found[1].all() else (found[0].clone(), found[1].clone())
        self._full = {key for key, (_, known) in self._rows.items() if known.all()}
        self.complete = len(self._full) == len(self._keys)

    def finish_epoch(self) -> None:
        """Give the store what the epoch has computed."""
        if self._store is not None and not self.complete:
            self._store.write(
                self._crop, {self._name(key): rows for key, rows in self._rows.items() if key not in self._full}
            )
            self._rows.clear()  # they are read from there, which need not take memory

    def __call__(self, indices: Tensor | None, compute: Callable[[], StageOutputs]) -> StageOutputs:
        """What ``compute`` returns for these samples; a complete cache gives empty tensors for stages not stored.

        Args:
            indices: ``(B,)`` indices of the samples.
            compute: runs the network on the samples.

        Raises:
            SpotkdError: ``indices`` is None.
        """
        if indices is None:
            raise SpotkdError("cache_teacher needs to know which samples these are: Batch(images, labels, indices)")
        if self.complete:
            found = {key: self._rows[key][0][indices] for key in self._keys}
            empty = torch.empty(0, device=indices.device)
            features, preactivations = (
                tuple(found.get((kind, stage), empty) for stage in range(self.stages)) for kind in (0, 1)
            )
            return self._unpacked(features, preactivations)
        features, preactivations = compute()
        if self.top:
            features = (*features[:-1], pack_logits(features[-1], self.top))
        for kind, stage in self._keys:
            if (kind, stage) not in self._full:
                self._keep((kind, stage), indices, (features, preactivations)[kind][stage])
        return self._unpacked(features, preactivations)

    def _keep(self, key: tuple[int, int], indices: Tensor, output: Tensor) -> None:
        if key not in self._rows:
            known = torch.zeros(self.samples, dtype=torch.bool, device=indices.device)
            self._rows[key] = _allocate_like(output, self.samples), known
        values, known = self._rows[key]
        values.index_copy_(0, indices, output)
        known.index_fill_(0, indices, True)

    def _unpacked(self, features: tuple[Tensor, ...], preactivations: tuple[Tensor, ...]) -> StageOutputs:
        if self.top:
            features = (*features[:-1], unpack_logits(features[-1], self.classes))
        return features, preactivations if self.separate_preactivations else features

    def _name(self, key: tuple[int, int]) -> str:
        kind, stage = key
        return f"stage{stage}{'-preactivation' * kind}{f'-top{self.top}' * (self.top > 0 and stage == self.stages - 1)}"


def pack_logits(logits: Tensor, top: int) -> Tensor:
    """The largest logits in half precision, as ``(B, 2 top + 1)`` int16: their bits, those of the rest, their classes.

    The rest is one logit for all other classes, which leaves the probability of all of them together as it is: the
    soft labels of Z. Shen, E. Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022.

    Args:
        logits: ``(B, classes)``.
        top: how many are kept, fewer than there are.
    """
    logits = logits.float()
    values, classes = logits.topk(top)
    others = logits.scatter(1, classes, -math.inf).logsumexp(1, keepdim=True) - math.log(logits.shape[1] - top)
    return torch.cat([torch.cat([values, others], dim=1).half().view(torch.int16), classes.to(torch.int16)], dim=1)


def unpack_logits(packed: Tensor, classes: int) -> Tensor:
    """Logits ``(B, classes)`` in single precision from what :func:`pack_logits` gave."""
    top = packed.shape[1] // 2
    numbers = packed[:, : top + 1].contiguous().view(torch.float16).float()
    return numbers[:, top:].expand(-1, classes).scatter(1, packed[:, top + 1 :].long(), numbers[:, :top])


def _allocate_like(output: Tensor, samples: int) -> Tensor:
    """Memory for so many samples of outputs ``(B, ...)`` like this one, in its layout, so that no bit changes later."""
    shape = (samples, *output.shape[1:])
    return torch.empty_permuted(shape, memory_order(output), dtype=output.dtype, device=output.device)


def memory_order(x: Tensor) -> list[int]:
    """The dimensions of a dense tensor, from the one with the largest stride to that with the smallest."""
    return sorted(range(x.dim()), key=x.stride, reverse=True)
