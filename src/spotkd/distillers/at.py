r"""AT: attention maps.

Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928.

**Idea.** Not what the teacher's channels say but where in the image they are active.

**Formula.** At each spot, with $A(f)$ the mean over channels of $f^2$, a vector over the $HW$ positions scaled to
length 1:

```math
l_b = \frac{1}{HW} \left\lVert A(f_s)_b - A(f_t)_b \right\rVert^2
```

```math
L = \sum_{\text{spots}} \frac{1}{B} \sum_b m_b l_b
```

**Constants.** Exponent 2, weight 1000.

**Spots.** All feature maps but the stem's. Takes maps and tokens: tokens are laid out on their square grid, without
the class token. Maps of different sizes meet at the smaller one, to which the other is averaged.

**Cost.** One pass over each map; no parameters.

**Paper and author code.** The paper sums squared distances over spots with $\beta / 2$; the code takes the mean over
positions, followed here. A map of zeros has the attention zero and gets no gradient (the code divides by 1e-12).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapters import as_map
from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, MAP, TOKENS, Distiller, all_maps, match_sizes, normalise


def attention_map(feature: Tensor) -> Tensor:
    """``(B, H * W)``: the mean over channels of the squared map ``(B, C, H, W)``, scaled to unit length."""
    return normalise(feature.square().mean(1).flatten(1), dim=1)


@full_precision
def at_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of the squared difference of the attention maps of each sample, ``(B,)``.

    From maps ``(B, C, H, W)`` or tokens ``(B, N, C)``.
    """
    student, teacher = match_sizes(as_map(student), as_map(teacher))
    return (attention_map(student) - attention_map(teacher)).square().mean(1)


@DISTILLERS.register("at")
class AT(Distiller):
    """Where the activations are: spatial attention maps at every feature map but the stem's."""

    spot_rule = all_maps
    takes = (MAP, TOKENS)
    default_weight = 1000.0

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return torch.stack([at_loss(s, t) for s, t in zip(student, teacher, strict=True)], dim=1)
