"""The losses of a batch and their gradients: what a training does before the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from ..losses import Losses, Method
from ..recording import RecordedSteps
from ..stages import Batch
from .dot import DOT


class Gradients:
    """Forward and backward pass of one batch.

    Args:
        forward: the method, as Fabric wraps it.
        optimizer: of its parameters, not wrapped.
        fabric: runs backward passes.
    """

    def __init__(self, forward: nn.Module, optimizer: Optimizer, fabric: Fabric) -> None:
        self._forward, self._optimizer, self._fabric = forward, optimizer, fabric

    def start_epoch(self) -> None:
        """An epoch begins; the method knows it already."""

    def __call__(self, batch: Batch, weight: float) -> Losses:
        """The losses of a batch; the gradients of ``weight`` times their total are then in ``grad``."""
        losses: Losses = self._forward(batch)
        self._optimizer.zero_grad()
        if isinstance(self._optimizer, DOT):
            self._optimizer.backward(losses, self._fabric.backward, weight)
        else:
            self._fabric.backward(losses.total * weight)
        return losses


class RecordedGradients(Gradients):
    """The same from CUDA graphs, see :mod:`spotkd.recording`.

    Args:
        forward, optimizer, fabric: as above.
        method: what ``forward`` wraps.
        log: is called with a line for the user.
    """

    def __init__(
        self, forward: nn.Module, optimizer: Optimizer, fabric: Fabric, method: Method, log: Callable[[str], None]
    ) -> None:
        super().__init__(forward, optimizer, fabric)
        self._steps = RecordedSteps(method, super().__call__, log)

    def start_epoch(self) -> None:
        self._steps.start_epoch()

    def __call__(self, batch: Batch, weight: float) -> Losses:
        return self._steps(batch, weight)
