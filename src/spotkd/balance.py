"""How strongly a distiller pulls at the student, beside the labels and the logits: one rule for every pair of networks.

A published weight belongs to the networks and the size of maps that it was chosen for. Elsewhere the same number can
drown the labels. What does mean the same everywhere is the pull: the norm of the gradient that a loss sends into the
student's feature at a spot. So the distiller's gradient at each spot is scaled by

    min(1, kappa * |d(labels + logits)/dh| / |d(distiller)/dh|),

with ``h`` the student's feature there, norms over the batch, measured every few steps and averaged over time: where the
published weight pulls less than ``kappa`` times as much as labels and logits do, it stays as it is, and nowhere does it
pull more. Weights that are too large are lowered; small ones are not raised, which was a gamble in our trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import all_reduce_sum, current_shard, shard_share

KAPPA = 1.0  # pull of the distiller at most, in pulls of labels and logits
EVERY = 10  # steps from one measurement to the next, each of which takes a backward pass of its own
MEMORY = 0.9  # weight of what was measured before


class Balance(nn.Module):
    """Scales the gradients that a distiller sends into the student's features.

    The losses keep their values; parts of the distiller that learn along, such as regressors, keep their gradients.

    Args:
        spots: number of features.
        kappa: see above.

    Attributes:
        weights: ``(spots,)`` factors in force, at most 1.
        reference, pull: ``(spots,)`` running means of the norms: of labels and logits, and of the distiller.
    """

    weights: Tensor
    reference: Tensor
    pull: Tensor

    def __init__(self, spots: int, kappa: float = KAPPA) -> None:
        super().__init__()
        self.kappa = kappa
        self._steps = 0
        self.register_buffer("weights", torch.ones(spots))
        self.register_buffer("reference", torch.zeros(spots))
        self.register_buffer("pull", torch.zeros(spots))

    def attach(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The same features ``(B, ...)``, through which gradients flow back scaled by the weights then in force."""
        return [_ScaleGradient.apply(x, self.weights, spot) for spot, x in enumerate(features)]  # type: ignore[no-untyped-call]

    @property
    def is_due(self) -> bool:
        """Whether :meth:`measure` measures in this step; its reference is not looked at in others."""
        return self.training and torch.is_grad_enabled() and self._steps % EVERY == 0

    @property
    def phase(self) -> tuple[bool, bool]:
        """Whether it measures in this step, and whether for the first time; see :class:`~.recording.Counter`."""
        return self.is_due, self._steps == 0

    def advance(self) -> None:
        self._steps += 1

    def measure(
        self,
        reference: Tensor,
        distiller: Tensor,
        features: Sequence[Tensor],
        attached: Sequence[Tensor],
        is_of_all: bool = False,
    ) -> None:
        """Compare the pulls of two losses (scalars) at every spot, if it is time to, and set the weights.

        Nothing waits for the device. Where several processes share the batch, the norms are those of all its samples.

        Args:
            reference: the loss of labels and logits.
            distiller: the distiller's, with its weight.
            features: the student's features, as the rest of the student sees them.
            attached: what :meth:`attach` made of them, as the distiller saw them.
            is_of_all: whether every process has the distiller's loss of the whole batch, from gathered samples.
        """
        if not (self.training and torch.is_grad_enabled()):
            return
        due, first = self.phase
        self.advance()
        if not due:
            return
        precise = self.weights.dtype
        squares = [_squared_norms(reference, features, precise), _squared_norms(distiller, attached, precise)]
        # Each process has the mean loss of its own samples, whose share is their part in the whole batch's gradient; or
        # that of all samples, whose gradient is summed over the processes.
        share, shard = shard_share(), current_shard()
        shares = [share, 1 / shard.processes if is_of_all and shard.is_split else share]
        parts = [torch.stack(each) * part**2 for each, part in zip(squares, shares, strict=True)]
        norms = all_reduce_sum(torch.stack(parts)).sqrt()
        memory = 0.0 if first else MEMORY
        means = (memory * old + (1 - memory) * new for old, new in zip((self.reference, self.pull), norms, strict=True))
        with torch.no_grad():
            for mean, value in zip((self.reference, self.pull), means, strict=True):
                mean.copy_(value)
            # A distiller without any pull keeps its weight, and a number that is not finite is the guard's business.
            factors = self.kappa * self.reference / self.pull
            self.weights.copy_(self.limit(torch.where(self.pull > 0, factors, torch.ones_like(factors))))

    def limit(self, factors: Tensor) -> Tensor:
        """Factors that are never above 1: no published weight is raised."""
        return factors.clamp(max=1.0)

    def get_extra_state(self) -> Tensor:
        """The number of steps, so that a resumed run measures when it would have."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Any) -> None:
        self._steps = int(state)


def _squared_norms(loss: Tensor, features: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Squared norms (scalars) of a loss's gradients at each feature; 0 where it does not depend on one."""
    nothing = loss.new_zeros((), dtype=dtype)
    if not loss.requires_grad:
        return [nothing for _ in features]
    gradients = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    return [nothing if g is None else g.detach().to(dtype).square().sum() for g in gradients]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, spot: int) -> Tensor:
        ctx.weights, ctx.spot = weights, spot  # the buffer itself: what is measured in a step holds in that step
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.weights[ctx.spot].to(grad.dtype), None, None
