"""What `trust` might do where the teacher is wrong: the rules that ``study.py --plan trust`` compares.

Each is `trust` with another answer where the teacher does not name the label: how far is it believed about that sample?

The rule, written down before any number was looked at: of `trust`, `trust:labels=false` and those below, with kd, on
validation images, qualifies whose mean difference to `always` on clean data is above -0.3 points on each set, and
under wrong:0.4 at most 0.5 points below that of `trust` on each set. Of these the one with the largest mean difference
over all four cells; of two within 0.2 points the one named first. Where none qualifies `trust` stays as it is.

``trust:graded=true`` was added after some 80 students, before any of its own: it is ``trust_places`` with bins in place
of a Beta distribution, which does not describe labels that are nearly all second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spotkd.routing import Decisions, Evidence, Strategy
from spotkd.routing.history import History
from spotkd.routing.trust import KEPT, Trust
from spotkd.stages import Shape

ROUNDS = 20
FEWEST = 64


class _Rule(Trust):
    """`trust`, whose answer for the teacher's errors is :meth:`believe`."""

    def __init__(self) -> None:
        super().__init__(labels=False)

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        weights = super().expected_weights(evidence)
        right = evidence.is_teacher_right()[:, 0]
        return weights * torch.where(right, 1.0, self.believe(evidence))[:, None].to(weights.dtype)

    def believe(self, evidence: Evidence) -> Tensor:
        """Weights ``(B,)`` where the teacher is wrong."""
        raise NotImplementedError


class Closer(_Rule):
    """A teacher that is wrong is believed while its cross entropy with the label is below the student's."""

    def believe(self, evidence: Evidence) -> Tensor:
        t, s = (
            F.cross_entropy(x[-1].float(), evidence.labels, reduction="none")
            for x in (evidence.teacher, evidence.student)
        )
        return (t <= s).float()


class Odds(_Rule):
    """The label's probability over that of what the teacher names."""

    def believe(self, evidence: Evidence) -> Tensor:
        p = evidence.teacher[-1].float().softmax(1)
        return p.gather(1, evidence.labels[:, None])[:, 0] / p.max(1).values


def label_places(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the label is among the classes but the largest, ``(B,)`` from 0 to 1 (mid-ranks); NaN for that."""
    own = logits.gather(1, labels[:, None])
    before = (logits > own).sum(1) - 1.0
    return torch.where(before < 0, torch.nan, (before + 0.5) / max(logits.shape[1] - 1, 1))


def fit_places(x: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Share and exponent of the Beta(a, 1) part of a mixture with the uniform distribution; NaN counts for nothing."""
    known = x.isfinite()
    log = torch.where(known, x, 1.0).log()
    share, a = log.new_tensor(0.5), log.new_tensor(0.3)
    for _ in range(rounds):
        beta = share * a * ((a - 1) * log).exp()
        belongs = beta / (beta + 1 - share) * known
        share = (belongs.sum() / known.sum().clamp(min=1)).clamp(0.0, 1.0)
        a = (-belongs.sum() / (belongs * log).sum().clamp(max=-1e-6)).clamp(1e-3, 1.0)
    return share, a


class Places(_Rule):
    """1 minus the local false discovery rate of the label's place, uniform where the teacher knows nothing."""

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        super().build(spots, student_shapes, teacher_shapes)
        self.places = History(KEPT, 1)

    def weigh(self, evidence: Evidence) -> Decisions:
        if self.training:
            self.places.add(label_places(evidence.teacher[-1].float(), evidence.labels)[:, None])
        return super().weigh(evidence)

    def believe(self, evidence: Evidence) -> Tensor:
        kept = self.places.values[:, 0]
        share, a = fit_places(kept)
        places = label_places(evidence.teacher[-1].float(), evidence.labels).nan_to_num(0.5)
        density = share * a * places ** (a - 1)
        floor = share * a  # the least that the Beta part has anywhere: no evidence against the uniform
        believed = ((density - floor) / (density + 1 - share)).clamp(0, 1)
        return torch.where(kept.isfinite().sum() >= FEWEST, believed, torch.zeros_like(believed))


RULES: dict[str, type[Strategy]] = {"trust_closer": Closer, "trust_odds": Odds, "trust_places": Places}
