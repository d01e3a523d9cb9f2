"""RKD: distances and angles between samples.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068.

**Idea.** Keep the shape of the cloud of embeddings: how far samples lie apart and at which angles three of them meet.

**Formula.** Over the `n` selected samples, with `h` the smooth-L1 function of threshold 1, `d_ij` the distances
divided by their mean over pairs, and `A_ijk` the cosine of the angle at sample `i` between `j` and `k`:

    L = n / B * ( distance / n^2 * sum_ij h(d_ij^s - d_ij^t) + angle / n^3 * sum_ijk h(A_ijk^s - A_ijk^t) )

**Constants.** `distance = 25`, `angle = 50`, weight 1.

**Spots.** The pooled embedding. Takes vectors. The loss relates samples, so the mask goes into pairs and triples.

**Cost.** Differences `B x B x D` of both networks and angles `B x B x B`; no parameters.

**Paper and author code.** Distances come from differences, not from the Gram matrix: duplicates are at distance 0
exactly, where the code's gradient reaches 1e11. Fewer than two selected samples give 0 (the code logs NaN for one).
The code computes the teacher's side without gradient even where the teacher is trained (`joint`); here it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, VECTOR, Distiller, embedding


@full_precision
def rkd_loss(student: Tensor, teacher: Tensor, mask: Tensor, distance: float, angle: float) -> Tensor:
    """``n / B`` times RKD's distance and angle losses of the ``n`` selected samples.

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
    relational = True
    takes = (VECTOR,)

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        *,
        distance: float = 25.0,
        angle: float = 50.0,
        **common: Any,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        self.distance, self.angle = distance, angle

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return rkd_loss(student[0], teacher[0], mask[:, 0], self.distance, self.angle)
