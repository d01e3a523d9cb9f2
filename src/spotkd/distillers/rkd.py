"""RKD: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, embedding


@full_precision
def rkd_loss(student: Tensor, teacher: Tensor, mask: Tensor, distance: float, angle: float) -> Tensor:
    """``n / B`` times RKD's distance and angle losses of the ``n`` selected samples.

    Distances are divided by the mean over the selected pairs; both terms are smooth-L1 with threshold 1, averaged over
    all ``n^2`` pairs and ``n^3`` triples. Zero for fewer than two selected samples, where the author code gives NaN.

    Args:
        student: vectors ``(B, D_S)``.
        teacher: vectors ``(B, D_T)``.
        mask: ``(B,)`` of zeros and ones.
        distance: weight of the distance term.
        angle: weight of the angle term.
    """
    mask = mask.to(student.dtype)
    count = mask.sum()
    pairs = mask[:, None] * mask[None, :]
    diagonal = torch.eye(len(mask), dtype=torch.bool, device=mask.device)

    def relations(x: Tensor) -> tuple[Tensor, Tensor]:
        # Differences of the vectors, not their Gram matrix: duplicates are at distance zero exactly, not at the square
        # root of a rounding error, whose gradient would be enormous.
        edges = x[None, :] - x[:, None]
        square = edges.square().sum(-1)
        apart = square > 1e-12
        lengths = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 1e-6).masked_fill(diagonal, 0.0)
        mean = (pairs * lengths).sum() / (count * (count - 1)).clamp(min=1)
        unit = torch.where(apart[..., None], edges / torch.where(apart, square, 1.0).sqrt()[..., None], 0.0)
        return lengths / torch.where(count > 1, mean, 1.0), unit @ unit.transpose(1, 2)

    lengths_s, angles_s = relations(student)
    with torch.no_grad():
        lengths_t, angles_t = relations(teacher)
    size = count.clamp(min=1)
    by_distance = (pairs * F.smooth_l1_loss(lengths_s, lengths_t, reduction="none")).sum() / size**2
    triples = mask[:, None, None] * pairs
    by_angle = (triples * F.smooth_l1_loss(angles_s, angles_t, reduction="none")).sum() / size**3
    return (count / len(mask)) * (distance * by_distance + angle * by_angle)


@DISTILLERS.register("rkd")
class RKD(Distiller):
    """How the samples lie to each other: distances and angles of the embeddings over the batch.

    Args:
        distance: weight of the distance term.
        angle: weight of the angle term.
    """

    spot_rule = embedding

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        distance: float = 25.0,
        angle: float = 50.0,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes)
        self.distance, self.angle = distance, angle

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return rkd_loss(student[0], teacher[0], mask[:, 0], self.distance, self.angle)
