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
from typing import Any, NamedTuple

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
    return _loss(_relate(student, teacher), mask, distance, angle)


@full_precision
def rkd_shares(student: Tensor, teacher: Tensor, distance: float, angle: float) -> Tensor:
    """Each sample's own share of RKD's loss, ``(B,)``: distances from it, and angles at it."""
    return _shares(_relate(student, teacher), distance, angle)


class _Relations(NamedTuple):
    """What no mask enters.

    Attributes:
        student: distances ``(B, B)`` between the student's vectors.
        teacher: between the teacher's.
        by_angle: smooth-L1 differences ``(B, B, B)`` of the cosines at the first sample.
    """

    student: Tensor
    teacher: Tensor
    by_angle: Tensor


@full_precision
def _loss(relations: _Relations, mask: Tensor, distance: float, angle: float) -> Tensor:
    mask = mask.to(relations.student.dtype)
    count = mask.sum()
    pairs = mask[:, None] * mask[None, :]
    by_distance, by_angle = _by_distance(relations, mask), relations.by_angle
    size = torch.where(count > 0, count, 1.0)
    triples = mask[:, None, None] * pairs
    by_pair, by_triple = (pairs * by_distance).sum() / size**2, (triples * by_angle).sum() / size**3
    return (count / len(mask)) * (distance * by_pair + angle * by_triple)


def _shares(relations: _Relations, distance: float, angle: float) -> Tensor:
    everybody = relations.student.new_ones(len(relations.student))
    return distance * _by_distance(relations, everybody).mean(1) + angle * relations.by_angle.mean((1, 2))


def _by_distance(relations: _Relations, mask: Tensor) -> Tensor:
    """The smooth-L1 differences ``(B, B)`` of the distances, each network's relative to its weighted mean."""
    pairs = mask[:, None] * mask[None, :]
    others = mask.sum().square() - mask.square().sum()  # the weight of all pairs of different samples

    def relative(lengths: Tensor) -> Tensor:
        mean = (pairs * lengths).sum() / torch.where(others > 0, others, 1.0)
        return lengths / torch.where(others > 0, mean, 1.0)

    return F.smooth_l1_loss(relative(relations.student), relative(relations.teacher), reduction="none")


@full_precision
def _relate(student: Tensor, teacher: Tensor) -> _Relations:
    diagonal = torch.eye(len(student), dtype=torch.bool, device=student.device)

    def relate(x: Tensor) -> tuple[Tensor, Tensor]:
        # Differences of the vectors, not their Gram matrix: duplicates are at distance zero exactly, not at the square
        # root of a rounding error, whose gradient would be enormous.
        edges = x[None, :] - x[:, None]
        square = edges.square().sum(-1)
        apart = square > 1e-12
        lengths = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 1e-6).masked_fill(diagonal, 0.0)
        unit = torch.where(apart[..., None], edges / torch.where(apart, square, 1.0).sqrt()[..., None], 0.0)
        return lengths, unit @ unit.transpose(1, 2)

    (of_student, angles_s), (of_teacher, angles_t) = relate(student), relate(teacher)
    return _Relations(of_student, of_teacher, F.smooth_l1_loss(angles_s, angles_t, reduction="none"))


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
        self._known: tuple[Tensor, Tensor, _Relations] | None = None  # of this step, where its losses were looked at

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        known, self._known = self._known, None
        if known is None or known[0] is not student[0] or known[1] is not teacher[0]:
            return rkd_loss(student[0], teacher[0], mask[:, 0], self.distance, self.angle)
        return _loss(known[2], mask[:, 0], self.distance, self.angle)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        if not student[0].requires_grad:
            return rkd_shares(student[0], teacher[0], self.distance, self.angle)[:, None]
        with torch.enable_grad():  # so that the loss of this step need not relate the samples again
            relations = _relate(student[0], teacher[0])
        self._known = student[0], teacher[0], relations
        return _shares(_Relations(*(x.detach() for x in relations)), self.distance, self.angle)[:, None]
