r"""KDSVD: how the leading direction of one map goes with the next one's.

Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
arXiv:1807.06819.

**Idea.** Compress each map to its leading right-singular vector, one number for each channel, and match how the
vectors of consecutive maps relate.

**Formula.** Each sample's map is a matrix $HW \times C$. $v_t$ is the teacher's first right-singular vector; $v_s$ is
that of the student's first four which has the largest absolute cosine to it, with its sign. For consecutive maps with
vectors $v$ and $v'$, and for all channels $i$ of one map and $j$ of the next:

```math
R_{ij} = \exp\big( -(v_i - v'_j)^2 / 8 \big)
```

```math
l_b = \sum_{ij} \big( R^s_{ij} - R^t_{ij} \big)^2
```

```math
L = \sum_{\text{pairs } k} \frac{1}{B} \sum_b m_{b,k} m_{b,k+1} l_b
```

A term spans two spots, so it counts for the samples selected at both: the product of the two decisions.

**Constants.** One vector of the teacher, four candidates of the student, width 8, weight 1.

**Spots.** All feature maps but the stem's. Takes maps; student and teacher must have equally many channels at each.

**Cost.** An eigendecomposition of one Gram matrix a sample and map, of size $\min(HW, C)$, and $B C C'$ numbers a
pair. On CUDA the decomposition waits for the device. No parameters.

**Paper and author code.** The published SAKD code crashes as soon as two spots select different numbers of samples,
and multiplies a term by the share of only one of its two spots. Vectors come from an eigendecomposition of the
smaller Gram matrix (the code: an SVD). The derivative of either is infinite where singular values meet; here the
inverse gap is smoothed, and directions in which a map of low rank has nothing are zeros. The teacher's sign, which an
SVD leaves open, is the one with a non-negative sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, all_maps, normalise, weighted_means
from .fsp import check_consecutive, share_between_spots

_CANDIDATES, _WIDTH = 4, 8.0


class _Leading(torch.autograd.Function):
    """The leading eigenvectors ``(B, N, k)`` of symmetric matrices ``(B, N, N)``, largest eigenvalue first.

    The derivative of an eigenvector has the inverse gaps between its eigenvalue and all others as factors. They are
    smoothed, ``gap / (gap^2 + delta^2)``, so that eigenvalues which meet give a bounded gradient.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, count: int) -> Tensor:
        try:
            values, vectors = torch.linalg.eigh(gram)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it did not converge: the guard's business, too
            values, vectors = torch.full_like(gram[..., 0], torch.nan), torch.full_like(gram, torch.nan)
        ctx.save_for_backward(values, vectors)
        leading: Tensor = vectors[..., -count:].flip(-1)
        return leading

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        full = torch.zeros_like(vectors)
        full[..., -grad.shape[-1] :] = grad.flip(-1)
        gaps = values[..., None, :] - values[..., :, None]
        delta = torch.finfo(values.dtype).eps ** 0.5 * values[..., -1:, None]
        smoothed = gaps.square() + delta.square()
        inverse = torch.where(smoothed > 0, gaps / torch.where(smoothed > 0, smoothed, 1.0), 0.0)
        inner = (vectors.transpose(-2, -1) @ full) * inverse
        outer = vectors @ inner @ vectors.transpose(-2, -1)
        return (outer + outer.transpose(-2, -1)) / 2, None


def leading_vectors(feature: Tensor, count: int) -> Tensor:
    """The first right-singular vectors ``(B, C, count)`` of each sample's map ``(B, C, H, W)``, a matrix ``HW x C``."""
    columns = feature.flatten(2)  # (B, C, HW): the transposed matrix
    channels, positions = columns.shape[1:]
    count = min(count, channels, positions)
    gram = columns @ columns.transpose(1, 2) if channels <= positions else columns.transpose(1, 2) @ columns
    # Decompositions stop at numbers that are not finite; those are the guard's business, so they become NaN afterwards.
    sound = gram.isfinite().flatten(1).all(1)[:, None, None]
    gram = torch.where(sound, gram, 0.0)
    vectors: Tensor = _Leading.apply(gram, count)  # type: ignore[no-untyped-call]
    vectors = torch.where(sound, vectors, torch.nan)
    if channels <= positions:
        return vectors
    # Lengths are the singular values. Those below the rounding of the Gram matrix are noise in any direction.
    scaled = columns @ vectors
    noise = torch.finfo(gram.dtype).eps ** 0.5 * scaled.detach()[..., :1].norm(dim=1, keepdim=True)
    return normalise(scaled, dim=1, floor=noise.clamp(min=1e-12))


@full_precision
def directions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The compared vectors ``(B, C)`` of the student's and the teacher's map, both of length 1."""
    v_t = leading_vectors(teacher, 1)[..., 0]
    v_t = torch.where(v_t.sum(1, keepdim=True) < 0, -v_t, v_t)
    candidates = leading_vectors(student, _CANDIDATES)
    cosines = (candidates * v_t.detach()[..., None]).sum(1)
    best = cosines.abs().argmax(1, keepdim=True)
    chosen = candidates.gather(2, best[:, None].expand(-1, candidates.shape[1], -1))[..., 0]
    return chosen * cosines.gather(1, best).sign(), v_t


@full_precision
def kdsvd_loss(first_s: Tensor, next_s: Tensor, first_t: Tensor, next_t: Tensor) -> Tensor:
    """The squared difference of the relations of each sample, ``(B,)``, from the vectors ``(B, C)`` of two maps."""

    def relation(first: Tensor, following: Tensor) -> Tensor:
        return torch.exp(-(following[:, :, None] - first[:, None, :]).square() / _WIDTH)

    return (relation(first_s, next_s) - relation(first_t, next_t)).square().sum((1, 2))


@DISTILLERS.register("kdsvd")
class KDSVD(Distiller):
    """How the leading directions of consecutive maps relate: singular vectors, gated by both decisions."""

    spot_rule = all_maps
    separable = False  # a term is gated by both of its spots

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        check_consecutive(type(self).__name__, self.spots, student_shapes, teacher_shapes)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return weighted_means(self._relation_losses(student, teacher), mask[:, :-1] * mask[:, 1:])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return share_between_spots(self._relation_losses(student, teacher))

    def _relation_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        vectors = [directions(s, t) for s, t in zip(student, teacher, strict=True)]
        terms = [kdsvd_loss(s, next_s, t, next_t) for (s, t), (next_s, next_t) in itertools.pairwise(vectors)]
        return torch.stack(terms, dim=1)
