"""The network that a training gives: the student itself, or the moving average of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class TrainedNetwork:
    """The student itself.

    Attributes:
        network: what is evaluated after every epoch, chosen from, and saved.
    """

    def __init__(self, student: nn.Module) -> None:
        self.network = student

    def update(self) -> None:
        """A step has changed the student."""

    def state_dict(self) -> dict[str, Any]:
        """What a run is resumed from, beside the student; empty where there is nothing else."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where :meth:`state_dict` was; a run that had no average begins one."""


class AveragedNetwork(TrainedNetwork):
    """A network beside the student with the exponential moving average of its weights and of BatchNorm's statistics.

    The first average is a copy, and the decay after ``n`` steps is at most ``(1 + n) / (10 + n)``, so that short runs
    are not ruled by where they began.

    Args:
        student: the network that is trained; the average begins with its first step.
        decay: share of the old average that a step leaves, such as 0.999.
        device: where both lie.
    """

    def __init__(self, student: nn.Module, decay: float, device: torch.device) -> None:
        self._student, self._decay = student, decay
        self._average = AveragedModel(student, multi_avg_fn=self._mean, use_buffers=True)  # counts on the processor
        super().__init__(self._average.module.to(device))

    def update(self) -> None:
        self._average.update_parameters(self._student)

    def _mean(self, averages: Any, currents: Any, _: Any) -> None:
        steps = int(self._average.n_averaged)  # not the argument, which lies on the device: one would wait for it
        decay = min(self._decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(averages, currents, steps)  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            self._average.load_state_dict(state)
