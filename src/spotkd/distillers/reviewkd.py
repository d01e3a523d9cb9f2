r"""ReviewKD: deep student layers review shallow teacher layers.

Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044.

**Idea.** A deeper student layer can well learn from a shallower teacher layer. Going from deep to shallow, the
student's features are fused one by one by small attention modules, and each fusion is compared with the teacher's map
of that depth.

**Formula.** With the fused maps $u_i$ (each from the student's map at spot $i$ and the fusion from below it), and
$P_l$ average pooling to $l \times l$, for $l = 4, 2, 1$ where smaller than the map, with $w_l = 1/2, 1/4, 1/8$ in turn:

```math
l_b = \frac{ \mathrm{mse}(u, f_t) + \sum_l w_l \mathrm{mse}(P_l u, P_l f_t) }{ 1 + \sum_l w_l }
```

```math
L = \sum_{\text{spots}} \frac{1}{B} \sum_b m_b l_b
```

Each term is gated by the decision at the spot whose teacher map it is. Deeper student features take part in it
whatever was decided about them.

**Constants.** Fusion width `min(512, channels of the deepest student feature)`, weight 1 (the paper takes 0.6 to 8 by
the pair). The weight rises linearly over the first twelfth of the run (20 of 240 epochs).

**Spots.** All feature maps but the stem's, before their ReLU, and the pooled embedding as a map of one position.
Takes maps and vectors.

**Cost.** A 1x1 and a 3x3 convolution a spot: with wide teachers several million weights.

**Paper and author code.** The code assumes fixed sizes; here each level takes those of its two features. The warm-up
is the code's. It has no KD on the logits; here KD stands at the last spot as beside every distiller (`alpha 0` turns
it off).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import BatchNorm2d, as_map, map_shape
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, MAP, VECTOR, Distiller, maps_and_embedding


@full_precision
def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of each sample, ``(B,)``: squared errors at the map's size and after pooling."""

    def error(s: Tensor, t: Tensor) -> Tensor:
        return (s - t).square().flatten(1).mean(1)

    loss, weights, weight = error(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[-2]:
            weight /= 2
            weights += weight
            loss = loss + weight * error(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
    return loss / weights


class Fusion(nn.Module):
    """Attention-based fusion of a student feature with what was fused below it.

    Args:
        channels: of the student's feature.
        width: channels of what is handed on.
        shape_out: shape ``(C, H, W)`` of the teacher's feature.
        deepest: whether nothing lies below.
    """

    def __init__(self, channels: int, width: int, shape_out: Shape, deepest: bool) -> None:
        super().__init__()
        self.size = shape_out[1:]
        self.inward = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), BatchNorm2d(width))
        self.outward = nn.Sequential(
            nn.Conv2d(width, shape_out[0], 3, padding=1, bias=False), BatchNorm2d(shape_out[0])
        )
        for convolution in (self.inward[0], self.outward[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())

    def forward(self, x: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher's feature, and what is handed on."""
        x = self.inward(x)
        if self.attention is not None and below is not None:
            below = F.interpolate(below, x.shape[-2:], mode="nearest")
            share = self.attention(torch.cat([x, below], dim=1))
            x = x * share[:, :1] + below * share[:, 1:]
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return self.outward(x), x


@DISTILLERS.register("reviewkd")
class ReviewKD(Distiller):
    """Deep layers review shallow ones: student features, fused from deep to shallow, against every teacher map."""

    spot_rule = maps_and_embedding
    takes = (MAP, VECTOR)
    warmup = 20 / 240
    before_relu = True

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        width = min(512, map_shape(student_shapes[self.spots[-1][0]])[0])
        self.fusions = nn.ModuleList(
            Fusion(
                map_shape(student_shapes[s])[0], width, map_shape(teacher_shapes[t]), deepest=i == len(self.spots) - 1
            )
            for i, (s, t) in enumerate(self.spots)
        )

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        terms, below = [], None
        for i in reversed(range(len(student))):
            fused, below = self.fusions[i](as_map(student[i]), below)
            terms.append(context_loss(fused, as_map(teacher[i])))
        return torch.stack(terms[::-1], dim=1)
