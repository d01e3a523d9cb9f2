r"""FitNet: one feature map, through a trained regressor.

Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550.

**Idea.** Let the student's feature, after a small trained map to the teacher's shape, equal the teacher's feature.

**Formula.** With $r$ the regressor and $E$ the number of elements of a feature:

```math
l_b = \frac{1}{E} \left\lVert r(f_s)_b - f_{t,b} \right\rVert^2
```

```math
L = \frac{1}{B} \sum_b m_b l_b
```

**Constants.** Weight 1 (RepDistiller uses 100). The regressor is a convolution with bias, BatchNorm and ReLU, chosen
by the two sizes as for the routing adapters; for tokens LayerNorm and a linear layer.

**Spots.** Feature map $f_2$ of each network, counted from the stem as 0. Takes maps and tokens, also one of each.

**Cost.** The regressor: $C_s C_t$ weights for equal sizes, 9 or 16 times as many where a size is halved or doubled.

**Paper and author code.** The paper trains in two phases, first the hint and then KD; the author code of SAKD trains
both together, as here. The regressor runs on the whole batch before samples are selected, so its BatchNorm sees
unselected samples too. It ends in a ReLU: negative teacher features (WRN, MobileNetV2) cannot be matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..adapters import make_adapter
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, MAP, TOKENS, Distiller, third_map


@full_precision
def fitnet_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of each sample, ``(B,)``, from features ``(B, ...)`` of one shape."""
    return (regressed - teacher).square().flatten(1).mean(1)


@DISTILLERS.register("fitnet")
class FitNet(Distiller):
    """One feature map, after a trained regressor from the student's shape to the teacher's."""

    spot_rule = third_map
    takes = (MAP, TOKENS)

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        ((at_student, at_teacher),) = self.spots
        self.regressor = make_adapter(student_shapes[at_student], teacher_shapes[at_teacher])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return fitnet_loss(self.regressor(student[0]), teacher[0])[:, None]
