"""The routing network: both networks grafted at the spots, mixed sample by sample (paper, section III)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..adapters import make_adapter
from ..stages import FrozenTwin, Shape, StagedModel


def mix(decision: Tensor, if_teacher: Tensor, if_student: Tensor) -> Tensor:
    """``a * if_teacher + (1 - a) * if_student`` with one decision a sample, broadcast over the feature's shape."""
    a = decision.view(-1, *[1] * (if_teacher.dim() - 1)).to(if_teacher.dtype)
    return a * if_teacher + (1 - a) * if_student


class RoutingNetwork(nn.Module):
    """Runs both chains segment by segment; at every spot each sample continues from one network's feature.

    It owns only the adapters. Its loss trains them and the policy; the networks are constants here, through which
    gradients flow to earlier adapters and decisions.

    Args:
        spots: pairs ``(student stage, teacher stage)`` of the intermediate spots, shallow to deep.
        student_shapes: shapes of all stage outputs of the student, without the batch dimension.
        teacher_shapes: the same of the teacher.
    """

    def __init__(
        self, spots: Sequence[tuple[int, int]], student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]
    ) -> None:
        super().__init__()
        self.student_cuts = [*(s + 1 for s, _ in spots), len(student_shapes)]  # where each segment ends
        self.teacher_cuts = [*(t + 1 for _, t in spots), len(teacher_shapes)]
        self.hints = nn.ModuleList(make_adapter(student_shapes[s], teacher_shapes[t]) for s, t in spots)
        self.antihints = nn.ModuleList(make_adapter(teacher_shapes[t], student_shapes[s]) for s, t in spots)

    def forward(
        self,
        images: Tensor,
        teacher: StagedModel | FrozenTwin,
        student: FrozenTwin,
        teacher_features: Sequence[Tensor] | None,
        route: Tensor,
    ) -> Tensor:
        """The routed logits ``(B, classes)``.

        Args:
            images: ``(B, C, H, W)``.
            teacher: frozen and in eval mode, or the frozen twin of a teacher that is being trained.
            student: the frozen twin of the student.
            teacher_features: all stage outputs of the teacher for the same images; up to the first spot nothing is
                mixed yet, so they stand in for running it again. None where they come from train mode.
            route: ``(B, K + 1)`` decisions, 1 for the teacher's path.
        """
        decisions = route.unbind(1)
        # Nothing before the first spot has been mixed or needs a gradient: the twin's weights are constants.
        h_student = student.run(images, 0, self.student_cuts[0])
        first = self.teacher_cuts[0]
        h_teacher = teacher.run(images, 0, first) if teacher_features is None else teacher_features[first - 1]
        for i, (hint, antihint) in enumerate(zip(self.hints, self.antihints, strict=True)):
            x_teacher = mix(decisions[i], h_teacher, hint(h_student))
            x_student = mix(decisions[i], antihint(h_teacher), h_student)
            h_student = student.run(x_student, *self.student_cuts[i : i + 2])
            h_teacher = teacher.run(x_teacher, *self.teacher_cuts[i : i + 2])
        return mix(decisions[-1], h_teacher, h_student)
