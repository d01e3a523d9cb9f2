"""Cohorts: which samples to distil where, by trials on images that nothing is trained on.

A sample belongs to one of six cohorts: the teacher is right about it or wrong, and is unsure, middling or sure of that
(thirds of its largest probability over the training samples). Nothing that a student learns moves a sample into another
one. The first epoch distils everybody and sees how large the cohorts are. In every later one chance decides, for each
spot and cohort apart, how much is distilled; at its end the loss on the validation images answers. Since the draws
are independent of everything, whatever goes along with them was caused by them: `spotkd trial RUN` reads the effects.

The answer is the loss on all validation images, not on those of the same cohort: samples about which the teacher errs
harm everybody. Draws of successive epochs are independent, and not opposite: what an epoch leaves behind would
otherwise count against the next one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..stages import Shape
from .history import History
from .strategies import STRATEGIES, Decisions, Draw, Evidence, Strategy

KEPT = 4096  # samples by which the sizes of the cohorts are judged
COHORTS = tuple(f"{verdict}, {sure}" for verdict in ("wrong", "right") for sure in ("unsure", "middling", "sure"))
LARGEST = 4.0  # weight that is learnt, and the smallest is one over it
DOUBTED, SURE = 1.0, 4.0  # standard errors up to which an effect is taken for chance, and from which it is believed
_TREND = 0.3  # of what an epoch gains, the part of the newest one


@STRATEGIES.register("trial")
class Trial(Strategy):
    """A randomised trial: in every epoch after the first a fair coin for each spot and cohort, to distil or not.

    It learns nothing and costs the half of the distillation. `spotkd trial RUN` tells what distilling where is worth.
    Needs validation images, `--data.val_share 0.1`; the average of the weights, `--ema 0.98`, makes answers precise.
    """

    needs_held_out = True
    neutral: ClassVar[float] = 1.0  # what stands for the first epoch, in which nothing is drawn
    levels: Tensor
    limits: Tensor
    shares: Tensor

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        self.history = History(KEPT, 2)  # how sure the teacher is, and whether it is right
        self.register_buffer("levels", torch.full((len(COHORTS), spots), self.neutral))
        self.register_buffer("limits", torch.zeros(2))
        self.register_buffer("shares", torch.full((len(COHORTS),), 1 / len(COHORTS)))
        self._seed, self._knows = int(torch.randint(2**31, ())), False  # whether the first epoch is over

    def start_epoch(self, epoch: int, epochs: int) -> None:
        if self._knows:
            noise = torch.rand(self.levels.shape, generator=torch.Generator().manual_seed(self._seed + epoch))
            self.levels.copy_(self.draw(noise))

    def draw(self, noise: Tensor) -> Tensor:
        """The levels of an epoch ``(cohorts, K + 1)`` from numbers between 0 and 1."""
        return (noise < 0.5).to(noise.dtype)

    def weights(self) -> Tensor:
        """How much each cohort is distilled where in this epoch, ``(cohorts, K + 1)``."""
        return self.levels

    def mean_weights(self) -> Tensor:
        """The same on average over what may be drawn."""
        return torch.full_like(self.levels, 0.5 if self._knows else 1.0)

    def weigh(self, evidence: Evidence) -> Decisions:
        if self.training and not self._knows:
            self.history.add(torch.stack(judge_teacher(evidence), dim=1))
        return Decisions(self._look_up(self.weights(), evidence))

    def expected_weights(self, evidence: Evidence) -> Tensor:
        return self._look_up(self.mean_weights(), evidence)

    def _look_up(self, weights: Tensor, evidence: Evidence) -> Tensor:
        return weights[self.find_cohorts(*judge_teacher(evidence))].to(evidence.teacher[-1].dtype)

    def find_cohorts(self, sure: Tensor, right: Tensor) -> Tensor:
        """Indices of :data:`COHORTS` ``(B,)``. Arguments as :func:`judge_teacher` gives them."""
        return 3 * right.long() + (sure[:, None] >= self.limits).sum(1)

    @torch.no_grad()
    def finish_epoch(self, held_out_loss: float) -> Sequence[Draw]:
        rows = [
            Draw(cohort, share, tuple(levels))
            for cohort, share, levels in zip(COHORTS, self.shares.tolist(), self.levels.tolist(), strict=True)
        ]
        if self._knows:
            self.learn(held_out_loss)
        else:
            self._measure_cohorts()
            self._knows = True
        return rows

    def learn(self, held_out_loss: float) -> None:
        """Look at what an epoch whose levels were drawn has led to."""

    def _measure_cohorts(self) -> None:
        known = self.history.values[self.history.values.isfinite().all(1)]
        if len(known):
            self.limits.copy_(known[:, 0].quantile(torch.tensor([1 / 3, 2 / 3]).to(known)))
            counts = torch.bincount(self.find_cohorts(*known.unbind(1)), minlength=len(COHORTS))
            self.shares.copy_(counts / len(known))

    def get_extra_state(self) -> Tensor:
        """The seed of the draws, and whether the first epoch is over."""
        return torch.tensor([self._seed, int(self._knows)])

    def set_extra_state(self, state: Tensor) -> None:
        self._seed, self._knows = int(state[0]), bool(state[1])


@STRATEGIES.register("cohort")
class Cohort(Trial):
    """The strategy that learns from trials how much to distil which samples where.

    In every epoch the weight of each spot and cohort is drawn: its mean, half of it or twice as much. Where the loss on
    the validation images falls faster than expected whenever a weight is large, its mean rises, up to 4, and where it
    falls slower the mean sinks, down to a quarter. Effects within one standard error of nothing count as nothing, so
    the mean stays at 1. All means are scaled so that as much is distilled as by `always`. Needs validation images,
    `--data.val_share 0.1`; the average of the weights, `--ema 0.98`, makes their answers precise.

    It is a bet for long runs: in 24 epochs (glyph94, 1 920 images, AT, 40 % of the teacher's outputs wrong) all means
    by spot stayed within 0.89 and 1.15, and the student got to 65.3 % on the validation images, `always` to 67.9 % (one
    seed).
    """

    neutral = 0.0
    scores: Tensor
    draws: Tensor
    course: Tensor

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        super().build(spots, student_shapes, teacher_shapes)
        self.register_buffer("scores", torch.zeros(len(COHORTS), spots))  # surprises times doublings, summed
        self.register_buffer("draws", torch.zeros(len(COHORTS), spots))  # squares of doublings, summed
        self.register_buffer("course", torch.full((3,), torch.nan))  # log loss, gain, variance

    def draw(self, noise: Tensor) -> Tensor:
        return (3 * noise).floor() - 1  # doublings

    def weights(self) -> Tensor:
        return self.mean_weights() * 2**self.levels * (6 / 7 if self._knows else 1.0)  # (1/2 + 1 + 2) / 3 on average

    def mean_weights(self) -> Tensor:
        errors = self.scores / self.draws.clamp(min=1).sqrt()
        believed = errors.sign() * (errors.abs() - DOUBTED).clamp(min=0) / (SURE - DOUBTED)
        weights = torch.exp(math.log(LARGEST) * believed.clamp(-1, 1))
        return weights / (self.shares @ weights).mean()

    def measures(self) -> Mapping[str, Tensor]:
        return {"learnt": self.shares @ self.mean_weights()}

    def learn(self, held_out_loss: float) -> None:
        last, expected, variance = self.course.tolist()
        now = math.log(held_out_loss) if 0 < held_out_loss < math.inf else math.nan
        gain = last - now
        if math.isfinite(expected) and math.isfinite(gain):
            surprise = gain - expected
            variance = surprise**2 if math.isnan(variance) else (1 - _TREND) * variance + _TREND * surprise**2
            self.scores += self.levels * surprise / math.sqrt(max(variance, 1e-12))
            self.draws += self.levels.square()
            expected += _TREND * surprise
        elif math.isfinite(gain):
            expected = gain
        self.course.copy_(torch.tensor([now, expected, variance]))


def judge_teacher(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """How sure the teacher is, and whether it is right (1 or 0), of each sample ``(B,)``."""
    sure, prediction = evidence.teacher[-1].float().softmax(1).max(1)
    return sure, (prediction == evidence.labels).float()
