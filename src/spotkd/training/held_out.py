"""Batches of validation images for a policy that learns from other images than the student."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset, Loader
from ..distributed import Shard
from ..errors import SpotkdError
from ..stages import Batch


class HeldOutBatches(nn.Module):
    """Goes through a loader's batches again and again, pass by pass, each in an order of its own.

    Which batch comes next depends on how many were taken alone, which is part of a run's state.

    Args:
        loader: of the images, in training mode.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.loader, self._taken = loader, 0
        self._batches: Iterator[Batch] = iter(())

    def next_batch(self) -> tuple[Batch, Shard]:
        """The next one, and which samples of a batch of all processes this process has of it."""
        number, place = divmod(self._taken, len(self.loader))
        batch = next(self._batches, None) if place else None
        if batch is None:  # a pass begins, or a run goes on inside of one
            self._batches = self.loader.epoch(number + 1, skip=place)
            batch = next(self._batches)
        self._taken += 1
        return batch, self.loader.shard(number + 1, place)

    def get_extra_state(self) -> Tensor:
        """How many were taken."""
        return torch.tensor(self._taken)

    def set_extra_state(self, state: Any) -> None:
        self._taken, self._batches = int(state), iter(())


def check_policy_images(data: Dataset, learns: bool, trains_teacher: bool, records: bool = False) -> None:
    """A policy can learn from validation images only where there are any, and where it is all that learns from them.

    Args:
        data: the data set.
        learns: whether the strategy has a policy.
        trains_teacher: whether it trains the teacher.
        records: whether steps are recorded, which would then learn from the same images every time.

    Raises:
        SpotkdError: what does not fit.
    """
    if not learns:
        raise SpotkdError("policy.held_out has no effect: this strategy has no policy")
    if trains_teacher:
        raise SpotkdError("policy.held_out: this strategy trains the teacher along; take one that does not")
    if records:
        raise SpotkdError("policy.held_out: a recorded step cannot take other images every time; leave cuda_graphs out")
    if data.val is None:
        raise SpotkdError(f"policy.held_out: {data.name} has no validation images; hold some out: --data.val_share 0.1")
