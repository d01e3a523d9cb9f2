"""The share of the samples with the largest (or smallest) score: by the student's entropy, or by the losses.

The threshold is a quantile of the scores of the last 4 096 samples, so a batch may have more or fewer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..stages import Shape
from .ea import entropy
from .history import History
from .strategies import STRATEGIES, Decisions, Evidence, Strategy, check_share

KEPT = 4096


class TopShare(Strategy):
    """Distil the samples whose score is above a quantile of the last samples' scores.

    Args:
        share: how many.

    Attributes:
        largest: whether those with the largest scores, or those with the smallest.
    """

    largest: ClassVar[bool] = True

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = check_share(type(self).__name__, share)

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        self.history = History(KEPT, spots)

    @abstractmethod
    def scores(self, evidence: Evidence) -> Tensor:
        """Of each sample at each spot, ``(B, K + 1)``."""

    def weigh(self, evidence: Evidence) -> Decisions:
        if self.training:
            self.history.add(self.scores(evidence))
        return Decisions(self.expected_weights(evidence))

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        scores = self.scores(evidence).to(self.history.values.dtype)
        threshold = self.history.quantile(1 - self.share if self.largest else self.share)
        chosen = scores >= threshold if self.largest else scores <= threshold
        return (chosen & (self.share > 0)).to(evidence.policy_logits.dtype)


@STRATEGIES.register("entropy_topk")
class EntropyTop(TopShare):
    """The samples of which the student is least sure: the half (`entropy_topk:0.2`: fifth) with the largest entropy.

    Published for tokens of language models with a share of 0.2; the same samples at every spot.
    """

    def scores(self, evidence: Evidence) -> Tensor:
        unsure = entropy(evidence.student[-1].float())
        return unsure[:, None].expand(evidence.policy_logits.shape[:-1])


@STRATEGIES.register("loss_topk")
class LossTop(TopShare):
    """At each spot the samples with the largest distillation loss: half of them, or `loss_topk:0.2` a fifth."""

    needs_losses = True

    def scores(self, evidence: Evidence) -> Tensor:
        return evidence.require_losses()


@STRATEGIES.register("loss_bottom")
class LossBottom(LossTop):
    """The control of `loss_topk`: at each spot the samples with the smallest distillation loss."""

    largest = False
