r"""CRD: contrast with thousands of stored samples.

Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699.

**Idea.** The student's embedding of an image should be told apart from the teacher's embeddings of other images, and
the other way round. A memory bank keeps the last embedding of every training sample by either network, so that there
are thousands of negatives.

**Formula.** $v_s$, $v_t$ are both embeddings after a linear layer to 128 numbers, scaled to length 1; $M_s$, $M_t$
the memory banks. For sample $b$ with positive $k = 0$ and $K$ negatives out of $N$ training samples, $q = K / N$:

```math
o_k = \exp( v_s \cdot M_t[k] / \tau ) / Z
```

```math
l_b(v_s, M_t) = - \ln \frac{o_0}{o_0 + q + \epsilon} - \sum_k \ln \frac{q}{o_k + q + \epsilon}
```

```math
L = \frac{1}{B} \sum_b m_b \big( l_b(v_s, M_t) + l_b(v_t, M_s) \big)
```

The student is told apart from the teacher's memory, and the teacher from the student's. Then, at the selected samples'
rows, $M \leftarrow \mathrm{normalise}( M / 2 + v / 2 )$. $Z$ is set once, by the first batch with a selected sample, so
that the mean score there is $1 / N$.

**Constants.** `negatives = 16384`, `dim = 128`, $\tau = 0.07$, `momentum = 0.5`, $\epsilon = 10^{-7}$, weight 0.8.

**Spots.** The pooled embedding. Takes vectors. Needs the labels of all training samples and each sample's index
(`SpotKD(..., labels=...)` and `Batch.indices`).

**Cost.** Two linear layers and two memory banks of $N \times 128$ numbers (51 MB for 50 000 samples), kept in the
checkpoint. Scores are one matrix product of the batch with the candidates' rows, $B \times (K + n_c)$ with $n_c$ the
size of the largest class; the published code gathers $B \times (K + 1) \times 128$ numbers twice, 1 GB for 64 samples.

**Paper and author code.** Negatives are drawn on the device: uniformly from the other classes, without replacement
where the smallest such pool has enough, else with. Without replacement the samples of one batch share one random order
of the training set, of which each takes the first $K$ of other classes: each sample's draw has the code's
distribution, but samples of a batch share most of their negatives (in the code they are independent). `relaxed` draws
the positive from the sample's class (it may be the sample itself). $Z$ is kept in the checkpoint (the code loses it),
and rows of zeros are guarded (the code divides by a bare norm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_gather, all_reduce_sum, uniform
from ..errors import SpotkdError
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, VECTOR, Distiller, embedding, masked_mean, normalise

_EPS = 1e-7


@full_precision
def crd_loss(positive: Tensor, negatives: Tensor, count: int, ratio: float, norm: Tensor | float = 0.0) -> Tensor:
    """The contrastive loss of each sample, ``(B,)``, in one direction.

    Both logarithms are softplus functions of ``ln o``, one pass each and exact for tiny scores: with ``c = q + eps``,
    ``-ln(o / (o + c)) = softplus(ln c - ln o)`` and ``-ln(q / (o + c)) = softplus(ln o - ln c) + ln(c / q)``.

    Args:
        positive: logarithms ``(B,)`` of the scores of the positives.
        negatives: logarithms ``(B, W)`` of those of candidates, minus infinity where one is not among the ``K`` drawn.
        count: ``K``.
        ratio: ``q = K / N``.
        norm: ``ln Z``, by which the scores are still to be normalised.
    """
    shift = math.log(ratio + _EPS)
    level = norm + shift  # one pass over the scores for both
    hit = F.softplus(level - positive, threshold=40)
    return hit + F.softplus(negatives - level, threshold=40).sum(1) + count * (shift - math.log(ratio))


class Negatives(nn.Module):
    """Draws, for each sample of a batch, a positive and ``count`` negatives from the training set, on the device.

    Args:
        labels: ``(N,)`` labels of the training set.
        count: negatives of a sample.
        relaxed: draw the positive from the sample's class instead of taking the sample itself.
    """

    labels: Tensor
    order: Tensor
    first: Tensor
    sizes: Tensor

    def __init__(self, labels: Tensor, count: int, relaxed: bool) -> None:
        super().__init__()
        self.count, self.relaxed = count, relaxed
        sizes = torch.bincount(labels)
        self.largest = int(sizes.max())
        if self.largest == len(labels):
            raise SpotkdError("CRD contrasts samples of different classes, and all training labels are the same")
        # Not part of the state: they follow from the data.
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)  # samples class by class
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("first", sizes.cumsum(0) - sizes, persistent=False)

    def forward(self, indices: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positives ``(B,)``, candidates and which of them each sample draws ``(B, W)``, from a batch's own.

        Candidates are shared by the batch, ``(W,)``, or each sample's own, ``(B, W)``.
        """
        total, batch, device = len(self.labels), len(labels), labels.device
        sizes, first = self.sizes[labels], self.first[labels]
        positives = indices
        if self.relaxed:
            positives = self.order[first + (uniform(batch, device=device) * sizes).long()]
        if self.count > total - self.largest:  # too few for some class: with replacement
            among = (uniform(batch, self.count, device=device) * (total - sizes)[:, None]).long()
            among += (among >= first[:, None]) * sizes[:, None]  # step over the sample's own class
            return positives, self.order[among], torch.ones_like(among, dtype=torch.bool)
        # One random order of all samples, of which each of the batch takes the first of other classes: so many hold
        # enough of them for every sample, and every one in the first `count` places is taken.
        # In memory a candidate's samples lie side by side, as its scores will.
        candidates = torch.randperm(total, device=device)[: self.count + self.largest]
        classes = self.labels.index_select(0, candidates)
        foreign = classes[:, None] != labels
        taken = classes[: self.count]
        own = torch.zeros_like(self.sizes).scatter_add_(0, taken, torch.ones_like(taken))
        perhaps = foreign[self.count :]
        perhaps &= perhaps.cumsum(0) <= own[labels]  # as many more as the first places hold of the sample's own class
        return positives, candidates, foreign.T


def _reset_norms_ready(distiller: nn.Module, _: object) -> None:
    """Loaded buffers may know less: until the next epoch starts, look at them again."""
    distiller.norms_ready = False  # type: ignore[assignment]


_NEGATIVES = 16384  # as published, of however many images


@DISTILLERS.register("crd")
class CRD(Distiller):
    """Contrast: the embeddings of one image by both networks belong together, among thousands of stored others.

    Args:
        negatives: negatives of each sample; more than the default, at most as many as there are training images.
        relaxed: draw the positive from the sample's class instead of taking the sample itself.
        dim: length of the embedded vectors.
        tau: temperature of the scores.
        momentum: share of the old value when a row of a memory bank is updated.
    """

    spot_rule = embedding
    takes = (VECTOR,)
    default_weight = 0.8
    memory_student: Tensor
    memory_teacher: Tensor
    norms: Tensor
    norms_known: Tensor

    def __init__(
        self,
        student_shapes: Sequence[Shape],
        teacher_shapes: Sequence[Shape],
        *,
        negatives: int = _NEGATIVES,
        relaxed: bool = False,
        dim: int = 128,
        tau: float = 0.07,
        momentum: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        labels: Tensor | None = common.get("labels")
        if labels is None:
            raise SpotkdError("CRD keeps a memory bank of the training set: give its labels, SpotKD(..., labels=...)")
        if negatives > max(len(labels), _NEGATIVES):
            raise SpotkdError(f"CRD: negatives is {negatives}: there are {len(labels)} training images; give fewer")
        if tau == 0 or momentum > 1:
            raise SpotkdError(f"CRD: tau is {tau} and momentum {momentum}: give tau above 0 and momentum up to 1")
        ((at_student, at_teacher),) = self.spots
        self.tau, self.momentum = tau, momentum
        self.embed_student = nn.Linear(student_shapes[at_student][0], dim)
        self.embed_teacher = nn.Linear(teacher_shapes[at_teacher][0], dim)
        self.draw = Negatives(labels, negatives, relaxed)
        bound = (3 / dim) ** 0.5
        for name in ("memory_student", "memory_teacher"):
            self.register_buffer(name, torch.empty(len(labels), dim).uniform_(-bound, bound))
        self.register_buffer("norms", torch.ones(2))  # Z of the student's and of the teacher's scores
        self.register_buffer("norms_known", torch.tensor(False))
        self.norms_ready = False  # what norms_known was at the epoch's start, known to the host
        self.register_load_state_dict_post_hook(_reset_norms_ready)  # type: ignore[no-untyped-call]

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """As for any distiller; and reads whether ``Z`` is known, so that no step computes it in vain."""
        super().start_epoch(epoch, epochs)
        self.norms_ready = bool(self.norms_known)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        return masked_mean(self._losses(student, teacher, mask[:, 0], batch), mask[:, 0])

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        return self._losses(student, teacher, torch.ones_like(student[0][:, 0]), batch)[:, None]

    def _losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch) -> Tensor:
        if batch.indices is None:
            raise SpotkdError("CRD needs to know which samples these are: give Batch(images, labels, indices)")
        embeddings = self.embed_student(student[0]), self.embed_teacher(teacher[0])
        try:
            return self._contrast(*embeddings, mask, batch.indices, batch.classes)
        except IndexError as error:
            samples = len(self.memory_student)
            raise SpotkdError(
                f"Batch.indices must be from 0 to {samples - 1}: CRD was given {samples} labels"
            ) from error

    @full_precision
    def _contrast(self, student: Tensor, teacher: Tensor, mask: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
        v_s, v_t = normalise(student, dim=1), normalise(teacher, dim=1)
        positives, candidates, drawn = self.draw(indices, labels)
        barred = torch.where(drawn, 0.0, -math.inf).to(v_s.dtype)
        logarithms = []
        for v, bank in ((v_s, self.memory_teacher), (v_t, self.memory_student)):
            # Rows are copied: the memory bank is updated below, and the backward pass needs it as it was.
            query = v / self.tau
            if candidates.dim() == 1:
                rows = bank.index_select(0, candidates).to(v.dtype)
                scores = torch.addmm(barred.T, rows, query.T).T
            else:
                scores = barred + (query @ bank.clone().to(v.dtype).T).gather(1, candidates)
            positive = (query * bank.index_select(0, positives).to(v.dtype)).sum(1)
            logarithms.append((positive, scores))
        norms = self._normalisers(logarithms, mask).log()
        ratio = self.draw.count / len(self.memory_student)
        losses = [
            crd_loss(p, n, self.draw.count, ratio, z) for (p, n), z in zip(logarithms, norms.unbind(), strict=True)
        ]
        if self.training:
            self._update_memory_banks(v_s.detach(), v_t.detach(), mask, indices)
        return losses[0] + losses[1]

    @torch.no_grad()
    def _normalisers(self, logarithms: Sequence[tuple[Tensor, Tensor]], mask: Tensor) -> Tensor:
        """Both ``Z``: those kept, or, at the first batch with a selected sample, the mean score times ``N``."""
        if self.norms_ready:
            return self.norms.to(logarithms[0][0].dtype)
        scores = [((p.exp() + n.exp().sum(1)) * mask).sum() for p, n in logarithms]
        count, *scores = all_reduce_sum(torch.stack([mask.sum(), *scores]))
        means = torch.stack(scores) / (count * (self.draw.count + 1)).clamp(min=1)
        fresh = torch.where(count > 0, means * len(self.memory_student), 1.0)
        norms = torch.where(self.norms_known, self.norms.to(fresh.dtype), fresh)
        if self.training:
            self.norms.copy_(norms)
            self.norms_known.logical_or_(count > 0)
        return norms

    @torch.no_grad()
    def _update_memory_banks(self, v_s: Tensor, v_t: Tensor, mask: Tensor, indices: Tensor) -> None:
        """Move the selected samples' rows of both memory banks towards their present embeddings."""
        v_s, v_t, mask, indices = all_gather(v_s), all_gather(v_t), all_gather(mask), all_gather(indices)
        for bank, v in ((self.memory_student, v_s), (self.memory_teacher, v_t)):
            old = bank[indices]
            new = normalise(self.momentum * old + (1 - self.momentum) * v.to(old.dtype), dim=1)
            bank.index_copy_(0, indices, torch.where(mask[:, None] > 0, new, old))
