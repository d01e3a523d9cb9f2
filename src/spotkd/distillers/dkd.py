r"""DKD: KD taken apart into the target class and all others.

Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679.

**Idea.** KD's divergence is a sum of two: one on how sure the teacher is of the label (TCKD) and one on how it ranks
the other classes (NCKD). KD weighs the second by the teacher's doubt, so it fades where the teacher is sure. DKD
weighs each by a number of its own.

**Formula.** With $p$ the probability of the label and $q$ the probabilities of the others among themselves, both at
temperature $\tau$, and the weights $\alpha$ (`tckd`) and $\beta$ (`nckd`):

```math
l_b = \tau^2 \big( \alpha \mathrm{KL}( (p_t, 1 - p_t) \parallel (p_s, 1 - p_s) )
    + \beta \mathrm{KL}( q_t \parallel q_s ) \big)
```

```math
L = \frac{1}{B} \sum_b m_b l_b
```

KD is $\alpha = 1$ and $\beta = 1 - p_t$.

**Constants.** $\tau = 4$, `tckd = 1`, `nckd = 8` (the paper takes 1 to 10 by the pair), weight `alpha = 1`. The weight
rises linearly over the first twelfth of the run (20 of 240 epochs).

**Spots.** The logits, in KD's place.

**Cost.** Nothing beside the networks; no parameters.

**Paper and author code.** The code subtracts 1000 from the label's logit to leave it out of $q$; here it is masked.
$p$ comes from log-sum-exp, so it is exact where $p$ is nearly 1. The warm-up is the code's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, LogitDistiller


@full_precision
def dkd_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, tckd: float, nckd: float) -> Tensor:
    """DKD's loss of each sample, ``(B,)``, from logits ``(B, C)`` and labels ``(B,)``."""
    # Not `one_hot`: it looks at the labels' values and so waits for the device.
    is_label = labels[:, None] == torch.arange(student.shape[1], device=labels.device)

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z / temperature
        # Far below any logit instead of minus infinity: the label's own entry is 0 * finite in the divergence.
        others = z.masked_fill(is_label, -1e4)
        binary = torch.stack([(z * is_label).sum(1), torch.logsumexp(others, 1)], dim=1)
        return F.log_softmax(binary, dim=1), F.log_softmax(others, dim=1)

    def divergence(log_s: Tensor, log_t: Tensor) -> Tensor:
        return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)

    (binary_s, others_s), (binary_t, others_t) = parts(student), parts(teacher)
    return temperature**2 * (tckd * divergence(binary_s, binary_t) + nckd * divergence(others_s, others_t))


@DISTILLERS.register("dkd")
class DKD(LogitDistiller):
    """The logits, with weights of their own for the label and for the ranking of the other classes.

    Args:
        tckd: weight of the term on the label (alpha in the paper).
        nckd: weight of the term on the other classes (beta in the paper).
    """

    warmup = 20 / 240

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        *,
        tckd: float = 1.0,
        nckd: float = 8.0,
        **common: Any,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        self.tckd, self.nckd = tckd, nckd

    def sample_loss(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return dkd_loss(student, teacher, batch.classes, self.temperature, self.tckd, self.nckd)
