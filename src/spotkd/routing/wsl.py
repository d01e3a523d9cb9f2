r"""WSL: weighted soft labels.

Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff
Perspective", ICLR 2021, arXiv:2102.00650.

**Idea.** Soft labels regularise the student most where it is already better than the teacher. Those samples count less.

**Formula.** With the cross entropies $H$ of student and teacher with the label:

```math
w_b = 1 - \exp \Big( -\frac{H_{s,b}}{H_{t,b} + 10^{-7}} \Big)
```

**Constants.** With KD the paper takes temperature 2 and weight 2.5 on ImageNet, 4 and 2.25 on CIFAR; here they stay
what `temperature` and `alpha` say.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .strategies import STRATEGIES, Decisions, Evidence, Strategy


@STRATEGIES.register("wsl")
class WSL(Strategy):
    """Weigh samples by how much worse than the teacher the student is at them, the same at every spot of a teacher."""

    def weigh(self, evidence: Evidence) -> Decisions:
        return Decisions(self.expected_weights(evidence))

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        student, *teachers = (
            F.cross_entropy(logits.float(), evidence.labels, reduction="none")
            for logits in (evidence.student[-1], *evidence.each_teacher)
        )
        weights = torch.stack([1 - torch.exp(-student / (teacher + 1e-7)) for teacher in teachers], dim=1)
        return evidence.spread(weights).to(evidence.policy_logits.dtype)
