r"""Confidence: of several teachers, those who are surer of the label are heard more.

Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation" (CA-MKD), ICASSP 2022, arXiv:2201.00007.

**Idea.** A mean of teachers passes on the mistakes of each. Labels tell who errs, sample by sample.

**Formula.** With the cross entropy $H_{b,k}$ of teacher $k$ of $K$ with the label of sample $b$:

```math
w_{b,k} = \frac{1}{K - 1} \Big( 1 - \frac{\exp H_{b,k}}{\sum_j \exp H_{b,j}} \Big)
```

The weights of a sample sum to 1 over the teachers. Losses here are means over the teachers, so they are multiplied by
$K$: teachers who are equally sure have weight 1, as by `always`.

**Paper and author code.** On features the paper weighs by the cross entropies of each teacher's classifier on the
student's feature; here the weights are those of the logits at every spot, so that any distiller can be used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .strategies import STRATEGIES, Decisions, Evidence, Strategy


@STRATEGIES.register("confidence")
class Confidence(Strategy):
    """Weigh several teachers by how sure they are of the label, sample by sample; one teacher alone as by `always`."""

    def weigh(self, evidence: Evidence) -> Decisions:
        return Decisions(self.expected_weights(evidence))

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        like = evidence.policy_logits[..., 0]
        count = len(evidence.logits_of_teachers)
        if count < 2:
            return torch.ones_like(like)
        losses = [F.cross_entropy(x.float(), evidence.labels, reduction="none") for x in evidence.logits_of_teachers]
        weights = (1 - torch.stack(losses, dim=1).softmax(1)) * (count / (count - 1))
        return evidence.spread(weights).to(like.dtype)
