r"""EA: entropy-based adaptive distillation.

"EA-KD: Entropy-based Adaptive Knowledge Distillation", 2025.

**Idea.** A teacher that is unsure says more than a sure one, and more so where the student is unsure too.

**Formula.** With the entropies $H$ of both networks at temperature 3 and $C$ classes:

```math
w_b = \frac{1}{2} \Big( H_{t,b} + \frac{H_{t,b} H_{s,b}}{\log C} \Big)
```

**Constants.** Temperature 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .strategies import STRATEGIES, Decisions, Evidence, Strategy

TEMPERATURE = 3.0


@STRATEGIES.register("ea")
class EA(Strategy):
    """Weigh samples by the entropies of teacher and student, the same at every spot; weights may be above 1."""

    def weigh(self, evidence: Evidence) -> Decisions:
        return Decisions(self.expected_weights(evidence))

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        student, teacher = (entropy(x[-1].float() / TEMPERATURE) for x in (evidence.student, evidence.teacher))
        weights = (teacher + teacher * student / math.log(max(evidence.teacher[-1].shape[1], 2))) / 2
        return weights[:, None].expand(evidence.policy_logits.shape[:-1]).to(evidence.policy_logits.dtype)


def entropy(logits: Tensor) -> Tensor:
    """In nats, ``(B,)``, of the distributions of logits ``(B, C)``."""
    logarithms = logits.log_softmax(1)
    return -(logarithms.exp() * logarithms).sum(1)
