r"""KD: the teacher's logits, softened by a temperature.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.

**Idea.** The teacher's probabilities say more than the label: which wrong classes are nearly right. A temperature
above 1 brings these small numbers out.

**Formula.** For the logits $z_t$, $z_s$ of one sample, with the sum taken over the samples selected at the last spot:

```math
L = \frac{\tau^2}{B} \sum_b m_b \mathrm{KL}( \mathrm{softmax}(z_t / \tau) \parallel \mathrm{softmax}(z_s / \tau) )
```

**Constants.** $\tau = 4$; weight `alpha = 1`.

**Spots.** The logits. KD stands there beside every distiller of features, and alone as `kd`.

**Cost.** Nothing beside the networks; no parameters.

**Paper and author code.** Equal. The code has a second class with "NLL" in its name that computes the same number.
Options beyond both: `standardise` (Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
arXiv:2403.01427) brings each sample's logits to mean 0 and deviation 1 first, so that only their relations are
learnt; its paper then uses `temperature` 2 and `alpha` 9. Constant logits become zeros (the paper's code adds 1e-7 to
the deviation).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, LogitDistiller


@full_precision
def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``tau^2 * KL(softmax(teacher / tau) || softmax(student / tau))`` of each sample, ``(B,)``.

    From logits ``(B, C)``.
    """
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)


@DISTILLERS.register("kd")
class KD(LogitDistiller):
    """The logits, softened by a temperature."""

    def sample_loss(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return kd_loss(student, teacher, self.temperature)
