"""Dual: a price for the teacher at every spot holds the share that is asked for.

As load balancing without a loss (Wang, Gao, Zhao, Sun, Dai, "Auxiliary-Loss-Free Load Balancing Strategy for
Mixture-of-Experts", 2024, arXiv:2408.15664), here for the share of each spot and with steps in proportion to what is
missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed import all_reduce_mean
from ..stages import Shape
from .policy import straight_through
from .strategies import STRATEGIES, Decisions, Strategy, check_share

RATE = 0.05  # of the price, in logits a step for a share that is missing altogether


@STRATEGIES.register("dual")
class Dual(Strategy):
    """SAKD with a share on average: an offset for each spot, outside of all gradients, rises while too few are routed.

    `dual:0.3` holds 30 %. The policy still decides who.

    Args:
        share: of the samples at every spot.
    """

    learns = True
    offsets: Tensor

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = check_share("dual", share)

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        self.register_buffer("offsets", torch.zeros(spots))

    def decide(self, logits: Tensor) -> Decisions:
        shifts = torch.stack([self.offsets, torch.zeros_like(self.offsets)], dim=-1)
        route = straight_through(logits + shifts.to(logits.dtype))
        if self.training:
            shares = all_reduce_mean(route.detach().mean(0)).to(self.offsets.dtype)
            self.offsets.add_(self.share - shares, alpha=RATE)
        return Decisions(route.detach(), route)

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits[..., 0] - logits[..., 1] + self.offsets)
