"""SAKD on one page: a teacher, a student, WHAT to distil, WHERE to distil, and the losses of one batch.

Song, Chen, Ye, Song, "Spot-adaptive Knowledge Distillation", IEEE Transactions on Image Processing 31, 2022.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distillers import DISTILLERS, KD, Distiller, LogitDistiller
from .errors import SpotkdError
from .precision import full_precision
from .routing import STRATEGIES, PolicyNetwork, RoutingNetwork, Strategy
from .stages import Batch, FrozenTwin, Shape, StagedModel, feature_shapes

cross_entropy = full_precision(F.cross_entropy)
DistillerFactory = Callable[[Sequence[Shape], Sequence[Shape]], Distiller]


class Losses(NamedTuple):
    """The terms of one step, each a scalar as it enters the total (weights included), and what was decided.

    Attributes:
        task: cross entropy of the student with the labels.
        kl: KL divergence from the teacher's logits on the samples selected at the last spot, times ``alpha``.
        distill: the distiller's loss on the samples selected at its spots, times ``beta``.
        route: cross entropy of the routing network, times the factor of the gamma rule.
        balance: the penalty while fewer than half of the batch are routed to the teacher at the logits.
        share: the optional share cost and target share.
        logits: the student's logits ``(B, classes)``, detached.
        mask: ``(B, K + 1)`` ones where a sample is distilled at a spot; the last column is the logits.
    """

    task: Tensor
    kl: Tensor
    distill: Tensor
    route: Tensor
    balance: Tensor
    share: Tensor
    logits: Tensor
    mask: Tensor

    @staticmethod
    def terms() -> tuple[str, ...]:
        """Names of the loss terms, in order."""
        return Losses._fields[:-2]

    @property
    def total(self) -> Tensor:
        """The sum of the terms: what one backward pass starts from."""
        return self.student + self.policy

    @property
    def student(self) -> Tensor:
        """What trains the student and the distiller's own parts."""
        return self.task + self.kl + self.distill

    @property
    def policy(self) -> Tensor:
        """What trains the policy and the adapters."""
        return self.route + self.balance + self.share


class Method(nn.Module):
    """What the training loop trains: losses of a batch, and the parameters that each half of them trains.

    Attributes:
        student: the network that is trained, evaluated and saved.
        spot_names: names of the columns of ``Losses.mask``.
    """

    student: StagedModel
    spot_names: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        """The losses of one batch, a :class:`~spotkd.stages.Batch` or a plain ``(images, labels)``."""

    def student_parameters(self) -> list[nn.Parameter]:
        """What the student's loss trains."""
        return list(self.student.parameters())

    def policy_parameters(self) -> list[nn.Parameter]:
        """What the routing loss trains; empty where nothing is routed."""
        return []

    def parameter_groups(
        self,
        lr: float = 0.05,
        weight_decay: float = 5e-4,
        policy_lr: float | None = None,
        policy_weight_decay: float = 1e-3,
    ) -> list[dict[str, Any]]:
        """The parameter groups for one optimizer; the defaults are the paper's (``policy_lr``: half of ``lr``)."""
        policy_lr = lr / 2 if policy_lr is None else policy_lr
        groups = [
            {"params": self.student_parameters(), "lr": lr, "weight_decay": weight_decay},
            {"params": self.policy_parameters(), "lr": policy_lr, "weight_decay": policy_weight_decay},
        ]
        return [group for group in groups if group["params"]]


class Supervised(Method):
    """Plain training: cross entropy with the labels. Makes teachers and the references for students."""

    def __init__(self, student: StagedModel) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        batch = Batch(*batch)
        logits = self.student(batch.images)
        task = cross_entropy(logits, batch.labels)
        zero = task.new_zeros(())
        return Losses(task, zero, zero, zero, zero, zero, logits.detach(), task.new_zeros(len(logits), 0))


class SpotKD(Method):
    """Spot-adaptive distillation of one batch.

    ``forward`` returns :class:`Losses`; ``losses.total.backward()`` gives the student exactly the gradients of the
    student's loss and the policy and adapters exactly those of the routing loss, because the two share no trainable
    tensor: the routing pass sees the student through a :class:`~spotkd.stages.FrozenTwin`.

    Args:
        teacher: a trained network; frozen in place and kept in eval mode.
        student: the network to train.
        distiller: WHAT to distil: a registered name, or a callable that takes the shapes of the stage outputs of
            student and teacher and returns a :class:`~spotkd.distillers.Distiller`.
        strategy: WHERE to distil: a registered name or a :class:`~spotkd.routing.Strategy`.
        image_shape: ``(C, H, W)`` of the images; adapters are built for it.
        alpha: weight of the KL term on the logits.
        beta: weight of the distiller; None takes its own default.
        temperature: of the loss on the logits; None takes its own default (4 for KD).
        gamma: class weight of the routing loss: its cross entropy counts ``gamma`` times when it is above the
            student's and ``1 / gamma`` times when below. 1 turns the rule off; the paper uses 1 or 2.
        policy_bias: initial bias towards the teacher, see :class:`~spotkd.routing.PolicyNetwork`.
        share_cost: not in the paper: adds this times the mean share of routed samples, summed over the spots, to the
            routing loss. 0 is off.
        target_share: not in the paper: adds ``target_weight`` times the squared distance of each spot's share in the
            batch from this share. None is off.
        target_weight: see ``target_share``.

    Raises:
        SpotkdError: unknown names, numbers out of range, different class counts, features that cannot be joined.
    """

    def __init__(
        self,
        teacher: StagedModel,
        student: StagedModel,
        distiller: str | DistillerFactory = "kd",
        strategy: str | Strategy = "adaptive",
        *,
        image_shape: Shape,
        alpha: float = 1.0,
        beta: float | None = None,
        temperature: float | None = None,
        gamma: float = 1.0,
        policy_bias: float = 0.0,
        share_cost: float = 0.0,
        target_share: float | None = None,
        target_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("gamma", gamma), ("temperature", 1.0 if temperature is None else temperature)):
            if not value > 0:
                raise SpotkdError(f"{name} is {value}: it must be above 0")
        if target_share is not None and not 0 <= target_share <= 1:
            raise SpotkdError(f"target_share is {target_share}: it is a share, between 0 and 1")
        shapes = s_shapes, t_shapes = feature_shapes(student, image_shape), feature_shapes(teacher, image_shape)
        if {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
            raise SpotkdError("teacher and student share parameters: they must be two networks, the teacher is frozen")
        if s_shapes[-1] != t_shapes[-1]:
            raise SpotkdError(f"the student has {s_shapes[-1][0]} classes and the teacher {t_shapes[-1][0]}")
        if len(s_shapes[-2]) != 1 or len(t_shapes[-2]) != 1:
            raise SpotkdError(f"the stage before the classifier gives {s_shapes[-2]} and {t_shapes[-2]}, not vectors")
        self.student = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.strategy = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
        # A distiller of the logits takes the place of KD there; any other stands beside KD at spots of its own.
        chosen = (DISTILLERS[distiller] if isinstance(distiller, str) else distiller)(*shapes)
        at_logits = isinstance(chosen, LogitDistiller)
        self.logit_distiller = chosen if isinstance(chosen, LogitDistiller) else KD(*shapes)
        if temperature is not None:
            self.logit_distiller.temperature = temperature
        if at_logits and beta is not None:
            raise SpotkdError(f"beta has no effect: {type(chosen).__name__} distils the logits, whose weight is alpha")
        if not self.strategy.learns and (share_cost or target_share is not None):
            raise SpotkdError("share_cost and target_share shape a learning policy, and this strategy has none")
        self.distiller = None if at_logits else chosen
        self.spots = () if self.distiller is None else self.distiller.spots
        self.spot_names = (*(student.stage_names[s] for s, _ in self.spots), "logits")
        self.alpha, self.gamma = alpha, gamma
        self.beta = chosen.default_weight if beta is None else beta
        self.share_cost, self.target_share, self.target_weight = share_cost, target_share, target_weight
        if self.strategy.learns:
            self.routing = RoutingNetwork(self.spots, *shapes)
            self.policy = PolicyNetwork(t_shapes[-2][0], s_shapes[-2][0], len(self.spots) + 1, policy_bias)
            self.twin = FrozenTwin(student)
        # What was built here follows the student; the networks themselves stay where the user put them.
        reference = next(student.parameters())
        for name, module in self.named_children():
            if name not in ("student", "teacher"):
                module.to(reference.device, reference.dtype)

    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        batch = Batch(*batch)
        with torch.no_grad():
            t = self.teacher.features(batch.images)
        s = self.student.features(batch.images)
        decisions = self.strategy.decide(self.policy_logits(t, s))

        task = cross_entropy(s[-1], batch.labels)
        kl = self.alpha * self.logit_distiller(s[-1:], t[-1:], decisions.mask[:, -1:], batch)
        distill = task.new_zeros(())
        if self.distiller is not None:
            s_spots, t_spots = [s[i] for i, _ in self.spots], [t[j] for _, j in self.spots]
            distill = self.beta * self.distiller(s_spots, t_spots, decisions.mask[:, :-1], batch)

        route = balance = share = task.new_zeros(())
        if decisions.route is not None:
            routed = self.routing(batch.images, self.teacher, self.twin.refresh(), t, decisions.route)
            route = self.class_weighted(cross_entropy(routed, batch.labels), task.detach())
            balance = F.relu(len(s[-1]) / 2 - decisions.route[:, -1].sum())
            share = self.share_terms(decisions.route.mean(0))
        return Losses(task, kl, distill, route, balance, share, s[-1].detach(), decisions.mask)

    def policy_logits(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """The policy's logits ``(B, K + 1, 2)`` from all features of both; zeros where nothing learns."""
        if self.strategy.learns:
            logits: Tensor = self.policy(teacher[-2], student[-2])
            return logits
        return torch.zeros(len(student[-1]), len(self.spots) + 1, 2, device=student[-1].device)

    def class_weighted(self, routed: Tensor, student: Tensor) -> Tensor:
        """The gamma rule, decided once from the unscaled values (the author code tests the scaled value again)."""
        one = torch.ones_like(routed)
        factor = torch.where(routed > student, self.gamma, torch.where(routed < student, 1 / self.gamma, one))
        return factor * routed

    def share_terms(self, shares: Tensor) -> Tensor:
        """The share cost and the target share, from the shares ``(K + 1,)`` routed to the teacher in this batch."""
        terms = self.share_cost * shares.sum()
        if self.target_share is not None:
            terms = terms + self.target_weight * (shares - self.target_share).square().sum()
        return terms

    def student_parameters(self) -> list[nn.Parameter]:
        modules = [self.student, self.logit_distiller, *([self.distiller] if self.distiller else [])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def policy_parameters(self) -> list[nn.Parameter]:
        return [*self.policy.parameters(), *self.routing.parameters()] if self.strategy.learns else []

    def train(self, mode: bool = True) -> SpotKD:
        """As usual, but the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self
