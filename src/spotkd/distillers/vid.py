r"""VID: how much the student's map says about the teacher's map.

Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
arXiv:1904.05835.

**Idea.** Maximise a lower bound of the mutual information: predict the teacher's map from the student's by a Gaussian
whose mean is a small network and whose variance is learnt for each channel.

**Formula.** At each spot, with $\mu$ the regressor, $v = \mathrm{softplus}(\sigma) + 10^{-5}$ for each channel
with the learnt $\sigma$ (`log_scale`), and the mean taken over channels and positions:

```math
l_b = \frac{1}{2} \mathrm{mean} \Big( \frac{(\mu(f_s)_b - f_{t,b})^2}{v} + \ln v \Big)
```

```math
L = \sum_{\text{spots}} \frac{1}{B} \sum_b m_b l_b
```

**Constants.** Variance 5 at the start, weight 1. The regressor is three 1x1 convolutions without bias, the first of
which goes from $C_s$ to $C_t$ channels, with ReLU between them.

**Spots.** All feature maps but the stem's. Takes maps and tokens (on their square grid). Maps of different sizes meet
at the smaller one.

**Cost.** $C_s C_t + 2 C_t^2$ weights a spot: with wide teachers this is more than the student.

**Paper and author code.** The loss may be negative, since $\ln v$ may be. `log_scale` is under the student's weight
decay, as in the code. Where a spot selects no sample its regressor gets a gradient of zero, so decay and momentum still
act (the code skips the step).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import as_map, map_shape
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, MAP, TOKENS, Distiller, all_maps, match_sizes

_SMALLEST, _INITIAL = 1e-5, 5.0  # variance


@full_precision
def vid_loss(mean: Tensor, teacher: Tensor, log_scale: Tensor) -> Tensor:
    """Negative Gaussian log-likelihood of each sample, ``(B,)``, without its constant.

    From maps ``(B, C, H, W)`` of one shape; the variance ``(C,)`` is ``softplus(log_scale) + 1e-5``.
    """
    variance = (F.softplus(log_scale) + _SMALLEST).view(1, -1, 1, 1)
    return 0.5 * ((mean - teacher).square() / variance + variance.log()).flatten(1).mean(1)


@DISTILLERS.register("vid")
class VID(Distiller):
    """How much the student's maps say about the teacher's: a learnt Gaussian prediction at every map but the stem's."""

    spot_rule = all_maps
    takes = (MAP, TOKENS)

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        widths = [(map_shape(student_shapes[s])[0], map_shape(teacher_shapes[t])[0]) for s, t in self.spots]
        self.regressors = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(narrow, wide, 1, bias=False),
                nn.ReLU(inplace=True),
                nn.Conv2d(wide, wide, 1, bias=False),
                nn.ReLU(inplace=True),
                nn.Conv2d(wide, wide, 1, bias=False),
            )
            for narrow, wide in widths
        )
        initial = math.log(math.expm1(_INITIAL - _SMALLEST))
        self.log_scales = nn.ParameterList(nn.Parameter(torch.full((wide,), initial)) for _, wide in widths)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        terms = []
        for i, (regressor, log_scale) in enumerate(zip(self.regressors, self.log_scales, strict=True)):
            s, t = match_sizes(as_map(student[i]), as_map(teacher[i]))
            terms.append(vid_loss(regressor(s), t, log_scale))
        return torch.stack(terms, dim=1)
