"""SAKD on one page: a teacher, a student, WHAT to distil, WHERE to distil, and the losses of one batch.

Song, Chen, Ye, Song, "Spot-adaptive Knowledge Distillation", IEEE Transactions on Image Processing 31, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .balance import Balance
from .committee import as_one_teacher, teachers_of
from .deprecation import Renamed
from .distillers import KD, Distiller, DistillerFactory, LogitDistiller
from .distillers.base import masked_mean
from .distillers.kd import kd_loss
from .distillers.several import is_plain_kd, make_distillers, plain_kd
from .errors import SpotkdError
from .losses import Losses, Method, Supervised, as_batch, unless_finite
from .notebook import format_shape, html_table, pair_rows
from .routed_method import RoutedMethod
from .routing import PolicyPace, Strategy, make_strategy
from .spots import check_pair, name_spots, resolve_spots
from .stages import Batch, Shape, StagedModel
from .teacher_student import Compared

__all__ = ["Losses", "Method", "SpotKD", "Supervised"]


class SpotKD(RoutedMethod):
    """Spot-adaptive distillation of one batch.

    ``forward`` returns :class:`Losses`; ``losses.total.backward()`` gives the student exactly the gradients of the
    student's loss and the policy and adapters exactly those of the routing loss, because the two share no trainable
    tensor: the routing pass sees the student through a :class:`~spotkd.stages.FrozenTwin`.

    Args:
        teacher: a trained network; frozen in place and kept in eval mode, unless the strategy trains it. Or several,
            each with spots of its own, whose losses are averaged; for strategies without a policy.
        student: the network to train.
        distiller: WHAT to distil: a registered name, a :class:`~spotkd.distillers.Distiller` class, or any callable
            with its constructor's arguments.
        strategy: WHERE to distil: a registered name or a :class:`~spotkd.routing.Strategy`.
        image_shape: ``(C, H, W)`` of the images; adapters are built for it.
        alpha: weight of the loss on the logits.
        beta: weight of the distiller; None takes its own default.
        temperature: of the loss on the logits; None takes its own default (4 for KD).
        standardise: bring logits to mean 0 and deviation 1 before the loss on them.
        options: the distiller's own options, by name.
        spots: pairs ``(student stage, teacher stage)`` by name or index, shallow to deep, in place of the distiller's.
        labels: ``(n,)`` labels of all training samples, in the order of ``Batch.indices``; for distillers with a
            memory (CRD).
        gamma: class weight of the routing loss: its cross entropy counts ``gamma`` times when it is above the
            student's and ``1 / gamma`` times when below. 1 turns the rule off; the paper uses 1 or 2.
        policy_bias: initial bias towards the teacher, see :class:`~spotkd.routing.PolicyNetwork`.
        pace: when the policy learns, see :class:`~spotkd.routing.PolicyPace`; None is the paper: in every step.
        share_cost: not in the paper: adds this times the mean share of routed samples, summed over the spots, to the
            routing loss. 0 is off.
        target_share: not in the paper: adds ``target_weight`` times the squared distance of each spot's share in the
            batch from this share. None is off.
        target_weight: see ``target_share``.
        gather: where several processes share a batch, whatever compares or counts its samples sees all of them:
            relational distillers, the gamma rule, the balance and share terms. Without it each process sees its own.
        balanced: bound the distiller's pull by that of labels and logits, see :mod:`spotkd.balance`; False: paper.

    Raises:
        SpotkdError: unknown names, numbers out of range, different class counts, features that cannot be used.
    """

    student: StagedModel

    def __init__(
        self,
        teacher: StagedModel | Sequence[StagedModel],
        student: StagedModel,
        distiller: str | DistillerFactory = "kd",
        strategy: str | Strategy = "adaptive",
        *,
        image_shape: Shape,
        alpha: float = 1.0,
        beta: float | None = None,
        temperature: float | None = None,
        standardise: bool = False,
        options: Mapping[str, Any] | None = None,
        spots: Sequence[tuple[str | int, str | int]] | None = None,
        labels: Tensor | None = None,
        gamma: float = 1.0,
        policy_bias: float = 0.0,
        pace: PolicyPace | None = None,
        share_cost: float = 0.0,
        target_share: float | None = None,
        target_weight: float = 1.0,
        gather: bool = False,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        _check_numbers(gamma, temperature, target_share)
        self.student = student
        self.strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
        teacher, teachers = _take_teachers(teacher, self.strategy)
        shapes = self._student_shapes, self._teacher_shapes = check_pair(student, teacher, image_shape)
        self.joint, self.gather = self.strategy.trains_teacher, gather
        self.teacher = teacher.requires_grad_(self.joint).train(self.joint)
        # A distiller of the logits takes the place of KD there; any other stands beside KD at spots of its own.
        at = [resolve_spots(spots, student, each) for each in teachers]
        chosen = make_distillers(distiller, *shapes, teachers, spots=at, labels=labels, options=options)
        at_logits = isinstance(chosen, LogitDistiller)
        self.logit_distiller = chosen if isinstance(chosen, LogitDistiller) else plain_kd(*shapes, teachers)
        if temperature is not None:
            self.logit_distiller.temperature = temperature
        self.logit_distiller.standardise = standardise
        if at_logits:
            _check_no_effect(chosen, beta=beta, spots=spots)
        if not self.strategy.learns and (share_cost or target_share is not None):
            raise SpotkdError("share_cost and target_share shape a learning policy, and this strategy has none")
        self.distiller = None if at_logits else chosen
        self.spots = () if self.distiller is None else self.distiller.spots
        self.spot_names = name_spots((*self.spots, *self.logit_distiller.spots), student, teachers)
        self.alpha, self.gamma = alpha, gamma
        self.beta = chosen.default_weight if beta is None else beta
        self.share_cost, self.target_share, self.target_weight = share_cost, target_share, target_weight
        count = len(self.spots) if self.distiller is not None else int(not is_plain_kd(self.logit_distiller))
        self.balance = Balance(count) if (balanced or self.strategy.balances) and count else None
        self.pace = pace if self.strategy.learns else None
        self._fixed_shape = image_shape if self.spots or self.strategy.learns else None  # logits alone take any
        self.build_strategy(*shapes, policy_bias)
        # What was built here follows the student; the networks themselves stay where the user put them.
        reference = next(student.parameters())
        for name, module in self.named_children():
            if name not in ("student", "teacher"):
                module.to(reference.device, reference.dtype)

    def __repr__(self) -> str:
        """``SpotKD(at, adaptive; spots layer1, layer2, layer3, logits; CifarResNet teaches CifarResNet)``."""
        what, where = type(self.distiller or self.logit_distiller).__name__, type(self.strategy).__name__
        teacher, student = type(self.teacher).__name__, type(self.student).__name__
        return f"SpotKD({what}, {where}; spots {', '.join(self.spot_names)}; {teacher} teaches {student})"

    def _repr_html_(self) -> str:
        student = list(zip(self.student.stage_names, map(format_shape, self._student_shapes), strict=True))
        teacher = list(zip(self.teacher.stage_names, map(format_shape, self._teacher_shapes), strict=True))
        rows = pair_rows(student, teacher, [*self.spots, (len(student) - 1, len(teacher) - 1)])
        return html_table(repr(self), rows, ["student's stage", "gives", "spot", "teacher's stage", "gives"])

    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        batch = as_batch(batch, self._fixed_shape)
        seen = self.observe(batch)
        t, s = seen.teacher, seen.student

        weight = self.gamma if self.joint else 1.0
        task = weight * self.on_labels(s[-1], batch)
        teacher = weight * self.on_labels(t[-1], batch) if self.joint else task.new_zeros(())
        alone = self.distiller is None  # where a distiller of the logits is in the place of KD
        compared = s[-1:] if alone else seen.student_at_spots
        attached = compared if self.balance is None else self.balance.attach(compared)
        at_logits = Compared(self.logit_distiller, attached if alone else s[-1:], self.logits_of(seen))
        at_spots = None if self.distiller is None else Compared(self.distiller, attached, seen.teacher_at_spots)
        losses = self.sample_losses(at_spots, at_logits, batch) if self.strategy.needs_losses else None
        decisions = self.decide(self.evidence(batch, seen, losses, task, (at_spots, at_logits)))

        feature_mask, logit_mask = decisions.mask.tensor_split([len(self.spots)], dim=1)
        on_logits = self.distiller_loss(at_logits, logit_mask, batch, losses)
        kl = self.alpha * self.logit_distiller.warmup_factor * on_logits + unless_finite(t[-1])
        distill = task.new_zeros(())
        if at_spots is not None:
            on_features = self.distiller_loss(at_spots, feature_mask, batch, losses)
            distill = self.beta * at_spots.distiller.warmup_factor * on_features
        if self.balance is not None:
            reference = task + self._plain_kd(s[-1], t[-1], logit_mask) if self.balance.is_due else task
            is_of_all = self.gather and (at_logits if at_spots is None else at_spots).distiller.relational
            self.balance.measure(reference, kl if alone else distill, compared, attached, is_of_all)

        route = task.new_zeros(()) if decisions.loss is None else decisions.loss
        balance = share = task.new_zeros(())
        if decisions.route is not None:
            if self.held_out is not None:
                routing, balance, share = self.losses_on_held_out(self.held_out)
            else:
                routing, balance, share = self.routing_losses(batch, t, decisions.route, task.detach())
            route = route + routing
        return Losses(task, kl, distill, teacher, route, balance, share, s[-1].detach(), decisions.mask)

    def _plain_kd(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """The loss that any distiller of the logits is measured by."""
        return self.alpha * masked_mean(kd_loss(student, teacher, KD.temperature), weights.mean(1))

    def scale_distiller(self, factor: float) -> None:
        """Multiply the weight of the distiller: beta, or alpha where it distils the logits."""
        if self.distiller is None:
            self.alpha *= factor
        else:
            self.beta *= factor

    class_weighted = Renamed("gamma_weighted")
    share_terms = Renamed("share_penalty")

    def compilable_calls(self) -> list[tuple[nn.Module, str]]:
        routing: list[tuple[nn.Module, str]] = [(self.routing, "forward")] if self.strategy.learns else []
        return [*super().compilable_calls(), *routing]

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Moves whatever follows the epochs: the strategy's schedule and the distillers' warm-ups."""
        self.strategy.start_epoch(epoch, epochs)
        self.progress = (epoch - 1) / epochs
        if self.teacher_cache is not None:
            self.teacher_cache.start_epoch(epoch)
        for distiller in filter(None, (self.logit_distiller, self.distiller)):
            distiller.start_epoch(epoch, epochs)

    @property
    def trained_teacher(self) -> StagedModel | None:  # type: ignore[override]
        return self.teacher if self.joint else None

    def student_parameters(self) -> list[nn.Parameter]:
        modules = [self.student, self.teacher, self.logit_distiller, *([self.distiller] if self.distiller else [])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def policy_parameters(self) -> list[nn.Parameter]:
        routing = [*self.policy.parameters(), *self.routing.parameters()] if self.strategy.learns else []
        return [*routing, *(p for p in self.strategy.parameters() if p.requires_grad)]

    def train(self, mode: bool = True) -> SpotKD:
        """As usual, but a teacher that is not trained stays in eval mode."""
        super().train(mode)
        self.teacher.train(mode and self.joint)
        return self


def _take_teachers(
    teacher: StagedModel | Sequence[StagedModel], strategy: Strategy
) -> tuple[StagedModel, list[StagedModel]]:
    """The teacher, several as one, and its single networks."""
    one = as_one_teacher(teacher)
    teachers = teachers_of(one)
    if len(teachers) > 1 and (strategy.learns or strategy.trains_teacher):
        raise SpotkdError(
            f"strategy {type(strategy).__name__} routes through one teacher: give one, or another strategy"
        )
    return one, teachers


def _check_numbers(gamma: float, temperature: float | None, target_share: float | None) -> None:
    for name, value in (("gamma", gamma), ("temperature", 1.0 if temperature is None else temperature)):
        if not value > 0:
            raise SpotkdError(f"{name} is {value}: it must be above 0")
    if target_share is not None and not 0 <= target_share <= 1:
        raise SpotkdError(f"target_share is {target_share}: it is a share, between 0 and 1")


def _check_no_effect(distiller: Distiller, beta: float | None, spots: object) -> None:
    """A distiller of the logits has the weight alpha and one spot."""
    name = type(distiller).__name__
    if beta is not None:
        raise SpotkdError(f"beta has no effect: {name} distils the logits, whose weight is alpha")
    if spots is not None:
        raise SpotkdError(f"spots has no effect: {name} distils the logits alone")
