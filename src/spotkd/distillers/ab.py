r"""AB: on which side of zero each neuron is.

Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", AAAI
2019, arXiv:1811.03233.

**Idea.** What a ReLU network decides is which neurons are active. Push the student's pre-activations to the teacher's
side of zero, by a margin, and leave their values free.

**Formula.** With pre-activations $s$ (after a connector) and $t$, element by element and summed over the map:

```math
d = \begin{cases}
    (s + 1)^2 & t \le 0 \text{ and } s > -1 \\
    (s - 1)^2 & t > 0 \text{ and } s \le 1 \\
    0 & \text{elsewhere}
\end{cases}
```

```math
L = \sum_{\text{spots } i} \frac{3}{1000} 2^{i - \text{last}} \frac{1}{B} \sum_b m_b \sum d_b
```

**Constants.** Margin 1, factor 3/1000, half the weight for each spot before the last, weight 1. Preparation: 30
epochs of the same loss for all samples, which trains the connectors and the student's layers up to the last spot; SGD
0.01, momentum 0.9, decay 5e-4.

**Spots.** All feature maps but the stem's, before the ReLU that ends them (as they are where none does: WRN,
MobileNetV2). Takes maps.

**Cost.** Connectors (convolution and BatchNorm) where shapes differ. The preparation runs both networks and trains
the student.

**Paper and author code.** The paper uses the loss to initialise the student only, and trains on labels afterwards.
Here the preparation does that, and then the loss acts where it is selected. The published SAKD code
prepares the connectors alone, on features after the ReLU, and then stops at the first batch. For WRN it would take
the next block's BatchNorm of the map, which moves that block's statistics twice a step; we take the map itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import ConvReg
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, Preparation, all_maps

_FACTOR = 3 / 1000


@full_precision
def ab_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Each sample's pre-activations: the summed squared distance to the teacher's side of the margin, ``(B,)``."""
    wrongly_on, wrongly_off = (student > -1) & (teacher <= 0), (student <= 1) & (teacher > 0)
    distance = torch.where(wrongly_on, (student + 1).square(), 0.0) + torch.where(
        wrongly_off, (student - 1).square(), 0.0
    )
    return distance.flatten(1).sum(1)


@DISTILLERS.register("ab")
class AB(Distiller):
    """Which neurons are active: the sides of zero of the pre-activations of every map but the stem's."""

    spot_rule = all_maps
    before_relu = True
    preparation = Preparation("student's layers on the teacher's activation boundaries", trains_student=True)

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        self.connectors = nn.ModuleList(
            nn.Identity()
            if student_shapes[s] == teacher_shapes[t]
            else ConvReg(student_shapes[s], teacher_shapes[t], relu=False)
            for s, t in self.spots
        )

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return self._losses(student, teacher)

    def _losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        last = len(student) - 1
        connected = [connector(s) for connector, s in zip(self.connectors, student, strict=True)]
        terms = [
            _FACTOR * 2.0 ** (i - last) * ab_loss(s, t) for i, (s, t) in enumerate(zip(connected, teacher, strict=True))
        ]
        return torch.stack(terms, dim=1)

    def prepared_modules(self) -> list[nn.Module]:
        return [self.connectors]

    def preparation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return self._losses(student, teacher).mean(0).sum()
