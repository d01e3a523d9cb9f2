"""What every distiller shares: the interface, the rules that place it, and masks in place of subsets.

A distiller says WHAT is distilled. WHERE is somebody else's decision and arrives as a mask ``(B, spots)`` of zeros and
ones. A distiller never picks ``feature[mask]``: a loss that is a mean over samples is computed for every sample and
multiplied by the mask; a loss on relations between samples takes the mask into its matrices. Both equal
``n / B`` times the loss of the ``n`` selected samples, with shapes that do not depend on the mask.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import SpotkdError
from ..registry import Registry
from ..stages import Batch, Shape

SpotRule = Callable[[Sequence[Shape]], tuple[int, ...]]


# Where a distiller sits in one network, given the shapes of all its stage outputs. Each network resolves the rule for
# itself: the author code uses one index for both, which names different things when their lengths differ.


def _maps(shapes: Sequence[Shape]) -> list[int]:
    return [index for index, shape in enumerate(shapes) if len(shape) == 3]


def all_maps(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Every feature map but the stem's."""
    return tuple(_maps(shapes)[1:])


def third_map(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Feature map ``f_2``, or the last one of a shorter network."""
    return tuple(_maps(shapes)[:3][-1:])


def last_map(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The deepest feature map."""
    return tuple(_maps(shapes)[-1:])


def embedding(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The pooled vector before the classifier."""
    return (len(shapes) - 2,)


def logits(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The classifier's output, which is the last spot of every network."""
    return (len(shapes) - 1,)


class Distiller(nn.Module):
    """A method of distillation: one loss at one or more spots.

    A subclass sets ``spot_rule`` and ``default_weight`` and writes :meth:`forward`; register it with
    ``@DISTILLERS.register("name")``.

    Args:
        student_shapes: shapes of all stage outputs of the student, without the batch dimension.
        teacher_shapes: the same of the teacher.

    Attributes:
        spots: pairs ``(student stage, teacher stage)``, shallow to deep. Lists of different lengths are paired from
            the shallow end up to the shorter one.

    Raises:
        SpotkdError: the rule finds no spot in one of the networks.
    """

    spot_rule: ClassVar[SpotRule]
    default_weight: ClassVar[float] = 1.0

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        super().__init__()
        rule = type(self).spot_rule
        self.spots = tuple(zip(rule(student_shapes), rule(teacher_shapes), strict=False))
        if not self.spots:
            raise SpotkdError(
                f"{type(self).__name__} finds no spot: it distils at '{rule.__name__}' and "
                f"the stages put out {list(student_shapes)} (student) and {list(teacher_shapes)} (teacher)"
            )

    @abstractmethod
    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        """The loss, a scalar: at each spot ``n / B`` times the loss of the ``n`` selected samples, summed over spots.

        Args:
            student: features at ``spots``, with gradients.
            teacher: features at ``spots``, without.
            mask: ``(B, len(spots))``, ones where the sample is distilled at the spot; carries no gradient.
            batch: the batch itself, for distillers that need labels or sample indices.
        """


class LogitDistiller(Distiller):
    """A distiller of the logits: it stands at the last spot, where KD does by default.

    Attributes:
        temperature: divides the logits of both networks.
    """

    spot_rule = logits
    temperature: float = 4.0


DISTILLERS: Registry[Callable[[Sequence[Shape], Sequence[Shape]], Distiller]] = Registry("distiller")


def masked_mean(per_sample: Tensor, mask: Tensor) -> Tensor:
    """``(1 / B) * sum_b mask_b * per_sample_b``, which is ``n / B`` times the mean over the selected samples."""
    return (per_sample * mask).mean()


def normalise(x: Tensor, dim: int) -> Tensor:
    """``x`` divided by its L2 norm along ``dim``; a row of zeros stays zero and gets no gradient.

    The usual ``x / max(norm, 1e-12)`` has the same values, but hands a row of zeros, which ReLU features do produce, a
    gradient multiplied by 1e12.
    """
    square = x.square().sum(dim, keepdim=True)
    alive = square > 1e-24
    norm = torch.where(alive, square, 1.0).sqrt()
    return torch.where(alive, x / norm, 0.0)
