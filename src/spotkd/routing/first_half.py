"""First half: distillation early, labels late."""

from __future__ import annotations

import torch
from torch import Tensor

from .strategies import STRATEGIES, Decisions, Evidence, Strategy, check_share


@STRATEGIES.register("first_half")
class FirstHalf(Strategy):
    """Every sample at every spot in the first half of the epochs, none after it. `first_half:0.3` for another share.

    Args:
        share: of the epochs.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = check_share("first_half", share)

    def weigh(self, evidence: Evidence) -> Decisions:
        return Decisions(self.expected_weights(evidence))

    def expected_weights(self, evidence: Evidence) -> Tensor:
        return torch.full_like(evidence.policy_logits[..., 0], float(evidence.progress < self.share))
