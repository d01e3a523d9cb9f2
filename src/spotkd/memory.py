"""What a frozen network says about every sample, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import SpotkdError
from .stages import Shape

Seen = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # all stage outputs, and the same as a distiller sees them


class Memory:
    """Stage outputs of a network that never changes, for samples that never change, by the samples' indices.

    An epoch that starts with all samples known computes nothing; any other computes everything and keeps it. Whether
    they are is read once an epoch, so that no step waits for the device. Outputs are kept in the type and layout in
    which they come. They are no part of any state: a resumed run fills the memory anew.

    Args:
        samples: how many there are; indices are below.
        shapes: of all stage outputs, without the batch dimension.
        after: the stages whose outputs are kept.
        before: those of which what stands before the ReLU is kept; none where a distiller sees the outputs.
        itemsize: bytes of a number.
        limit: GiB that all of it may take.

    Raises:
        SpotkdError: it takes more.
    """

    def __init__(
        self,
        samples: int,
        shapes: Sequence[Shape],
        after: Sequence[int],
        before: Sequence[int],
        itemsize: int,
        limit: float,
    ) -> None:
        places = [*((0, stage) for stage in after), *((1, stage) for stage in before)]
        self.gib = samples * itemsize * sum(torch.Size(shapes[stage]).numel() for _, stage in places) / 2**30
        if self.gib > limit:
            raise SpotkdError(
                f"cache_teacher is {limit:g} GiB, and the teacher's outputs for {samples} images take {self.gib:.3g}: "
                "allow that much, or leave it out"
            )
        self.samples, self.stages, self.apart = samples, len(shapes), bool(before)
        self.complete = False
        self._known = torch.zeros(samples, dtype=torch.bool)
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._places = places

    def start_epoch(self) -> None:
        """Find out whether all samples are known. Waits for the device."""
        self.complete = bool(self._known.all())

    def __call__(self, indices: Tensor | None, compute: Callable[[], Seen]) -> Seen:
        """What ``compute`` gives for these samples; in a complete memory, empty tensors where nothing is kept.

        Raises:
            SpotkdError: it is not known which samples these are.
        """
        if indices is None:
            raise SpotkdError("cache_teacher needs to know which samples these are: Batch(images, labels, indices)")
        if self.complete:
            found = {place: kept[indices] for place, kept in self._kept.items()}
            nothing = torch.empty(0, device=indices.device)
            after, before = (tuple(found.get((side, k), nothing) for k in range(self.stages)) for side in (0, 1))
            return after, before if self.apart else after
        seen = compute()
        for side, stage in self._places:
            output = seen[side][stage]
            if (side, stage) not in self._kept:
                self._kept[side, stage] = _room_for(output, self.samples)
            self._kept[side, stage].index_copy_(0, indices, output)
        self._known = self._known.to(indices.device).index_fill_(0, indices, True)
        return seen


def _room_for(output: Tensor, samples: int) -> Tensor:
    """Room for so many samples of outputs ``(B, ...)`` like this one, in its layout, so that no bit changes later."""
    order = sorted(range(output.dim()), key=output.stride, reverse=True)
    return torch.empty_permuted((samples, *output.shape[1:]), order, dtype=output.dtype, device=output.device)
