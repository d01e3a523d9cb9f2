"""KD: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, LogitDistiller, masked_mean


@full_precision
def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``tau^2 * KL(softmax(teacher / tau) || softmax(student / tau))`` of each sample, ``(B,)``.

    From logits ``(B, C)``.
    """
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)


@DISTILLERS.register("kd")
class KD(LogitDistiller):
    """The logits, softened by a temperature. In SAKD it stands at the last spot beside every other distiller."""

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return masked_mean(kd_loss(student[0], teacher[0], self.temperature), mask[:, 0])
