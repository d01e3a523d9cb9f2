"""Constant: the same weight for everybody, the control at equal dose."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SpotkdError
from .strategies import STRATEGIES, Decisions, Strategy


@STRATEGIES.register("constant")
class Constant(Strategy):
    """Every sample at every spot with one weight: `constant:0.5`. What a strategy of that mean weight must beat.

    Args:
        weight: 0 or more.
    """

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise SpotkdError(f"strategy constant: {weight:g} is no weight, 0 or more")
        self.weight = weight

    def decide(self, logits: Tensor) -> Decisions:
        return Decisions(self.teacher_probability(logits))

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.full_like(logits[..., 0], self.weight)
