"""The outputs of a network that never changes, computed once for every sample and looked up from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import SpotkdError
from .stages import Shape, StageOutputs


class TeacherCache:
    """Stage outputs of a network that never changes, for samples that never change, by the samples' indices.

    An epoch that starts with all samples cached computes nothing; any other epoch computes all of them and stores
    them. Whether all are cached is read once an epoch, so that no step waits for the device. Outputs are stored in the
    type and memory layout in which they are computed. They are in no state dict: a resumed run fills the cache again.

    Args:
        samples: how many there are; indices are below.
        shapes: of all stage outputs, without the batch dimension.
        features: the stages whose outputs are stored.
        preactivations: the stages whose outputs before the ReLU are stored; none where a distiller compares the
            outputs themselves.
        itemsize: bytes of a number.
        limit: GiB that all of it may take.

    Attributes:
        gib: GiB that all of it takes.
        complete: whether all samples were cached when the epoch started.

    Raises:
        SpotkdError: it takes more than ``limit``.
    """

    def __init__(
        self,
        samples: int,
        shapes: Sequence[Shape],
        features: Sequence[int],
        preactivations: Sequence[int],
        itemsize: int,
        limit: float,
    ) -> None:
        keys = [*((0, stage) for stage in features), *((1, stage) for stage in preactivations)]
        self.gib = samples * itemsize * sum(torch.Size(shapes[stage]).numel() for _, stage in keys) / 2**30
        if self.gib > limit:
            raise SpotkdError(
                f"cache_teacher is {limit:g} GiB, and the teacher's outputs for {samples} images take {self.gib:.3g}: "
                "allow that much, or leave it out"
            )
        self.samples, self.stages, self.separate_preactivations = samples, len(shapes), bool(preactivations)
        self.complete = False
        self._is_cached = torch.zeros(samples, dtype=torch.bool)
        self._stored: dict[tuple[int, int], Tensor] = {}  # by (0 for features or 1 for pre-activations, stage)
        self._keys = keys

    def start_epoch(self) -> None:
        """Find out whether all samples are cached. Waits for the device."""
        self.complete = bool(self._is_cached.all())

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
            found = {key: stored[indices] for key, stored in self._stored.items()}
            empty = torch.empty(0, device=indices.device)
            features, preactivations = (
                tuple(found.get((kind, stage), empty) for stage in range(self.stages)) for kind in (0, 1)
            )
            return features, preactivations if self.separate_preactivations else features
        outputs = compute()
        for kind, stage in self._keys:
            output = outputs[kind][stage]
            if (kind, stage) not in self._stored:
                self._stored[kind, stage] = _allocate_like(output, self.samples)
            self._stored[kind, stage].index_copy_(0, indices, output)
        self._is_cached = self._is_cached.to(indices.device).index_fill_(0, indices, True)
        return outputs


def _allocate_like(output: Tensor, samples: int) -> Tensor:
    """Memory for so many samples of outputs ``(B, ...)`` like this one, in its layout, so that no bit changes later."""
    order = sorted(range(output.dim()), key=output.stride, reverse=True)
    return torch.empty_permuted((samples, *output.shape[1:]), order, dtype=output.dtype, device=output.device)
