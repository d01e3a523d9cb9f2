"""A method whose strategy decides: what it decides from, and the routing network by which a policy learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import SpotkdError
from .preparation import PreparedMethod
from .routing import Decisions, Evidence, PolicyNetwork, PolicyPace, RoutingNetwork, Strategy
from .stages import Batch, FrozenTwin, Shape
from .teacher_student import Compared, Observation


class RoutedMethod(PreparedMethod):
    """A method with a strategy and, where that learns, a policy.

    Attributes:
        strategy: WHERE to distil.
        pace: when the policy learns, where that is not in every step.
        gamma: class weight of the routing loss.
        share_cost, target_share, target_weight: optional terms on the shares, see :class:`~spotkd.SpotKD`.
        progress: the share of the epochs that are over.
    """

    strategy: Strategy
    pace: PolicyPace | None
    gamma: float
    share_cost: float
    target_share: float | None
    target_weight: float
    progress: float = 0.0

    def build_strategy(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape], policy_bias: float) -> None:
        """Make what the strategy has of its own and, where it learns, the policy and the routing network."""
        self.strategy.build(len(self.spot_names), s_shapes, t_shapes)
        if not self.strategy.learns:
            return
        normalise = self.pace is not None and self.pace.settling > 0
        self.routing = RoutingNetwork(self.spots, s_shapes, t_shapes)
        self.policy = PolicyNetwork(t_shapes[-2][0], s_shapes[-2][0], len(self.spots) + 1, policy_bias, normalise)
        self.policy_warmup = self.strategy.policy_warmup
        self.twin = FrozenTwin(self.student)
        self.teacher_twin = FrozenTwin(self.teacher) if self.joint else None

    def policy_logits(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """The policy's logits ``(B, K + 1, 2)`` from all features of both; zeros where nothing learns."""
        if self.strategy.learns:
            logits: Tensor = self.policy(teacher[-2], student[-2])
            return logits
        return torch.zeros(len(student[-1]), len(self.spot_names), 2, device=student[-1].device)

    def evidence(self, batch: Batch, seen: Observation, losses: Tensor | None, task: Tensor | None = None) -> Evidence:
        """What the strategy decides from.

        Args:
            batch: the samples.
            seen: what both networks give for them.
            losses: ``(B, K + 1)``, see :meth:`sample_losses`; None where the strategy does not need them.
            task: the labels' loss, a scalar; None where it has no gradient.
        """

        def task_gradients() -> list[Tensor]:
            if task is None or not task.requires_grad:
                raise SpotkdError("there are no gradients here: task_gradients is for training")
            at_logits = [seen.student[-1]] * len(self.logit_distiller.spots)
            return list(torch.autograd.grad(task, [*seen.student_at_spots, *at_logits], retain_graph=True))

        teacher, student = (tuple(x.detach() for x in outputs) for outputs in (seen.teacher, seen.student))
        logits, detached = self.policy_logits(teacher, student), None if losses is None else losses.detach()
        evidence = Evidence(logits, teacher, student, batch.classes, detached, self.progress, task_gradients)
        ends = [t for _, t in self.logit_distiller.spots]
        if len(ends) == 1:
            return evidence
        owners = [sum(end < t for end in ends) for _, t in (*self.spots, *self.logit_distiller.spots)]
        return evidence._replace(logits_of_teachers=[teacher[end] for end in ends], teacher_of_column=owners)

    def decide(self, evidence: Evidence) -> Decisions:
        """The strategy's decisions; while statistics settle everybody is distilled, and nothing is routed."""
        if self.pace is None or not self.training:
            return self.strategy.weigh(evidence)
        settles, learns = self.pace.advance()
        if settles:
            return Decisions(torch.ones_like(evidence.policy_logits[..., 0]).detach())
        decisions = self.strategy.weigh(evidence._replace(policy_logits=self.pace.attach(evidence.policy_logits)))
        return decisions if learns else decisions._replace(route=None)

    @torch.no_grad()
    def expected_weights(self, batch: Batch) -> tuple[Tensor, Observation]:
        """How much each sample would be distilled where ``(B, K + 1)``, without the noise of a draw; in eval mode.

        Also gives what both networks say, so that they run once.
        """
        seen = self.observe(batch, cached=False)
        losses = None
        if self.strategy.needs_losses:
            at_logits = Compared(self.logit_distiller, seen.student[-1:], self.logits_of(seen))
            at_spots = None
            if self.distiller is not None:
                at_spots = Compared(self.distiller, seen.student_at_spots, seen.teacher_at_spots)
            losses = self.sample_losses(at_spots, at_logits, batch)
        return self.strategy.expected_weights(self.evidence(batch, seen, losses)), seen

    def teacher_probability(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """P(teacher) ``(B, K + 1)`` from all features of both networks, which should be in eval mode."""
        return self.strategy.teacher_probability(self.policy_logits(teacher, student))

    def route(self, images: Tensor, teacher_features: Sequence[Tensor], decisions: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of the routing network, in which both networks are constants in eval mode."""
        if self.teacher_twin is None:
            logits: Tensor = self.routing(images, self.teacher, self.twin.refresh(), teacher_features, decisions)
        else:  # the teacher's own pass was in train mode: nothing of it can be used again
            logits = self.routing(images, self.teacher_twin.refresh(), self.twin.refresh(), None, decisions)
        return logits

    def gamma_weighted(self, routed: Tensor, student: Tensor) -> Tensor:
        """The gamma rule, decided once from the unscaled values (the author code tests the scaled value again)."""
        high, low = self.batch_means(routed.detach(), student)
        factor = torch.where(high > low, self.gamma, torch.where(high < low, 1 / self.gamma, torch.ones_like(routed)))
        return factor * routed

    def share_penalty(self, shares: Tensor) -> Tensor:
        """The share cost and the target share, from the shares ``(K + 1,)`` routed to the teacher in this batch."""
        penalty = self.share_cost * shares.sum()
        if self.target_share is not None:
            penalty = penalty + self.target_weight * (shares - self.target_share).square().sum()
        return penalty
