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
    """Weigh samples by the entropies of both, the same at every spot of a teacher; weights may be above 1."""

    def weigh(self, evidence: Evidence) -> Decisions:
        return Decisions(self.expected_weights(evidence))

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        student, largest = entropy(evidence.student[-1].float() / TEMPERATURE), max(evidence.student[-1].shape[1], 2)
        teachers = torch.stack([entropy(x.float() / TEMPERATURE) for x in evidence.each_teacher], dim=1)
        weights = (teachers + teachers * student[:, None] / math.log(largest)) / 2
        return evidence.spread(weights).to(evidence.policy_logits.dtype)


def entropy(logits: Tensor) -> Tensor:
    """In nats, ``(B,)``, of the distributions of logits ``(B, C)``."""
    logarithms = logits.log_softmax(1)
    return -(logarithms.exp() * logarithms).sum(1)
