r"""RKD: distances and angles between samples.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068.

**Idea.** Keep the shape of the cloud of embeddings: how far samples lie apart and at which angles three of them meet.

**Formula.** Over the $n$ selected samples, with $h$ the smooth-L1 function of threshold 1, $d_{ij}$ the distances
divided by their mean over pairs, $A_{ijk}$ the cosine of the angle at sample $i$ between $j$ and $k$, and the weights
$\lambda_d$ (`distance`) and $\lambda_a$ (`angle`):

```math
L = \frac{n}{B} \Big( \frac{\lambda_d}{n^2} \sum_{ij} h(d^s_{ij} - d^t_{ij})
    + \frac{\lambda_a}{n^3} \sum_{ijk} h(A^s_{ijk} - A^t_{ijk}) \Big)
```

**Constants.** `distance = 25`, `angle = 50`, weight 1.

**Spots.** The pooled embedding. Takes vectors. The loss relates samples, so the mask goes into pairs and triples.

**Cost.** Differences $B \times B \times D$ of both networks and angles $B \times B \times B$; no parameters.

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
        mask: ``(B,)`` of zeros and ones, or of weights.
        distance: weight of the distance term.
        angle: weight of the angle term.
    """
    mask = mask.to(student.dtype)
    count = mask.sum()
    pairs = mask[:, None] * mask[None, :]
    by_distance, by_angle = _differences(student, teacher, mask)
    size = torch.where(count > 0, count, 1.0)
    triples = mask[:, None, None] * pairs
    by_pair, by_triple = (pairs * by_distance).sum() / size**2, (triples * by_angle).sum() / size**3
    return (count / len(mask)) * (distance * by_pair + angle * by_triple)


@full_precision
def rkd_shares(student: Tensor, teacher: Tensor, distance: float, angle: float) -> Tensor:
    """Each sample's own share of RKD's loss, ``(B,)``: distances from it, and angles at it."""
    by_distance, by_angle = _differences(student, teacher, student.new_ones(len(student)))
    return distance * by_distance.mean(1) + angle * by_angle.mean((1, 2))


def _differences(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The smooth-L1 differences of the distances ``(B, B)`` and of the cosines ``(B, B, B)`` at the first sample."""
    pairs = mask[:, None] * mask[None, :]
    others = mask.sum().square() - mask.square().sum()  # the weight of all pairs of different samples
    diagonal = torch.eye(len(mask), dtype=torch.bool, device=mask.device)

    def relations(x: Tensor) -> tuple[Tensor, Tensor]:
        # Differences of the vectors, not their Gram matrix: duplicates are at distance zero exactly, not at the square
        # root of a rounding error, whose gradient would be enormous.
        edges = x[None, :] - x[:, None]
        square = edges.square().sum(-1)
        apart = square > 1e-12
        lengths = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 1e-6).masked_fill(diagonal, 0.0)
        mean = (pairs * lengths).sum() / torch.where(others > 0, others, 1.0)
        unit = torch.where(apart[..., None], edges / torch.where(apart, square, 1.0).sqrt()[..., None], 0.0)
        return lengths / torch.where(others > 0, mean, 1.0), unit @ unit.transpose(1, 2)

    lengths_s, angles_s = relations(student)
    lengths_t, angles_t = relations(teacher)
    return (
        F.smooth_l1_loss(lengths_s, lengths_t, reduction="none"),
        F.smooth_l1_loss(angles_s, angles_t, reduction="none"),
    )


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

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return rkd_shares(student[0], teacher[0], self.distance, self.angle)[:, None]
