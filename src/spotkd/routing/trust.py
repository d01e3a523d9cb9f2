"""Trust: whom the teacher is believed about, and where.

Where a teacher errs, its features and logits are unlike what the student has found out from everybody else, and the
distillation loss of that sample is extreme. So at each spot the logarithms of the last samples' losses are described by
a mixture of two normal distributions. Where the two are clearly apart, a sample is distilled with the probability that
its loss belongs to the lower one; where they are not, everybody is, as by `always`. Where the labels are known, a
teacher that is wrong about a sample is not asked about it at all. Of several teachers each is judged by itself.

With `trust:graded=true` it is asked as far as its mistakes tell something. Who errs for want of skill mostly has the
label near the top; where a teacher's output is that of another sample, the label lies anywhere. So the ranks of the
labels in its mistakes are compared with chance, and a mistake has the weight 1 minus the local false discovery rate of
its rank (in bins of 1, 2, 4, ... ranks over the mistakes among the last 4 096 samples; the share of chance is that of
the worse half, Storey, "A direct approach to false discovery rates", 2002). Between two classes nothing is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..stages import Shape
from .history import History
from .mistakes import BINS, fit_beliefs, label_ranks, look_up_beliefs
from .strategies import STRATEGIES, Decisions, Evidence, Strategy

KEPT = 4096  # samples that the mixture describes
EVERY = 5  # steps between two fits
ROUNDS = 15  # of expectation and maximisation, each time from the 20 % and 80 % quantiles
SEPARATION = 2.0  # distance of the two means in geometric means of the deviations, from which the mixture is used
FEWEST = 256  # samples below which nothing is concluded
_NARROWEST = 1e-3  # deviation of a component at least, in logarithms


@STRATEGIES.register("trust")
class Trust(Strategy):
    """Distil the samples about which the teacher can be believed: right about the label, and no outlier at the spot.

    Per spot, a mixture of two normal distributions of the logarithms of the losses (expectation and maximisation over
    the last 4 096 samples, every 5 steps). If its means are more than 2 geometric means of the deviations apart, the
    weight is the posterior of the lower one: 1 below its mean, 0 above the upper one's. Otherwise it is 1.

    Args:
        labels: whether a sample about which the teacher is wrong is left out.
        graded: leave it out as far as the rank that the teacher gives the label is one of chance, and no further.
    """

    needs_losses = True
    separation: Tensor
    components: Tensor
    beliefs: Tensor

    def __init__(self, labels: bool = True, graded: bool = False) -> None:
        super().__init__()
        self.labels, self.graded = bool(labels), bool(graded)

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        self.history = History(KEPT, spots)
        self.register_buffer("separation", torch.zeros(spots))
        self.register_buffer("components", torch.zeros(6, spots))  # mean, deviation and share of either
        if self.graded:
            self.ranks = History(KEPT, spots)
            self.register_buffer("beliefs", torch.zeros(BINS, spots))  # in mistakes of each bin of ranks
        self._steps = 0

    def weigh(self, evidence: Evidence) -> Decisions:
        if self.training:
            self.history.add(_logarithm(evidence.require_losses()))
            if self.graded:
                self.ranks.add(_ranks(evidence))
            if self.phase:
                self._fit(evidence.teacher[-1].shape[1])
            self.advance()
        return Decisions(self.expected_weights(evidence))

    @property
    def phase(self) -> bool:
        """Whether the mixture is fitted in this step, see :class:`~spotkd.recording.Counter`."""
        return self._steps % EVERY == 0

    def advance(self) -> None:
        self._steps += 1

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        losses = evidence.require_losses()
        weights = lower_posterior(_logarithm(losses), self.components)
        weights = torch.where(self.separation > SEPARATION, weights, 1.0)
        if self.labels:
            weights = weights * self._belief(evidence)
        return weights.to(losses.dtype)

    def _belief(self, evidence: Evidence) -> Tensor:
        """How far each column's teacher is believed for what it says about the label ``(B, K + 1)``."""
        right = evidence.is_teacher_right()
        if not self.graded:
            return right
        return torch.where(right, 1.0, look_up_beliefs(_ranks(evidence), self.beliefs))

    def measures(self) -> Mapping[str, Tensor]:
        return {"separation": self.separation}

    @torch.no_grad()
    def _fit(self, classes: int) -> None:
        values = self.history.values
        components = fit_mixture(values)
        mean_1, deviation_1, _, mean_2, deviation_2, _ = components.unbind()
        separation = (mean_2 - mean_1) / (deviation_1 * deviation_2).sqrt()
        enough = values.isfinite().sum(0) >= FEWEST
        self.components.copy_(components)
        self.separation.copy_(torch.where(enough, separation, 0.0))
        if self.graded:
            self.beliefs.copy_(fit_beliefs(self.ranks.values, classes))

    def get_extra_state(self) -> Tensor:
        """The number of steps, so that a resumed run fits when it would have."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Tensor) -> None:
        self._steps = int(state)


def _ranks(evidence: Evidence) -> Tensor:
    """The label's rank among the classes that a column's teacher did not name, ``(B, K + 1)``."""
    return evidence.spread(torch.stack([label_ranks(x.float(), evidence.labels) for x in evidence.each_teacher], 1))


def _logarithm(losses: Tensor) -> Tensor:
    """Of losses that may be 0, or below it by rounding."""
    return losses.detach().float().clamp(min=1e-12).log()


def _densities(x: Tensor, components: Tensor) -> Tensor:
    """Logarithms ``(2, ...)`` of share times density of either component ``(6, ...)`` at ``x``, which broadcast."""
    mean, deviation, share = components.view(2, 3, *components.shape[1:]).unbind(1)
    return share.log() - deviation.log() - ((x - mean) / deviation).square() / 2


def fit_mixture(x: Tensor, rounds: int = ROUNDS) -> Tensor:
    """A mixture of two normal distributions for each column of ``x`` ``(N, K)``; NaN counts for nothing.

    Returns:
        ``(6, K)``: mean, deviation and share of the lower component, then those of the upper one.
    """
    x = x.T.contiguous()  # sums over samples that lie side by side take half the time
    known = x.isfinite()
    count = known.sum(1).clamp(min=1)
    seen = torch.where(known, x, torch.nan)
    x = torch.where(known, x, 0.0)
    centre = x.sum(1) / count
    spread = ((known * (x - centre[:, None]).square()).sum(1) / count).sqrt().clamp(min=_NARROWEST)
    shares = torch.linspace(0.2, 0.8, 2, dtype=x.dtype, device=x.device)
    low, high = seen.nanquantile(shares, dim=1).nan_to_num()
    half = torch.full_like(low, 0.5)
    components = torch.stack([low, spread, half, high, spread, half])
    for _ in range(rounds):
        belongs = torch.softmax(_densities(x, components[..., None]), dim=0) * known
        weight = belongs.sum(2).clamp(min=1e-6)
        mean = (belongs * x).sum(2) / weight
        variance = (belongs * (x - mean[..., None]).square()).sum(2) / weight
        deviation = variance.sqrt().clamp(min=_NARROWEST)
        components = torch.stack([mean, deviation, weight / weight.sum(0)], dim=1).flatten(0, 1)
    swapped = torch.cat([components[3:], components[:3]])
    return torch.where(components[0] <= components[3], components, swapped)


def lower_posterior(x: Tensor, components: Tensor) -> Tensor:
    """The probability ``(N, K)`` of the lower component at ``x``: 1 up to its mean, 0 from the upper one's mean on.

    Between the two means the posterior falls, whatever the deviations are, so the whole never rises with ``x``.
    """
    posterior = torch.softmax(_densities(x, components[:, None]), dim=0)[0]
    return torch.where(x <= components[0], 1.0, torch.where(x >= components[3], 0.0, posterior))
