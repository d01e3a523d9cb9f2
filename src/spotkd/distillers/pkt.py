r"""PKT: the probability that one sample is another's neighbour.

Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018, arXiv:1803.10837.

**Idea.** Turn the cosines between samples into, for each sample, a distribution over the others, and match
distributions.

**Formula.** Over the $n$ selected samples, with $K_{ij} = (\cos(x_i, x_j) + 1) / 2$, $p_{ij} = K_{ij} / \sum_j K_{ij}$
and $\epsilon = 10^{-7}$:

```math
L = \frac{n}{B} \cdot \frac{1}{n^2} \sum_{ij} p^t_{ij} \ln \frac{p^t_{ij} + \epsilon}{p^s_{ij} + \epsilon}
```

**Constants.** Weight 30000.

**Spots.** The pooled embedding. Takes vectors. The loss relates samples: the mask goes into the matrix before its
rows are divided by their sums.

**Cost.** Two $B \times B$ matrices; no parameters.

**Paper and author code.** The code divides rows by `norm + 1e-7`, as here; a row of zeros stays zero and gets no
gradient (the code's is NaN). One selected sample gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, VECTOR, Distiller, embedding

_EPS = 1e-7


@full_precision
def pkt_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """``n / B`` times PKT's divergence of the ``n`` selected samples, from vectors ``(B, D)`` and a mask ``(B,)``."""
    mask = mask.to(student.dtype)
    count = mask.sum()
    terms = mask[:, None] * _divergences(student, teacher, mask)
    return terms.sum() / (torch.where(count > 0, count, 1.0) * len(mask))


@full_precision
def pkt_shares(student: Tensor, teacher: Tensor) -> Tensor:
    """Each sample's own share of PKT's divergence, ``(B,)``: its row."""
    return _divergences(student, teacher, student.new_ones(len(student))).mean(1)


def _divergences(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The terms ``(B, B)`` of the divergences between the neighbours of each sample, a row."""

    def neighbours(x: Tensor) -> Tensor:
        square = x.square().sum(1, keepdim=True)
        alive = square > 0
        unit = torch.where(alive, x / (torch.where(alive, square, 1.0).sqrt() + _EPS), 0.0)
        kernel = mask * (unit @ unit.T + 1) / 2
        all_of_row = kernel.sum(1, keepdim=True)
        return kernel / torch.where(all_of_row > 0, all_of_row, 1.0)

    p_s, p_t = neighbours(student), neighbours(teacher)
    return p_t * ((p_t + _EPS) / (p_s + _EPS)).log()


@DISTILLERS.register("pkt")
class PKT(Distiller):
    """Who is whose neighbour: distributions over the batch from the cosines of the embeddings."""

    spot_rule = embedding
    relational = True
    takes = (VECTOR,)
    default_weight = 30000.0

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return pkt_loss(student[0], teacher[0], mask[:, 0])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return pkt_shares(student[0], teacher[0])[:, None]
