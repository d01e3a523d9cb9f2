r"""SP: which samples look alike.

Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682.

**Idea.** Two images that excite the teacher alike should excite the student alike, whatever the features themselves
are.

**Formula.** With $X$ the flattened features of the $n$ selected samples and $G$ the rows of $X X^T$ scaled to length
1:

```math
L = \frac{n}{B} \cdot \frac{1}{n^2} \left\lVert G_t - G_s \right\rVert^2
```

**Constants.** Weight 3000.

**Spots.** The last feature map. Takes maps, tokens and vectors, in any combination: only the batch must agree. The
loss relates samples, so the mask goes into the Gram matrices before their rows are normalised.

**Cost.** Two $B \times B$ Gram matrices; no parameters.

**Paper and author code.** Equal. A row of zeros stays zero and gets no gradient (the code's reaches 1e10 there). One
selected sample gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, MAP, TOKENS, VECTOR, Distiller, last_map, normalise


@full_precision
def sp_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """``n / B`` times the mean squared difference of the row-normalised Gram matrices of the ``n`` selected samples.

    Args:
        student: features ``(B, ...)``.
        teacher: features ``(B, ...)``; only the batch dimensions must agree.
        mask: ``(B,)`` of zeros and ones, or of weights.
    """
    count = mask.sum()
    terms = mask[:, None] * _squared_differences(student, teacher, mask)
    return terms.sum() / (torch.where(count > 0, count, 1.0) * len(mask))


@full_precision
def sp_shares(student: Tensor, teacher: Tensor) -> Tensor:
    """Each sample's own share of SP's loss, ``(B,)``: its row."""
    return _squared_differences(student, teacher, student.new_ones(len(student))).mean(1)


def _squared_differences(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Of the Gram matrices ``(B, B)``, whose rows count the other samples by their weights and have length 1."""

    def similarity(feature: Tensor) -> Tensor:
        rows = feature.flatten(1)
        return normalise(mask.sqrt() * (rows @ rows.T), dim=1)

    return (similarity(teacher) - similarity(student)).square()


@DISTILLERS.register("sp")
class SP(Distiller):
    """Which samples look alike: the Gram matrix of the last feature map over the batch."""

    spot_rule = last_map
    relational = True
    takes = (MAP, TOKENS, VECTOR)
    default_weight = 3000.0

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return sp_loss(student[0], teacher[0], mask[:, 0])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return sp_shares(student[0], teacher[0])[:, None]
