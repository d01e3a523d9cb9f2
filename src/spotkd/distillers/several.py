"""One distiller for each of several teachers, as one: each sample is taught by all of them, or by those it should.

A spot of one teacher and the same spot of another are two columns of the weights, so a strategy can ask each teacher
about each sample. The loss is the mean of the teachers' losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..stages import Batch, Shape, StagedModel
from .base import Distiller, LogitDistiller, Spots, total
from .factory import DistillerFactory, make_distiller
from .kd import KD

_TRAITS = ("default_weight", "warmup", "before_relu", "relational", "separable", "preparation")


def make_distillers(
    distiller: str | DistillerFactory,
    student_shapes: Sequence[Shape],
    teacher_shapes: Sequence[Shape],
    teachers: Sequence[StagedModel],
    *,
    spots: Sequence[Spots | None],
    labels: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
) -> Distiller:
    """A distiller for one teacher, see :func:`.make_distiller`, or one for each of several, as one.

    Args:
        distiller: which one.
        student_shapes: shapes of all stage outputs of the student.
        teacher_shapes: the same of the teachers, one after the other.
        teachers: the single teachers.
        spots: for each teacher, see :class:`Distiller`.
        labels: see :class:`Distiller`.
        options: the distiller's own options.

    Raises:
        SpotkdError: as :func:`.make_distiller`.
    """
    offsets = _offsets(teachers)
    made = [
        make_distiller(
            distiller,
            student_shapes,
            _shapes_of(teacher_shapes, teacher, offset),
            spots=at,
            labels=labels,
            options=options,
        )
        for teacher, offset, at in zip(teachers, offsets, spots, strict=True)
    ]
    if len(made) == 1:
        return made[0]
    if isinstance(made[0], LogitDistiller):
        return SeveralLogits(made[0], _logit_spots(student_shapes, teachers))
    return Several(made, offsets)


def plain_kd(
    student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], teachers: Sequence[StagedModel]
) -> LogitDistiller:
    """KD on the logits of one teacher, or of each of several."""
    kd = KD(student_shapes, _shapes_of(teacher_shapes, teachers[0], 0))
    return kd if len(teachers) == 1 else SeveralLogits(kd, _logit_spots(student_shapes, teachers))


def is_plain_kd(distiller: LogitDistiller) -> bool:
    """Whether it is KD, whichever teachers there are."""
    return type(distiller.part if isinstance(distiller, SeveralLogits) else distiller) is KD


def _offsets(teachers: Sequence[StagedModel]) -> list[int]:
    """Where each teacher's stages begin among those of all."""
    return [sum(len(each.stage_names) for each in teachers[:i]) for i in range(len(teachers))]


def _shapes_of(shapes: Sequence[Shape], teacher: StagedModel, offset: int) -> Sequence[Shape]:
    return shapes[offset : offset + len(teacher.stage_names)]


def _logit_spots(student_shapes: Sequence[Shape], teachers: Sequence[StagedModel]) -> Spots:
    ends = zip(teachers, _offsets(teachers), strict=True)
    return tuple((len(student_shapes) - 1, offset + len(teacher.stage_names) - 1) for teacher, offset in ends)


class Several(Distiller):
    """Distillers of the same kind, one for each teacher.

    Args:
        parts: the distillers, in the order of the teachers.
        offsets: where each teacher's stages begin among those of all.
    """

    def __init__(self, parts: Sequence[Distiller], offsets: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.parts = nn.ModuleList(parts)
        self.warmup_factor = 1.0
        for trait in _TRAITS:
            setattr(self, trait, getattr(parts[0], trait))
        self.counts = [len(part.spots) for part in parts]
        self.spots = tuple((s, t + offset) for part, offset in zip(parts, offsets, strict=True) for s, t in part.spots)

    @property
    def distillers(self) -> list[Distiller]:
        """Those of the single teachers."""
        return [part for part in self.parts if isinstance(part, Distiller)]

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        theirs = zip(
            self.distillers, self._split(student), self._split(teacher), torch.split(mask, self.counts, 1), strict=True
        )
        return total([part(s, t, own, batch) for part, s, t, own in theirs]) / len(self.counts)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        theirs = zip(self.distillers, self._split(student), self._split(teacher), strict=True)
        return torch.cat([part.sample_losses(s, t, batch) for part, s, t in theirs], dim=1) / len(self.counts)

    def prepared_modules(self) -> list[nn.Module]:
        return [module for part in self.distillers for module in part.prepared_modules()]

    def preparation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        theirs = zip(self.distillers, self._split(student), self._split(teacher), strict=True)
        return total([part.preparation_loss(s, t) for part, s, t in theirs])

    def _split(self, features: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """The features of each teacher's spots; empty where there are none."""
        ends = [sum(self.counts[: i + 1]) for i in range(len(self.counts))]
        return [features[end - count : end] for end, count in zip(ends, self.counts, strict=True)]


class SeveralLogits(LogitDistiller):
    """A distiller of the logits, for the logits of each teacher.

    Args:
        part: the distiller.
        spots: the stages of the student's logits and of each teacher's.
    """

    def __init__(self, part: LogitDistiller, spots: Spots) -> None:
        nn.Module.__init__(self)
        self.part, self.warmup_factor, self.temperature = part, 1.0, part.temperature
        for trait in _TRAITS:
            setattr(self, trait, getattr(part, trait))
        self.spots = spots

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        part, columns = self._configured(), torch.split(mask, 1, 1)
        return total([part(student, [t], own, batch) for t, own in zip(teacher, columns, strict=True)]) / len(teacher)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        part = self._configured()
        return torch.cat([part.sample_losses(student, [t], batch) for t in teacher], dim=1) / len(teacher)

    def _configured(self) -> LogitDistiller:
        self.part.temperature, self.part.standardise = self.temperature, self.standardise
        return self.part
