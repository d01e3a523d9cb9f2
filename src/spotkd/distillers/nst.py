r"""NST: the distribution of the channels' activation patterns.

Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, arXiv:1707.01219.

**Idea.** Each channel is a sample of "what this layer looks at". Match the two sets of patterns by their maximum mean
discrepancy with a squared kernel; channels need not correspond, nor be equally many.

**Formula.** With the rows $p_i$ of one sample's map, one for each channel over the $HW$ positions, scaled to length
1, and $k(P, Q)$ the mean over all pairs of channels of $(p_i \cdot q_j)^2$:

```math
l_b = k(P_t, P_t) + k(P_s, P_s) - 2 k(P_s, P_t)
```

```math
L = \sum_{\text{spots}} \frac{1}{B} \sum_b m_b l_b
```

**Constants.** Weight 50.

**Spots.** All feature maps but the stem's. Takes maps and tokens (on their square grid). Maps of different sizes meet
at the smaller one.

**Cost.** No parameters. $k$ is the inner product of two Gram matrices, $C \times C$ or $HW \times HW$: whichever is
cheaper for the shapes. The largest tensor is then $B C^2$ or $B (HW)^2$ numbers; the published code makes $B C^2 HW$
(17 GB for ResNet50 to vgg8 at batch 64).

**Paper and author code.** The same numbers. A channel of zeros stays zero and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapters import as_map
from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, MAP, TOKENS, Distiller, all_maps, match_sizes, normalise


@full_precision
def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels' patterns of each sample, ``(B,)``.

    From maps ``(B, C, H, W)`` or tokens ``(B, N, C)``; the numbers of channels may differ.
    """
    student, teacher = match_sizes(as_map(student), as_map(teacher))
    p_s, p_t = (normalise(f.flatten(2), dim=2) for f in (student, teacher))
    wide_s, wide_t, positions = p_s.shape[1], p_t.shape[1], p_s.shape[2]
    if positions * (wide_s + wide_t) < wide_s**2 + wide_s * wide_t + wide_t**2:  # multiplications of either way
        gram_s, gram_t = (p.transpose(1, 2) @ p / p.shape[1] for p in (p_s, p_t))
        return (gram_s - gram_t).square().sum((1, 2))

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.transpose(1, 2)).square().mean((1, 2))

    return kernel(p_t, p_t) + kernel(p_s, p_s) - 2 * kernel(p_s, p_t)


@DISTILLERS.register("nst")
class NST(Distiller):
    """What the channels look at: the distribution of their spatial patterns at every map but the stem's."""

    spot_rule = all_maps
    takes = (MAP, TOKENS)
    default_weight = 50.0

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return torch.stack([nst_loss(s, t) for s, t in zip(student, teacher, strict=True)], dim=1)
