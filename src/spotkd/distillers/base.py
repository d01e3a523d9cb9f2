"""What every distiller shares: the interface, the rules that place it, and masks in place of subsets.

A distiller says WHAT is distilled. WHERE is the strategy's decision and arrives as a mask ``(B, spots)`` of zeros and
ones. A distiller never picks ``feature[mask]``: a loss that is a mean over samples is computed for every sample and
multiplied by the mask; a loss on relations between samples takes the mask into its matrices. Both equal
``n / B`` times the loss of the ``n`` selected samples, with shapes that do not depend on the mask.

A mask may also hold weights of any size, 0 or more. A mean over samples becomes the weighted mean; a relation between
samples counts with the product of their weights, and ``n`` is their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deprecation import Renamed
from ..errors import SpotkdError
from ..precision import full_precision
from ..registry import Registry
from ..stages import Batch, Shape

SpotRule = Callable[[Sequence[Shape]], tuple[int, ...]]
Spots = tuple[tuple[int, int], ...]

VECTOR, TOKENS, MAP = 1, 2, 3  # the kinds of features, by the number of dimensions beside the batch's
FEATURE_KINDS = {VECTOR: "vectors (D,)", TOKENS: "tokens (N, C)", MAP: "maps (C, H, W)"}


# Where a distiller sits in one network, given the shapes of all its stage outputs. Each network resolves the rule for
# itself: the author code uses one index for both, which names different things when their lengths differ. Tokens of a
# vision transformer count as maps here; whether the distiller can use them is the question of `takes`.


def every_map(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Every feature map, the stem's too."""
    return tuple(index for index, shape in enumerate(shapes) if len(shape) in (MAP, TOKENS))


def all_maps(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Every feature map but the stem's."""
    return every_map(shapes)[1:]


def third_map(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Feature map ``f_2``, or the last one of a shorter network."""
    return every_map(shapes)[:3][-1:]


def last_map(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The deepest feature map."""
    return every_map(shapes)[-1:]


def embedding(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The pooled vector before the classifier."""
    return (len(shapes) - 2,)


def maps_and_embedding(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Every feature map but the stem's, and the pooled vector."""
    return (*all_maps(shapes), *embedding(shapes))


def logits(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """The classifier's output, which is the last spot of every network."""
    return (len(shapes) - 1,)


_SINGLE = (third_map, last_map, embedding, logits)  # rules of distillers that work at one spot alone


def pair_spots(rule: SpotRule, student: Sequence[Shape], teacher: Sequence[Shape]) -> Spots:
    """The spots of two networks by one rule: like with like, from the shallow end up to the shorter list.

    Maps (and tokens) are paired with maps, vectors with vectors.
    """
    pairs: list[tuple[int, int]] = []
    for vectors in (False, True):
        mine, theirs = (
            [index for index in rule(shapes) if (len(shapes[index]) == VECTOR) is vectors]
            for shapes in (student, teacher)
        )
        pairs += zip(mine, theirs, strict=False)
    return tuple(pairs)


@dataclass(frozen=True)
class Preparation:
    """A phase of training that a distiller needs before distillation begins.

    Attributes:
        what: what is being trained, for people.
        share: its length as a share of the run's epochs.
        lr: learning rate of its SGD, which is constant.
        momentum: its momentum.
        weight_decay: its weight decay.
        trains_student: whether the student is trained along.
    """

    what: str
    share: float = 30 / 240
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    trains_student: bool = False


class Distiller(nn.Module):
    """A method of distillation: one loss at one or more spots.

    A subclass sets ``spot_rule``, ``takes`` and ``default_weight`` and writes :meth:`sample_losses`, or, if its loss is
    more than a mean over samples, :meth:`forward`; register it with ``@DISTILLERS.register("name")``. Options of its
    own are keyword arguments of its constructor.

    Args:
        student_shapes: shapes of all stage outputs of the student, without the batch dimension.
        teacher_shapes: the same of the teacher.
        spots: pairs ``(student stage, teacher stage)``, shallow to deep, in place of those of the rule.
        labels: ``(n,)`` labels of all training samples, in the order of ``Batch.indices``; only distillers that keep a
            memory bank of the training set (CRD) need them.

    Attributes:
        spot_rule: where it sits in one network, given the shapes of all stage outputs.
        takes: the kinds of features that it can use.
        default_weight: its weight beta in the student's loss; the paper's.
        warmup: share of the run's epochs over which its weight rises linearly to the full one; 0 for none.
        before_relu: whether it sees features before the ReLU that ends a stage.
        relational: whether its loss relates samples to each other; with ``gather`` it then sees those of all devices.
        separable: whether its loss is the sum over the spots of the weighted means of :meth:`sample_losses`.
        preparation: a phase of training before distillation, or None.
        spots: pairs ``(student stage, teacher stage)``, shallow to deep; see :func:`pair_spots`.
        warmup_factor: what its weight is multiplied by in this epoch; 1 after the warm-up.

    Raises:
        SpotkdError: the rule finds no spot in one of the networks, or features of a kind that it cannot use.
    """

    spot_rule: ClassVar[SpotRule]
    takes: ClassVar[tuple[int, ...]] = (MAP,)
    default_weight: ClassVar[float] = 1.0
    warmup: ClassVar[float] = 0.0
    before_relu: ClassVar[bool] = False
    relational: ClassVar[bool] = False
    separable: ClassVar[bool] = True
    preparation: ClassVar[Preparation | None] = None

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        *,
        spots: Spots | None = None,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        rule, name = type(self).spot_rule, type(self).__name__
        self.warmup_factor = 1.0
        self.spots = pair_spots(rule, student_shapes, teacher_shapes) if spots is None else spots
        if not self.spots:
            raise SpotkdError(
                f"{name} finds no spot: it distils at '{rule.__name__}' and "
                f"the stages put out {list(student_shapes)} (student) and {list(teacher_shapes)} (teacher)"
            )
        if len(self.spots) > 1 and rule in _SINGLE:
            raise SpotkdError(f"{name} distils at one spot, and {len(self.spots)} are given")
        for which, shapes, stages in zip(
            ("student", "teacher"), (student_shapes, teacher_shapes), zip(*self.spots, strict=True), strict=True
        ):
            for stage in stages:
                if len(shapes[stage]) not in self.takes:
                    kinds = " or ".join(FEATURE_KINDS[kind] for kind in self.takes)
                    raise SpotkdError(
                        f"{name} distils {kinds}, and stage {stage} of the {which} "
                        f"puts out {FEATURE_KINDS.get(len(shapes[stage]), 'something else')} of shape "
                        f"{tuple(shapes[stage])}; 'spotkd distillers' shows what each distiller takes"
                    )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        """The loss, a scalar: at each spot ``n / B`` times the loss of the ``n`` selected samples, summed over spots.

        By default the weighted means of :meth:`sample_losses`.

        Args:
            student: features at ``spots``, with gradients.
            teacher: features at ``spots``; without gradients, unless the strategy trains the teacher too.
            mask: ``(B, len(spots))``, ones where the sample is distilled at the spot; carries no gradient.
            batch: the batch itself, for distillers that need labels or sample indices.
        """
        return weighted_means(self.sample_losses(student, teacher, batch), mask)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        """Each sample's own loss at each spot, ``(B, len(spots))``, where all samples are distilled at all spots.

        The mean over the samples, summed over the spots, is the loss of the whole batch. Where the loss relates samples
        or spots, this is each one's share of it: a pair's term belongs to the sample whose row it is in, a term
        between two spots to both by halves. Arguments as for :meth:`forward`.

        Raises:
            SpotkdError: the distiller does not say.
        """
        name = type(self).__name__
        raise SpotkdError(f"{name} gives no losses of single samples, which this strategy needs: write sample_losses()")

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Epoch ``epoch`` of ``epochs``, counted from 1, begins: moves the warm-up."""
        rising = round(self.warmup * epochs)
        self.warmup_factor = min(1.0, epoch / rising) if rising else 1.0

    ramp = Renamed("warmup_factor")

    def prepared_modules(self) -> list[nn.Module]:
        """The parts of its own that the preparation trains."""
        return []

    def preparation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss of the preparation, a scalar, from features at the spots; ``student`` is empty if not trained."""
        raise NotImplementedError(f"{type(self).__name__} has no preparation")


class LogitDistiller(Distiller):
    """A distiller of the logits: it stands at the last spot, where KD does by default.

    A subclass writes :meth:`sample_loss`, or, if its loss is more than a mean over samples, :meth:`loss`.

    Attributes:
        temperature: divides the logits of both networks.
        standardise: bring each sample's logits to mean 0 and deviation 1 first (Sun et al., "Logit Standardization in
            Knowledge Distillation", CVPR 2024), so that the student need not match the teacher's scale.
    """

    spot_rule = logits
    takes = (VECTOR,)
    temperature: float = 4.0
    standardise: bool = False

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return self.loss(*self._scaled(student[0], teacher[0]), mask[:, 0], batch)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return self.sample_loss(*self._scaled(student[0], teacher[0]), batch)[:, None]

    def loss(self, student: Tensor, teacher: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """As :meth:`Distiller.forward`, from logits ``(B, C)`` and the mask ``(B,)`` of the one spot."""
        return masked_mean(self.sample_loss(student, teacher, batch), mask)

    def sample_loss(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """As :meth:`Distiller.sample_losses`, ``(B,)``, from logits ``(B, C)``."""
        return super().sample_losses([student], [teacher], batch)[:, 0]

    def _scaled(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return (standardise_logits(student), standardise_logits(teacher)) if self.standardise else (student, teacher)


DISTILLERS: Registry[Callable[..., Distiller]] = Registry("distiller")


def masked_mean(per_sample: Tensor, mask: Tensor) -> Tensor:
    """``(1 / B) * sum_b mask_b * per_sample_b``, which is ``n / B`` times the mean over the selected samples."""
    return (per_sample * mask).mean()


def weighted_means(losses: Tensor, weights: Tensor) -> Tensor:
    """The masked means of every spot's losses ``(B, K)``, summed; 0 for no spot."""
    means = [masked_mean(mine, weight) for mine, weight in zip(losses.unbind(1), weights.unbind(1), strict=True)]
    return total(means) if means else losses.new_zeros(())


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of the terms of all spots."""
    return torch.stack(list(terms)).sum()


def normalise(x: Tensor, dim: int, floor: Tensor | float = 1e-12) -> Tensor:
    """``x`` divided by its L2 norm along ``dim``; a row of zeros stays zero and gets no gradient.

    The usual ``x / max(norm, 1e-12)`` has the same values, but hands a row of zeros, which ReLU features do produce, a
    gradient multiplied by 1e12. Rows not longer than ``floor`` count as zeros.
    """
    square = x.square().sum(dim, keepdim=True)
    alive = square > floor**2
    norm = torch.where(alive, square, 1.0).sqrt()
    return torch.where(alive, x / norm, 0.0)


def centre_and_normalise(x: Tensor, dim: int, mask: Tensor | None = None) -> Tensor:
    """``x`` less its mean along ``dim``, scaled to length 1: Pearson's correlation is the inner product of two.

    Where ``x`` is constant it becomes zeros without gradient. Constant means but for rounding, which is seldom exact
    and would otherwise be scaled to length 1, with a gradient of 1e7.

    Args:
        x: a matrix.
        dim: the dimension that the mean and the length are taken over.
        mask: weights that broadcast to ``x``, such as zeros and ones: how much elements count; None for equally.
    """
    chosen = torch.ones_like(x) if mask is None else mask.expand_as(x)
    present = chosen * x
    weight = chosen.sum(dim, keepdim=True)
    mean = present.sum(dim, keepdim=True) / torch.where(weight > 0, weight, 1.0)
    rounding = 8 * torch.finfo(x.dtype).eps * present.detach().norm(dim=dim, keepdim=True)
    return normalise(chosen.sqrt() * (x - mean), dim, floor=rounding)


@full_precision
def standardise_logits(x: Tensor) -> Tensor:
    """Logits ``(B, C)`` with mean 0 and (unbiased) standard deviation 1 in each row; constant rows become zeros."""
    return centre_and_normalise(x, dim=1) * math.sqrt(max(x.shape[1] - 1, 1))


def match_sizes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two maps ``(B, C, H, W)`` to the smaller of their sizes: the larger one is averaged down."""
    size = (min(student.shape[-2], teacher.shape[-2]), min(student.shape[-1], teacher.shape[-1]))
    student, teacher = (f if f.shape[-2:] == size else F.adaptive_avg_pool2d(f, size) for f in (student, teacher))
    return student, teacher
