r"""DIST: correlations of probabilities instead of their values.

Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv:2205.10536.

**Idea.** A much stronger teacher is too sharp to be matched value by value. It is enough that the student's
probabilities go up and down with the teacher's: over the classes of one sample (inter) and over the samples of one
class (intra).

**Formula.** With $P$ the probabilities at temperature $\tau$ of the $n$ selected samples, $\rho$ Pearson's correlation,
and the weights $\beta$ (`inter_weight`) and $\gamma$ (`intra_weight`):

```math
\text{inter} = \frac{1}{n} \sum_b \big( 1 - \rho(P_s[b, :], P_t[b, :]) \big)
```

```math
\text{intra} = \frac{1}{C} \sum_c \big( 1 - \rho(P_s[:, c], P_t[:, c]) \big)
```

```math
L = \frac{n}{B} \tau^2 ( \beta \cdot \text{inter} + \gamma \cdot \text{intra} )
```

**Constants.** $\tau = 4$, both weights 2 (beta and gamma in the paper), weight `alpha = 1`.

**Spots.** The logits, in KD's place. The intra term relates samples: the mask goes into its means and its sums. Weights
between 0 and 1 make it a weighted correlation, with each sample counted by its weight.

**Cost.** Nothing beside the networks; no parameters.

**Paper and author code.** The code adds 1e-8 to the product of the norms. Here a row without variation has
correlation 0 and no gradient. With fewer than two selected samples no correlation over samples exists, and the intra
term is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, LogitDistiller, centre_and_normalise, masked_mean


@full_precision
def dist_loss(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float, inter_weight: float, intra_weight: float
) -> Tensor:
    """``n / B`` times DIST's loss of the ``n`` selected samples, from logits ``(B, C)`` and a mask ``(B,)``."""
    p_s, p_t = torch.softmax(student / temperature, 1), torch.softmax(teacher / temperature, 1)
    mask = mask.to(p_s.dtype)
    count, chosen = mask.sum(), mask[:, None]
    inter = masked_mean(_inter(p_s, p_t), mask)
    over_samples = (centre_and_normalise(p_s, 0, chosen) * centre_and_normalise(p_t, 0, chosen)).sum(0)
    intra = (1 - over_samples).mean() * count / len(mask)
    return temperature**2 * (inter_weight * inter + intra_weight * torch.where((mask > 0).sum() > 1, intra, 0.0))


@full_precision
def dist_shares(
    student: Tensor, teacher: Tensor, temperature: float, inter_weight: float, intra_weight: float
) -> Tensor:
    """Each sample's own share of DIST's loss, ``(B,)``: as ``1 - u.v = |u - v|^2 / 2`` of vectors of length 1."""
    p_s, p_t = torch.softmax(student / temperature, 1), torch.softmax(teacher / temperature, 1)
    u, v = centre_and_normalise(p_s, 0), centre_and_normalise(p_t, 0)
    flat = 1 - (u.square().sum(0) + v.square().sum(0)) / 2  # 0, but for classes without variation over the batch
    intra = len(u) * (u - v).square().mean(1) / 2 + flat.mean()
    return temperature**2 * (inter_weight * _inter(p_s, p_t) + intra_weight * (intra if len(u) > 1 else 0.0))


def _inter(p_s: Tensor, p_t: Tensor) -> Tensor:
    """One less the correlation over the classes, of each sample, ``(B,)``."""
    return 1 - (centre_and_normalise(p_s, 1) * centre_and_normalise(p_t, 1)).sum(1)


@DISTILLERS.register("dist")
class DIST(LogitDistiller):
    """The logits, by correlation: over the classes of a sample and over the samples of a class.

    Args:
        inter_weight: weight of the term over classes.
        intra_weight: weight of the term over samples.
    """

    relational = True

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        *,
        inter_weight: float = 2.0,
        intra_weight: float = 2.0,
        **common: Any,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        self.inter_weight, self.intra_weight = inter_weight, intra_weight

    def loss(self, student: Tensor, teacher: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        return dist_loss(student, teacher, mask, self.temperature, self.inter_weight, self.intra_weight)

    def sample_loss(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return dist_shares(student, teacher, self.temperature, self.inter_weight, self.intra_weight)
