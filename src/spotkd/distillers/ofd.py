r"""OFD: a teacher's map above a margin.

Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv:1904.01866.

**Idea.** Positive pre-activations carry the information, and of negative ones it matters only that they are negative.
So the student must match the first, need only stay below a negative margin for the second, and is left alone where it
already does.

**Formula.** With pre-activations $s$ (after a connector) and $t$, and for each channel the margin $\mu$, the mean of
the teacher's negative pre-activations, element by element and summed over the map:

```math
t' = \max(t, \mu)
```

```math
d = \begin{cases}
    (s - t')^2 & s > t' \text{ or } t' > 0 \\
    0 & \text{elsewhere}
\end{cases}
```

```math
L = \sum_{\text{spots } i} \frac{1}{1000} 2^{i - \text{last}} \frac{1}{B} \sum_b m_b \sum d_b
```

**Constants.** Factor 1/1000, half the weight for each spot before the last, weight 1.

**Spots.** All feature maps but the stem's, before the ReLU that ends them (as they are where none does). Takes maps.
Maps of different sizes meet at the smaller one, after the connector.

**Cost.** A 1x1 convolution and BatchNorm a spot, $C_s C_t$ weights.

**Paper and author code.** The code computes the margins from the teacher's last BatchNorm, as the mean of a normal
variable below zero; the paper also allows to measure them, which is done here, since any network can be a teacher:
they are means over all training batches so far, kept in the checkpoint, and count unselected samples too. Beside this
loss the code has none on the logits; here KD stands at the last spot (`alpha 0` turns it off).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import BatchNorm2d
from ..distributed import all_reduce_sum
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, all_maps, match_sizes

_FACTOR = 1 / 1000


@full_precision
def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """The summed partial distance of each sample's pre-activations, ``(B,)``, from maps ``(B, C, H, W)``."""
    teacher = torch.maximum(teacher, margin.view(1, -1, 1, 1))
    counts = (student > teacher) | (teacher > 0)
    return torch.where(counts, (student - teacher).square(), 0.0).flatten(1).sum(1)


class Margin(nn.Module):
    """For each channel the mean of all negative values seen in training; 0 while there was none."""

    sums: Tensor
    counts: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(channels))
        self.register_buffer("counts", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, feature: Tensor) -> Tensor:
        """The margins ``(C,)``, after a look at the map ``(B, C, H, W)`` in train mode."""
        if self.training:
            self.sums += all_reduce_sum(feature.clamp(max=0).sum((0, 2, 3), dtype=self.sums.dtype))
            self.counts += all_reduce_sum((feature < 0).sum((0, 2, 3)))
        return self.sums / self.counts.clamp(min=1)


@DISTILLERS.register("ofd")
class OFD(Distiller):
    """What the teacher's maps say above a margin: a partial distance of pre-activations at every map but the stem's."""

    spot_rule = all_maps
    before_relu = True

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        widths = [(student_shapes[s][0], teacher_shapes[t][0]) for s, t in self.spots]
        self.margins = nn.ModuleList(Margin(wide) for _, wide in widths)
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 1, bias=False), BatchNorm2d(wide)) for narrow, wide in widths
        )
        for connector in self.connectors:
            nn.init.kaiming_normal_(connector[0].weight, mode="fan_out")  # type: ignore[index]

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        last, terms = len(student) - 1, []
        for i, (margin, connector) in enumerate(zip(self.margins, self.connectors, strict=True)):
            s, t = match_sizes(connector(student[i]), teacher[i])
            per_sample = ofd_loss(s, t, margin(teacher[i]))
            terms.append(_FACTOR * 2.0 ** (i - last) * per_sample)
        return torch.stack(terms, dim=1)
