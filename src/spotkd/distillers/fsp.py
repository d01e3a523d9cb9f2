r"""FSP: the flow between two layers.

Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017.

**Idea.** How a network solves the problem shows in how one layer's features lead to the next one's. The Gram matrix
between the channels of two consecutive maps describes that.

**Formula.** For consecutive maps $k$, $k + 1$ of one network, brought to the smaller size, $G$ is the mean over
positions of the products of their channels, $C_{k+1} \times C_k$:

```math
l_b = \frac{1}{C_{k+1} C_k} \left\lVert G_{s,b} - G_{t,b} \right\rVert^2
```

```math
L = \sum_{\text{pairs } k} \frac{1}{B} \sum_b m_{b,k} m_{b,k+1} l_b
```

A term spans two spots, so it counts for the samples selected at both: the product of the two decisions.

**Constants.** Weight 50 (RepDistiller's).

**Spots.** All feature maps, the stem's too. Takes maps; student and teacher must have equally many channels at each.

**Cost.** One $C \times C$ product a pair and network; no parameters.

**Paper and author code.** The paper initialises the student with this loss and then trains on labels; here it acts
throughout, beside the labels. The published SAKD code lists FSP and cannot run it adaptively; gating by the product
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SpotkdError
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, every_map, match_sizes, weighted_means


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """``(B, C_top, C_bottom)``: the mean over positions of the products of the channels of two maps."""
    bottom, top = match_sizes(bottom, top)
    return top.flatten(2) @ bottom.flatten(2).transpose(1, 2) / (top.shape[-2] * top.shape[-1])


@full_precision
def fsp_loss(bottom_s: Tensor, top_s: Tensor, bottom_t: Tensor, top_t: Tensor) -> Tensor:
    """Mean squared difference of the flow matrices of each sample, ``(B,)``, from two maps of each network."""
    return (flow(bottom_s, top_s) - flow(bottom_t, top_t)).square().mean((1, 2))


@DISTILLERS.register("fsp")
class FSP(Distiller):
    """How one map leads to the next: products of the channels of consecutive maps, gated by both decisions."""

    spot_rule = every_map
    separable = False  # a term is gated by both of its spots
    default_weight = 50.0

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        check_consecutive(type(self).__name__, self.spots, student_shapes, teacher_shapes)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return weighted_means(self._flow_losses(student, teacher), mask[:, :-1] * mask[:, 1:])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return share_between_spots(self._flow_losses(student, teacher))

    def _flow_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return torch.stack([fsp_loss(*student[k : k + 2], *teacher[k : k + 2]) for k in range(len(student) - 1)], dim=1)


def share_between_spots(losses: Tensor) -> Tensor:
    """Losses ``(B, K)`` of spots from those ``(B, K - 1)`` between consecutive ones: half of each on either side."""
    return F.pad(losses / 2, (0, 1)) + F.pad(losses / 2, (1, 0))


def check_consecutive(
    name: str, spots: Sequence[tuple[int, int]], student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]
) -> None:
    """Terms between consecutive spots need at least two of them, with equally many channels in both networks."""
    if len(spots) < 2:
        raise SpotkdError(f"{name} compares consecutive maps and finds only {len(spots)} spot")
    for s, t in spots:
        if student_shapes[s][0] != teacher_shapes[t][0]:
            raise SpotkdError(
                f"{name} needs as many channels in the student as in the teacher, and stage {s} of the student has "
                f"{student_shapes[s][0]} and stage {t} of the teacher {teacher_shapes[t][0]}: take a pair of one width"
            )
