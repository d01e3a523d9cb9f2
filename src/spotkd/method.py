"""SAKD on one page: a teacher, a student, WHAT to distil, WHERE to distil, and the losses of one batch.

Song, Chen, Ye, Song, "Spot-adaptive Knowledge Distillation", IEEE Transactions on Image Processing 31, 2022.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distillers import DISTILLERS, KD, Distiller, LogitDistiller, Preparation, Spots, check_options
from .distributed import all_gather, all_reduce_mean, per_rank_generator, whole_batch
from .errors import SpotkdError
from .memory import Memory, Seen
from .precision import full_precision
from .registry import unknown_name
from .routing import STRATEGIES, PolicyNetwork, RoutingNetwork, Strategy
from .stages import Batch, FrozenTwin, Shape, StagedModel, feature_shapes

cross_entropy = full_precision(F.cross_entropy)
DistillerFactory = Callable[..., Distiller]


class Losses(NamedTuple):
    """The terms of one step, each a scalar as it enters the total (weights included), and what was decided.

    Attributes:
        task: cross entropy of the student with the labels.
        kl: KL divergence from the teacher's logits on the samples selected at the last spot, times ``alpha``.
        distill: the distiller's loss on the samples selected at its spots, times ``beta``.
        teacher: cross entropy of the teacher with the labels, where the strategy trains it.
        route: cross entropy of the routing network, times the factor of the gamma rule.
        balance: the penalty while fewer than half of the batch are routed to the teacher at the logits.
        share: the optional share cost and target share.
        logits: the student's logits ``(B, classes)``, detached.
        mask: ``(B, K + 1)`` ones where a sample is distilled at a spot; the last column is the logits.
    """

    task: Tensor
    kl: Tensor
    distill: Tensor
    teacher: Tensor
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
        """What trains the student, the distiller's own parts and, where the strategy says so, the teacher."""
        return self.task + self.kl + self.distill + self.teacher

    @property
    def policy(self) -> Tensor:
        """What trains the policy and the adapters."""
        return self.route + self.balance + self.share


class Method(nn.Module):
    """What the training loop trains: losses of a batch, and the parameters that each half of them trains.

    Attributes:
        student: the network that is trained, evaluated and saved.
        trained_teacher: the teacher, where it is trained along.
        spot_names: names of the columns of ``Losses.mask``.
        policy_warmup: share of the epochs in which the policy's rate is a hundredth of itself.
    """

    student: nn.Module
    trained_teacher: nn.Module | None = None
    spot_names: tuple[str, ...] = ()
    policy_warmup: float = 0.0

    @abstractmethod
    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        """The losses of one batch, a :class:`~spotkd.stages.Batch` or a plain ``(images, labels)``."""

    def start_epoch(self, epoch: int, epochs: int) -> None:  # plain training has nothing to do
        """Epoch ``epoch`` of ``epochs``, counted from 1, begins."""

    def passes(self) -> list[tuple[nn.Module, str]]:
        """Calls that take nearly all of a step's time, ``(owner, name)``, each with the images first."""
        return [(self.student, "forward")]

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

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        batch = Batch(*batch)
        with per_rank_generator(batch.images.device):
            logits = self.student(batch.images)
        task = cross_entropy(logits, batch.labels)
        zero = task.new_zeros(())
        return Losses(task, zero, zero, zero, zero, zero, zero, logits.detach(), task.new_zeros(len(logits), 0))


class SpotKD(Method):
    """Spot-adaptive distillation of one batch.

    ``forward`` returns :class:`Losses`; ``losses.total.backward()`` gives the student exactly the gradients of the
    student's loss and the policy and adapters exactly those of the routing loss, because the two share no trainable
    tensor: the routing pass sees the student through a :class:`~spotkd.stages.FrozenTwin`.

    Args:
        teacher: a trained network; frozen in place and kept in eval mode, unless the strategy trains it.
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
        share_cost: not in the paper: adds this times the mean share of routed samples, summed over the spots, to the
            routing loss. 0 is off.
        target_share: not in the paper: adds ``target_weight`` times the squared distance of each spot's share in the
            batch from this share. None is off.
        target_weight: see ``target_share``.
        gather: where several processes share a batch, whatever compares or counts its samples sees all of them:
            relational distillers, the gamma rule, the balance term, the share terms. Without it each process sees its
            own.

    Raises:
        SpotkdError: unknown names, numbers out of range, different class counts, features that cannot be used.
    """

    student: StagedModel

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
        standardise: bool = False,
        options: Mapping[str, Any] | None = None,
        spots: Sequence[tuple[str | int, str | int]] | None = None,
        labels: Tensor | None = None,
        gamma: float = 1.0,
        policy_bias: float = 0.0,
        share_cost: float = 0.0,
        target_share: float | None = None,
        target_weight: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.gather = gather
        for name, value in (("gamma", gamma), ("temperature", 1.0 if temperature is None else temperature)):
            if not value > 0:
                raise SpotkdError(f"{name} is {value}: it must be above 0")
        if target_share is not None and not 0 <= target_share <= 1:
            raise SpotkdError(f"target_share is {target_share}: it is a share, between 0 and 1")
        shapes = s_shapes, t_shapes = _shapes_of(student, teacher, image_shape)
        self._teacher_shapes = t_shapes
        self.memory: Memory | None = None
        self.student = student
        self.strategy = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
        self.joint = self.strategy.trains_teacher
        self.teacher = teacher.requires_grad_(self.joint).train(self.joint)
        # A distiller of the logits takes the place of KD there; any other stands beside KD at spots of its own.
        factory, options = DISTILLERS[distiller] if isinstance(distiller, str) else distiller, dict(options or {})
        check_options(distiller if isinstance(distiller, str) else getattr(factory, "__name__", "?"), factory, options)
        chosen = factory(*shapes, spots=_indices(spots, student, teacher), labels=labels, **options)
        at_logits = isinstance(chosen, LogitDistiller)
        self.logit_distiller = chosen if isinstance(chosen, LogitDistiller) else KD(*shapes)
        if temperature is not None:
            self.logit_distiller.temperature = temperature
        self.logit_distiller.standardise = standardise
        if at_logits and beta is not None:
            raise SpotkdError(f"beta has no effect: {type(chosen).__name__} distils the logits, whose weight is alpha")
        if at_logits and spots is not None:
            raise SpotkdError(f"spots has no effect: {type(chosen).__name__} distils the logits alone")
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
            self.policy_warmup = self.strategy.policy_warmup
            self.twin = FrozenTwin(student)
            self.teacher_twin = FrozenTwin(teacher) if self.joint else None
        # What was built here follows the student; the networks themselves stay where the user put them.
        reference = next(student.parameters())
        for name, module in self.named_children():
            if name not in ("student", "teacher"):
                module.to(reference.device, reference.dtype)

    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        batch = Batch(*batch)
        with per_rank_generator(batch.images.device):
            with nullcontext() if self.joint else torch.no_grad():
                t, t_seen = self._observe_teacher(batch)
            s, s_seen = self._observe(self.student, batch.images)
        decisions = self.strategy.decide(self.policy_logits(t, s))

        weight = self.gamma if self.joint else 1.0
        task = weight * cross_entropy(s[-1], batch.labels)
        teacher = weight * cross_entropy(t[-1], batch.labels) if self.joint else task.new_zeros(())
        on_logits = self._distilled(self.logit_distiller, s[-1:], t[-1:], decisions.mask[:, -1:], batch)
        kl = self.alpha * self.logit_distiller.ramp * on_logits
        distill = task.new_zeros(())
        if self.distiller is not None:
            at_spots = [s_seen[i] for i, _ in self.spots], [t_seen[j] for _, j in self.spots]
            at_maps = self._distilled(self.distiller, *at_spots, decisions.mask[:, :-1], batch)
            distill = self.beta * self.distiller.ramp * at_maps

        route = balance = share = task.new_zeros(())
        if decisions.route is not None:
            routed = cross_entropy(self.route(batch.images, t, decisions.route), batch.labels)
            routes = all_gather(decisions.route) if self.gather else decisions.route
            share = self.share_terms(routes.mean(0))
            if self.joint:
                route = weight * routed
            else:
                route = self.class_weighted(routed, task.detach())
                balance = F.relu(len(routes) / 2 - routes[:, -1].sum())
        return Losses(task, kl, distill, teacher, route, balance, share, s[-1].detach(), decisions.mask)

    def passes(self) -> list[tuple[nn.Module, str]]:
        name = "observe" if self._sees_before_relu else "features"
        routing: list[tuple[nn.Module, str]] = [(self.routing, "forward")] if self.strategy.learns else []
        return [(self.teacher, name), (self.student, name), *routing]

    @property
    def _sees_before_relu(self) -> bool:
        return self.distiller is not None and self.distiller.before_relu

    def _observe(self, network: StagedModel, images: Tensor) -> Seen:
        """All stage outputs, and the same as the distiller wants to see them: before the ReLU or after."""
        if self._sees_before_relu:
            return network.observe(images)
        features = network.features(images)
        return features, features

    def _distilled(
        self, distiller: Distiller, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, batch: Batch
    ) -> Tensor:
        """The loss of a distiller at its spots: of this process's samples, or of those of all."""
        loss: Tensor
        if not (self.gather and distiller.relational):
            loss = distiller(student, teacher, mask, batch)
            return loss
        student, teacher, mask = [all_gather(f) for f in student], [all_gather(f) for f in teacher], all_gather(mask)
        indices = None if batch.indices is None else all_gather(batch.indices)
        whole = Batch(batch.images, all_gather(batch.labels), indices)  # relations are between features, not images
        with whole_batch():
            loss = distiller(student, teacher, mask, whole)
            return loss

    def _observe_teacher(self, batch: Batch) -> Seen:
        """As :meth:`_observe` of the teacher, out of its memory where there is one."""

        def observe() -> Seen:
            return self._observe(self.teacher, batch.images)

        return observe() if self.memory is None else self.memory(batch.indices, observe)

    def policy_logits(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """The policy's logits ``(B, K + 1, 2)`` from all features of both; zeros where nothing learns."""
        if self.strategy.learns:
            logits: Tensor = self.policy(teacher[-2], student[-2])
            return logits
        return torch.zeros(len(student[-1]), len(self.spots) + 1, 2, device=student[-1].device)

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

    def class_weighted(self, routed: Tensor, student: Tensor) -> Tensor:
        """The gamma rule, decided once from the unscaled values (the author code tests the scaled value again)."""
        one, seen = torch.ones_like(routed), (routed.detach(), student)
        high, low = all_reduce_mean(torch.stack(seen)) if self.gather else seen
        factor = torch.where(high > low, self.gamma, torch.where(high < low, 1 / self.gamma, one))
        return factor * routed

    def share_terms(self, shares: Tensor) -> Tensor:
        """The share cost and the target share, from the shares ``(K + 1,)`` routed to the teacher in this batch."""
        terms = self.share_cost * shares.sum()
        if self.target_share is not None:
            terms = terms + self.target_weight * (shares - self.target_share).square().sum()
        return terms

    def remember_teacher(self, samples: int, itemsize: int = 4, limit: float = 4.0) -> None:
        """Compute the frozen teacher's outputs once for each of so many samples, and look them up from then on.

        Exact where a sample's image is the same in every epoch. Call :meth:`start_epoch` when an epoch begins, and
        give every batch its indices.

        Args:
            samples: how many there are.
            itemsize: bytes of one of the outputs' numbers.
            limit: GiB that they may take.

        Raises:
            SpotkdError: they take more, or the strategy trains the teacher.
        """
        if self.joint:
            raise SpotkdError("cache_teacher: this strategy trains the teacher, whose outputs change; leave it out")
        at_spots, last = [j for _, j in self.spots], len(self._teacher_shapes) - 1
        before = at_spots if self.distiller is not None and self.distiller.before_relu else []
        after = {*(at_spots[:1] if before else at_spots), last - 1, last}  # routing starts at the first spot
        self.memory = Memory(samples, self._teacher_shapes, sorted(after), before, itemsize, limit)

    @property
    def preparation(self) -> Preparation | None:
        """The phase of training that the distiller needs before distillation (FT, AB); None for most."""
        return None if self.distiller is None else self.distiller.preparation

    @contextmanager
    def preparing(self) -> Iterator[list[nn.Parameter]]:
        """While the distiller is prepared: yields what the preparation trains.

        .. code-block:: python

            with method.preparing() as parameters:
                optimizer = torch.optim.SGD(parameters, lr=method.preparation.lr, momentum=0.9)
                for batch in batches:
                    optimizer.zero_grad()
                    method.preparation_loss(batch).backward()
                    optimizer.step()
        """
        distiller, preparation = self._prepared()
        own = [p for module in distiller.prepared_modules() for p in module.parameters()]
        frozen = [p for p in own if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield [*own, *(self.student.parameters() if preparation.trains_student else ())]
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def preparation_loss(self, batch: Batch | Sequence[Any]) -> Tensor:
        """The distiller's preparation loss on one batch, for all its samples."""
        distiller, preparation = self._prepared()
        batch = Batch(*batch)
        with torch.no_grad():
            _, t = self._observe(self.teacher, batch.images)
        with per_rank_generator(batch.images.device):
            s = self._observe(self.student, batch.images)[1] if preparation.trains_student else None
        at_student = [] if s is None else [s[i] for i, _ in self.spots]
        return distiller.preparation_loss(at_student, [t[j] for _, j in self.spots])

    def _prepared(self) -> tuple[Distiller, Preparation]:
        if self.distiller is None or self.preparation is None:
            raise SpotkdError(f"{type(self.distiller or self.logit_distiller).__name__} has no preparation")
        return self.distiller, self.preparation

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Moves whatever follows the epochs: the strategy's schedule and the distillers' warm-ups."""
        self.strategy.start_epoch(epoch, epochs)
        if self.memory is not None:
            self.memory.start_epoch()
        for distiller in filter(None, (self.logit_distiller, self.distiller)):
            distiller.start_epoch(epoch, epochs)

    @property
    def trained_teacher(self) -> StagedModel | None:  # type: ignore[override]
        return self.teacher if self.joint else None

    def student_parameters(self) -> list[nn.Parameter]:
        modules = [self.student, self.teacher, self.logit_distiller, *([self.distiller] if self.distiller else [])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def policy_parameters(self) -> list[nn.Parameter]:
        return [*self.policy.parameters(), *self.routing.parameters()] if self.strategy.learns else []

    def train(self, mode: bool = True) -> SpotKD:
        """As usual, but a teacher that is not trained stays in eval mode."""
        super().train(mode)
        self.teacher.train(mode and self.joint)
        return self


def _shapes_of(
    student: StagedModel, teacher: StagedModel, image_shape: Shape
) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """The shapes of all stage outputs of both networks, which must fit each other."""
    if {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
        raise SpotkdError("teacher and student share parameters: they must be two networks, the teacher is frozen")
    of_student, of_teacher = feature_shapes(student, image_shape), feature_shapes(teacher, image_shape)
    if of_student[-1] != of_teacher[-1]:
        raise SpotkdError(f"the student has {of_student[-1][0]} classes and the teacher {of_teacher[-1][0]}")
    if len(of_student[-2]) != 1 or len(of_teacher[-2]) != 1:
        raise SpotkdError(
            f"the stage before the classifier gives {of_student[-2]} (student) and {of_teacher[-2]} (teacher): it must "
            "give vectors"
        )
    return of_student, of_teacher


def _indices(
    spots: Sequence[tuple[str | int, str | int]] | None, student: StagedModel, teacher: StagedModel
) -> Spots | None:
    """Pairs of stages, by name or index, as pairs of indices; they must rise in both networks."""
    if spots is None:
        return None
    if not spots:
        raise SpotkdError("spots is empty: give pairs (student stage, teacher stage), or None for the distiller's own")

    def index(stage: str | int, network: StagedModel) -> int:
        names = list(network.stage_names)
        if str(stage) in names:
            return names.index(str(stage))
        if isinstance(stage, int) and 0 <= stage < len(names):
            return stage
        raise unknown_name("stage in spots", str(stage), names)

    pairs = tuple((index(s, student), index(t, teacher)) for s, t in spots)
    for side, network in zip(zip(*pairs, strict=True), (student, teacher), strict=True):
        if list(side) != sorted(set(side)) or side[-1] == len(network.stage_names) - 1:
            raise SpotkdError(
                f"spots {list(spots)}: give each network's stages once, from shallow to deep, without the classifier "
                f"(the logits always are the last spot); they are {', '.join(network.stage_names[:-1])}"
            )
    return pairs
