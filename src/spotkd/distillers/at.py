"""AT: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch
from .base import DISTILLERS, Distiller, all_maps, masked_mean, normalise


def attention_map(feature: Tensor) -> Tensor:
    """``(B, H * W)``: the mean over channels of the squared map ``(B, C, H, W)``, scaled to unit length."""
    return normalise(feature.square().mean(1).flatten(1), dim=1)


@full_precision
def at_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of the squared difference of the attention maps of each sample, ``(B,)``.

    Sizes that differ are brought together by averaging the larger map to the smaller one's size.
    """
    size = (min(student.shape[-2], teacher.shape[-2]), min(student.shape[-1], teacher.shape[-1]))
    student, teacher = (f if f.shape[-2:] == size else F.adaptive_avg_pool2d(f, size) for f in (student, teacher))
    return (attention_map(student) - attention_map(teacher)).square().mean(1)


@DISTILLERS.register("at")
class AT(Distiller):
    """Where the activations are: spatial attention maps at every feature map but the stem's."""

    spot_rule = all_maps
    default_weight = 1000.0

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        losses = [masked_mean(at_loss(s, t), m) for s, t, m in zip(student, teacher, mask.unbind(1), strict=True)]
        return sum(losses[1:], losses[0])
