"""A method whose strategy decides: what it decides from, and the routing network by which a policy learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .distributed import Shard, current_shard, use_shard
from .errors import SpotkdError
from .preparation import PreparedMethod
from .routing import Decisions, Evidence, PolicyNetwork, PolicyPace, RoutingNetwork, Strategy
from .stages import Batch, FrozenTwin, Shape
from .teacher_student import Compared, Observation

_AHEAD = 0.01  # rate of the step that is taken to look ahead


def _copied_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in (*module.named_parameters(), *module.named_buffers())}


class HeldOut(Protocol):
    """Gives images that the student is not trained on, for the policy to learn from."""

    def next_batch(self) -> tuple[Batch, Shard]:
        """Some of them, and which samples of a batch of all processes they are."""


class RoutedMethod(PreparedMethod):
    """A method with a strategy and, where that learns, a policy.

    Attributes:
        strategy: WHERE to distil.
        pace: when the policy learns, where that is not in every step.
        held_out: where the policy learns from other images than the student, these: its whole objective is that on
            them, and what it decides about the student's own has no part in it. None: the paper.
        gamma: class weight of the routing loss.
        share_cost, target_share, target_weight: optional terms on the shares, see :class:`~spotkd.SpotKD`.
        alpha, beta: weights of the logits' loss, and of the distiller's.
        progress: the share of the epochs that are over.
    """

    strategy: Strategy
    pace: PolicyPace | None
    held_out: HeldOut | None
    gamma: float
    share_cost: float
    target_share: float | None
    target_weight: float
    alpha: float
    beta: float
    progress: float = 0.0

    def build_strategy(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape], policy_bias: float) -> None:
        """Make what the strategy has of its own and, where it learns, the policy and the routing network."""
        self.strategy.build(len(self.spot_names), s_shapes, t_shapes)
        self.has_policy, self.held_out = self.strategy.learns, None
        if not self.has_policy:
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

    def evidence(
        self,
        batch: Batch,
        seen: Observation,
        losses: Tensor | None,
        task: Tensor | None = None,
        compared: Sequence[Compared | None] = (),
    ) -> Evidence:
        """What the strategy decides from.

        Args:
            batch: the samples.
            seen: what both networks give for them.
            losses: ``(B, K + 1)``, see :meth:`sample_losses`; None where the strategy does not need them.
            task: the labels' loss, a scalar; None where it has no gradient.
            compared: what is distilled, features and then logits, for a look ahead; None for nothing.
        """

        def task_gradients() -> list[Tensor]:
            if task is None or not task.requires_grad:
                raise SpotkdError("there are no gradients here: task_gradients is for training")
            at_logits = [seen.student[-1]] * len(self.logit_distiller.spots)
            return list(torch.autograd.grad(task, [*seen.student_at_spots, *at_logits], retain_graph=True))

        teacher, student = (tuple(x.detach() for x in outputs) for outputs in (seen.teacher, seen.student))
        logits, detached = self.policy_logits(teacher, student), None if losses is None else losses.detach()
        evidence = Evidence(logits, teacher, student, batch.classes, detached, self.progress, task_gradients)
        evidence = evidence._replace(look_ahead=lambda weights: self.look_ahead(batch, compared, weights))
        ends = [t for _, t in self.logit_distiller.spots]
        if len(ends) == 1:
            return evidence
        owners = [sum(end < t for end in ends) for _, t in (*self.spots, *self.logit_distiller.spots)]
        return evidence._replace(logits_of_teachers=[teacher[end] for end in ends], teacher_of_column=owners)

    def look_ahead(self, batch: Batch, compared: Sequence[Compared | None], weights: Tensor) -> Tensor:
        """See :class:`~spotkd.routing.Evidence`. Nothing changes but the state of the random numbers."""
        half, wanted = len(weights) // 2, weights.detach().requires_grad_()
        masks = torch.cat([wanted[:half], torch.zeros_like(wanted[half:])]).tensor_split([len(self.spots)], dim=1)
        loss = weights.new_zeros(())
        for at, mask, factor in zip(compared, masks, (self.beta, self.alpha), strict=True):
            if at is not None:
                state = _copied_state(at.distiller)
                loss = loss + factor * functional_call(at.distiller, state, (at.student, at.teacher, mask, batch))
        trained = {name: p for name, p in self.student.named_parameters() if p.requires_grad}
        slopes = torch.autograd.grad(
            loss, list(trained.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        moved = {name: p.detach() - _AHEAD * slope for (name, p), slope in zip(trained.items(), slopes, strict=True)}
        logits = functional_call(self.student, _copied_state(self.student) | moved, (batch.images[half:],))
        task = self.on_labels(logits, Batch(batch.images[half:], batch.labels[half:]))
        (found,) = torch.autograd.grad(task, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
        return found

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

    def routing_losses(
        self, batch: Batch, teacher: Sequence[Tensor], route: Tensor, task: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of the routing network, the balance term and the terms on shares: scalars that train the policy.

        Args:
            batch: the samples that are routed.
            teacher: all features of the teacher for them.
            route: ``(B, K + 1)`` decisions, 1 for the teacher's path.
            task: the student's cross entropy on them, without gradient.
        """
        routed = self.on_labels(self.route(batch.images, teacher, route), batch)
        routes = self.all_samples(route)
        share = self.share_penalty(routes.mean(0))
        if self.joint:
            return self.gamma * routed, task.new_zeros(()), share
        return self.gamma_weighted(routed, task), F.relu(len(routes) / 2 - routes[:, -1].sum()), share

    def losses_on_held_out(self, held_out: HeldOut) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`routing_losses`, on other images than the student's; there both networks are in eval mode.

        Scaled as if these were as many of a process's samples as those of its training batch.
        """
        batch, shard = held_out.next_batch()
        weight = shard.loss_weight / current_shard().loss_weight
        with use_shard(shard):
            with torch.no_grad():
                teacher, student = self.teacher.features(batch.images), self.twin.refresh()
                stages = len(self.student.stage_names)
                embedding = student.run(batch.images, 0, stages - 1)
                task = self.on_labels(student.run(embedding, stages - 1, stages), batch)
            logits = self.policy(teacher[-2], embedding)
            route = self.strategy.draw_route(logits if self.pace is None else self.pace.attach(logits))
            routing, balance, share = self.routing_losses(batch, teacher, route, task)
        return weight * routing, weight * balance, weight * share

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
