"""FitNet: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..adapters import ConvReg
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, masked_mean, third_map


@full_precision
def fitnet_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of each sample, ``(B,)``, from maps ``(B, C, H, W)`` of one shape."""
    return (regressed - teacher).square().flatten(1).mean(1)


@DISTILLERS.register("fitnet")
class FitNet(Distiller):
    """The map ``f_2``, after a trained regressor from the student's shape to the teacher's.

    The regressor runs on the whole batch before samples are selected, so its BatchNorm sees unselected samples too,
    as in the author code. It ends in a ReLU: negative teacher features (WRN, MobileNetV2) cannot be matched.
    """

    spot_rule = third_map

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        super().__init__(student_shapes, teacher_shapes)
        ((at_student, at_teacher),) = self.spots
        self.regressor = ConvReg(student_shapes[at_student], teacher_shapes[at_teacher])

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return masked_mean(fitnet_loss(self.regressor(student[0]), teacher[0]), mask[:, 0])
