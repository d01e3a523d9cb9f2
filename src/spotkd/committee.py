"""Several teachers as one network: the stages of all of them, one teacher after the other, and their joint logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import SpotkdError
from .stages import StagedModel, StageOutputs


class Committee(StagedModel):
    """Teachers that see the same images. Its stages are theirs, named ``layer1@2`` for the second teacher's.

    The last one gives the joint logits ``(B, classes)``: the logarithm of the mean of all teachers' probabilities.
    It is no chain, so nothing can be routed through it.

    Args:
        members: the teachers, two or more; of the same classes.
    """

    def __init__(self, members: Sequence[StagedModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stage_names = (*(f"{name}@{i}" for i, m in enumerate(members, 1) for name in m.stage_names), "joint")

    @property
    def teachers(self) -> list[StagedModel]:
        """The teachers, in the order in which they were given."""
        return [member for member in self.members if isinstance(member, StagedModel)]

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        raise SpotkdError("several teachers are no chain of stages: take one teacher, or a strategy without a policy")

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = [teacher.features(x) for teacher in self.teachers]
        return (*(output for each in outputs for output in each), join([each[-1] for each in outputs]))

    def features_and_preactivations(self, x: Tensor) -> StageOutputs:
        outputs = [teacher.features_and_preactivations(x) for teacher in self.teachers]
        joint = join([after[-1] for after, _ in outputs])
        after, before = ((*(x for each in outputs for x in each[side]), joint) for side in (0, 1))
        return after, before

    def forward(self, x: Tensor) -> Tensor:
        return join([teacher(x) for teacher in self.teachers])


def join(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of the probabilities ``(B, classes)`` of several logits ``(B, classes)``."""
    probabilities = torch.stack([F.log_softmax(each, dim=1) for each in logits])
    return probabilities.logsumexp(0) - math.log(len(logits))


def as_one_teacher(teachers: StagedModel | Sequence[StagedModel]) -> StagedModel:
    """A teacher as it is; several as a committee.

    Raises:
        SpotkdError: there is none.
    """
    if isinstance(teachers, nn.Module):
        return teachers
    if not teachers:
        raise SpotkdError("teacher is empty: give one network, or several")
    return teachers[0] if len(teachers) == 1 else Committee(teachers)


def teachers_of(teacher: StagedModel) -> list[StagedModel]:
    """The single networks that a teacher is made of; most are one."""
    return teacher.teachers if isinstance(teacher, Committee) else [teacher]
