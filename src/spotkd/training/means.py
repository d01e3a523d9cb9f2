"""The means of an epoch, as ``metrics.csv`` holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..distributed import Shard
from ..losses import Losses
from ..runtime.collectives import all_reduce_sum
from ..stages import Batch

DAMAGED = "damaged"  # share of samples whose teacher outputs a hazard replaced
REFUSED = ("refused_damaged", "refused_intact")  # shares of either kind that the strategy refused
_REFUSED_BELOW = 0.5  # weight


class EpochMeans:
    """Means over an epoch, summed on the device and read only where they are shown or saved.

    Args:
        spot_names: names of the spots.
        device: where they are summed.
        weights: gives the balanced factors of the distiller at its spots ``(K,)``; None where there are none.
        is_damaged: ``(N,)`` bool, the samples whose teacher outputs a hazard replaced; None where there is none. Noted
            is which share of theirs, and of the others', was refused: distilled with less than half a weight.
    """

    def __init__(
        self,
        spot_names: tuple[str, ...],
        device: torch.device,
        weights: Callable[[], Tensor | None] = lambda: None,
        is_damaged: Tensor | None = None,
        measures: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> None:
        self.names = [*(f"loss_{term}" for term in Losses.terms()), "train_top1", *(f"share_{n}" for n in spot_names)]
        self._weights, factors = weights, weights()
        if factors is not None:
            balanced = spot_names[:-1] or spot_names  # a distiller of the logits stands alone
            self.names += [f"weight_{name}" for name in balanced[: len(factors)]]
        self._is_damaged = None if is_damaged is None else is_damaged.to(device)
        if is_damaged is not None:
            self.names += [DAMAGED, *REFUSED]
        self._measures = measures
        self.names += [f"{what}_{name}" for what in measures() for name in spot_names]
        precise = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self._sums = torch.zeros(len(self.names), device=device, dtype=precise)
        self._count = 0

    def add(self, losses: Losses, batch: Batch, shard: Shard) -> None:
        """Add a step; where several processes share the batch, all of it."""
        hits = 100 * (losses.logits.argmax(1) == batch.classes).float().mean()
        terms = torch.stack([*losses[: len(Losses.terms())], hits]).detach()
        factors = self._weights()
        parts = [terms, losses.mask.mean(0)] + ([] if factors is None else [factors.to(terms.dtype)])
        if self._is_damaged is not None and batch.indices is not None:
            damaged = self._is_damaged[batch.indices].to(terms.dtype)
            refused = (losses.mask < _REFUSED_BELOW).to(terms.dtype).mean(1)
            parts.append(torch.stack([damaged, damaged * refused, (1 - damaged) * refused]).mean(1))
        parts += [numbers.to(terms.dtype) for numbers in self._measures().values()]
        means = torch.cat(parts).to(self._sums.dtype)
        self._sums += all_reduce_sum(means * shard.effective_size)
        self._count += shard.total

    def reset(self) -> None:
        """Start over, for another epoch."""
        self._sums.zero_()
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": self._sums.cpu(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the sums of :meth:`state_dict`."""
        self._sums[: len(state["sums"])] = state["sums"].to(self._sums.device)  # older runs have fewer
        self._count = state["count"]

    def read(self) -> dict[str, float]:
        """Means by name. Waits for the device."""
        values = (self._sums / max(self._count, 1)).tolist()
        means = dict(zip(self.names, values, strict=True))
        if self._is_damaged is not None:
            damaged = means[DAMAGED]
            for name, of in zip(REFUSED, (damaged, 1 - damaged), strict=True):
                means[name] = means[name] / of if of else 0.0
        return means


def shares_of(means: Mapping[str, float]) -> dict[str, float]:
    """The shares of distilled samples by spot, out of the means of an epoch."""
    return {name.removeprefix("share_"): value for name, value in means.items() if name.startswith("share_")}


def weights_of(means: Mapping[str, float]) -> dict[str, float]:
    """The balanced factors of the distiller by spot, out of the means of an epoch; none where nothing is balanced."""
    return {name.removeprefix("weight_"): value for name, value in means.items() if name.startswith("weight_")}


def losses_of(means: Mapping[str, float]) -> dict[str, float]:
    """The terms of the loss, out of the means of an epoch; they add up to the total."""
    return {name.removeprefix("loss_"): value for name, value in means.items() if name.startswith("loss_")}
