r"""CC: correlation congruence.

Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge Distillation", ICCV 2019,
arXiv:1904.01802.

**Idea.** The errors that the student makes on different samples should not go together.

**Formula.** Both embeddings pass a linear layer to 128 numbers; $\delta_b = |e_s(b) - e_t(b)|$, element by element.
Over the $n$ selected samples in the order of the batch, with $p$ and $p + 1$ neighbours:

```math
L = \frac{n}{B} \cdot \frac{1}{n - 1} \sum_p \delta_p \cdot \delta_{p+1}
```

**Constants.** `dim = 128`, weight 0.02.

**Spots.** The pooled embedding. Takes vectors. Neighbours are those of the selected list: a stable sort by the mask
brings the selected samples together.

**Cost.** Two linear layers, $128 (D_s + D_t)$ weights.

**Paper and author code.** The paper compares full correlation matrices through a kernel; the commonly used
code compares neighbours in the batch, followed here: shuffling makes them a random pairing. The code trains the
teacher's layer in some scripts and not in others. Here that is one option, `train_teacher`, for all strategies: off
(as in the code's adaptive runs), the teacher's layer is a fixed random projection; on, both layers can shrink towards
zero together. Fewer than two selected samples give 0 (the code logs NaN for one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, VECTOR, Distiller, embedding


@full_precision
def cc_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """``n / B`` times CC's loss of the ``n`` selected samples, from embedded vectors ``(B, D)`` and a mask ``(B,)``."""
    mask = mask.to(student.dtype)
    order = torch.argsort((mask == 0).to(mask.dtype), stable=True)  # the selected ones first
    weights = mask[order][:-1] * mask[order][1:]
    count = weights.sum()
    products = _products_of_neighbours(student[order], teacher[order])
    return mask.sum() / len(mask) * (weights * products).sum() / torch.where(count > 0, count, 1.0)


@full_precision
def cc_shares(student: Tensor, teacher: Tensor) -> Tensor:
    """Each sample's own share of CC's loss, ``(B,)``: half of its term with either neighbour."""
    products = _products_of_neighbours(student, teacher)
    halves = F.pad(products, (0, 1)) + F.pad(products, (1, 0))
    return halves * (len(student) / (2 * max(len(student) - 1, 1)))


def _products_of_neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum(1)


@DISTILLERS.register("cc")
class CC(Distiller):
    """Errors that do not go together: products of the embedded differences of neighbouring samples.

    Args:
        dim: length of the embedded vectors.
        train_teacher: whether the layer that embeds the teacher's vectors is trained.
    """

    spot_rule = embedding
    relational = True
    takes = (VECTOR,)
    default_weight = 0.02

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        *,
        dim: int = 128,
        train_teacher: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        ((at_student, at_teacher),) = self.spots
        self.embed_student = nn.Linear(student_shapes[at_student][0], dim)
        self.embed_teacher = nn.Linear(teacher_shapes[at_teacher][0], dim).requires_grad_(train_teacher)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return cc_loss(self.embed_student(student[0]), self.embed_teacher(teacher[0]), mask[:, 0])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return cc_shares(self.embed_student(student[0]), self.embed_teacher(teacher[0]))[:, None]
