"""Strategies: who decides, for each sample of a batch, at which spots it is distilled, and how strongly.

A strategy answers once for every batch: *weights* `(B, K + 1)`, 0 or more, say how much each sample is distilled where;
its columns are the distiller's spots, shallow to deep, and then the logits. Zeros and ones make them a mask. Their mean
is the *dose*. Strategies with a policy also give the *route*, which samples take the teacher's path through the routing
network; the policy and its adapters learn from that path's loss, never from the student's.

Strategies combine: `trust+balance` multiplies the weights of both. One that takes values gets them after a colon:
`random:0.3`, `trust:labels=false`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..distributed import uniform
from ..errors import SpotkdError
from ..registry import Registry
from ..stages import Shape
from .policy import straight_through


class Decisions(NamedTuple):
    """The decisions for one batch; columns are the intermediate spots, shallow to deep, then the logits.

    Attributes:
        mask: ``(B, K + 1)`` weights of 0 or more without gradient: how much each sample is distilled where; zeros and
            ones for strategies that select.
        route: ``(B, K + 1)``, 1 where the routing network takes the teacher's path, with gradients to the policy;
            None for strategies without a policy.
        loss: a scalar that trains the strategy's own parameters; None for most.
    """

    mask: Tensor
    route: Tensor | None = None
    loss: Tensor | None = None


class Draw(NamedTuple):
    """What chance decided in an epoch for some of the samples, as ``trial.csv`` notes it.

    Attributes:
        cohort: which samples, in words.
        share: of the training samples that they are.
        levels: for each spot, shallow to deep, then the logits: a number that was drawn.
    """

    cohort: str
    share: float
    levels: tuple[float, ...]


class Evidence(NamedTuple):
    """What a strategy decides from: all that is known of a batch before it is distilled. Nothing carries a gradient.

    Attributes:
        policy_logits: the policy's ``(B, K + 1, 2)`` (0: teacher, 1: student), with gradients to the policy; zeros for
            strategies that do not learn.
        teacher: the output of every stage of the teacher; the last is the logits ``(B, classes)``. Stages that nothing
            uses may be empty where the teacher's outputs are cached.
        student: the same of the student.
        labels: ``(B,)`` class indices.
        losses: ``(B, K + 1)`` each sample's own loss at every spot, without the weights alpha and beta, see
            :meth:`~spotkd.distillers.Distiller.sample_losses`; None unless the strategy sets ``needs_losses``.
        progress: the share of the epochs that are over, from 0 up to (not including) 1.
        task_gradients: gives the gradients of the labels' loss at the student's features of each spot, ``K + 1``
            tensors ``(B, ...)``. Each call costs a part of a backward pass, so call it every few steps.
        logits_of_teachers: the logits ``(B, classes)`` of each of several teachers; ``teacher[-1]`` are the joint ones.
            Empty where there is one teacher.
        look_ahead: gives the derivative ``(B, K + 1)`` by weights ``(B, K + 1)`` of the labels' loss of one half of the
            batch, after a small step by the distillation of the other half. It costs more than a step.
        teacher_of_column: whose each column of the weights is, by the place in ``logits_of_teachers``.
    """

    policy_logits: Tensor
    teacher: Sequence[Tensor]
    student: Sequence[Tensor]
    labels: Tensor
    losses: Tensor | None
    progress: float
    task_gradients: Callable[[], list[Tensor]]
    logits_of_teachers: Sequence[Tensor] = ()
    teacher_of_column: Sequence[int] = ()
    look_ahead: Callable[[Tensor], Tensor] = torch.zeros_like

    @property
    def each_teacher(self) -> Sequence[Tensor]:
        """The logits ``(B, classes)`` of every teacher by itself, one or several."""
        return self.logits_of_teachers or self.teacher[-1:]

    def is_teacher_right(self) -> Tensor:
        """Whether a column's teacher names the label, ``(B, K + 1)``."""
        return self.spread(torch.stack([x.argmax(1) == self.labels for x in self.each_teacher], dim=1))

    def spread(self, of_teachers: Tensor) -> Tensor:
        """Values ``(B, teachers)`` of each teacher as those of its columns, ``(B, K + 1)``."""
        if not self.teacher_of_column:
            return of_teachers.expand(self.policy_logits.shape[:-1])
        return torch.stack([of_teachers[:, teacher] for teacher in self.teacher_of_column], dim=1)

    def require_losses(self) -> Tensor:
        """The losses, for a strategy that asked for them."""
        if self.losses is None:
            raise SpotkdError("this strategy needs the losses of single samples: it must set needs_losses = True")
        return self.losses


class Strategy(nn.Module):
    """WHERE to distil. A subclass writes :meth:`decide` or :meth:`weigh`; ``@STRATEGIES.register("name")`` names it.

    One that sees nothing but the policy's logits writes :meth:`decide`; one that changes with the epoch,
    :meth:`start_epoch` too:

    .. code-block:: python

        # Everyone everywhere in the first half of the run, then SAKD; the policy learns from the start.
        class LateStart(Strategy):
            learns = True

            def start_epoch(self, epoch, epochs):
                self.everyone = epoch <= epochs // 2

            def decide(self, logits):
                route = straight_through(logits)
                return Decisions(torch.ones_like(route) if self.everyone else route.detach(), route)

    One that weighs samples by what both networks say writes :meth:`weigh`, here by the teacher's probability of the
    label:

    .. code-block:: python

        class BelieveTheSure(Strategy):
            def weigh(self, evidence):
                sure = evidence.teacher[-1].softmax(1).gather(1, evidence.labels[:, None])
                return Decisions(sure.expand(evidence.policy_logits.shape[:-1]))

    ``SpotKD(..., strategy=LateStart())`` takes it as it is, and ``--strategy python:my_module.LateStart`` from a file
    ``my_module.py``. A strategy is a module: its buffers are part of the checkpoint, and what its parameters learn
    comes from ``Decisions.loss``.

    Attributes:
        learns: whether a policy network, adapters and the routing network are built and trained.
        trains_teacher: whether the teacher is trained along, see :class:`Joint`.
        policy_warmup: share of the run's epochs in which the policy's rate is a hundredth of itself.
        needs_losses: whether it looks at each sample's own losses, ``Evidence.losses``.
        looks_ahead: whether it calls ``Evidence.look_ahead``, which compiled passes do not give.
        balances: whether the distiller's pull is bounded by that of labels and logits, see :mod:`spotkd.balance`.
        needs_held_out: whether it looks at the loss on validation images, :meth:`finish_epoch`.
    """

    learns: bool = False
    trains_teacher: bool = False
    policy_warmup: float = 0.0
    needs_losses: bool = False
    balances: bool = False
    needs_held_out: bool = False
    looks_ahead: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Strategy:
        """A module already, so that a subclass's ``__init__`` need not call that of its parent."""
        strategy: Strategy = super().__new__(cls)
        nn.Module.__init__(strategy)
        return strategy

    @property
    def tells_samples_apart(self) -> bool:
        """Whether samples may get different weights for what they are, and not only by chance."""
        return self.learns or type(self).weigh is not Strategy.weigh

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        """Make what depends on the pair of networks: buffers, trainable parts. Called once, before training.

        Args:
            spots: ``K + 1``.
            student_shapes: shapes of all stage outputs of the student, without the batch dimension.
            teacher_shapes: the same of the teacher.
        """

    def decide(self, logits: Tensor) -> Decisions:
        """Decide for one batch from the policy alone.

        Args:
            logits: the policy's ``(B, K + 1, 2)`` (0: teacher, 1: student); zeros for strategies that do not learn.
        """
        raise NotImplementedError(f"{type(self).__name__} writes neither decide() nor weigh()")

    def weigh(self, evidence: Evidence) -> Decisions:
        """Decide for one batch from everything that is known of it; by default what :meth:`decide` says."""
        return self.decide(evidence.policy_logits)

    def draw_route(self, logits: Tensor) -> Tensor:
        """The route ``(B, K + 1)`` of samples that are not distilled, with gradients to the policy's ``(B, K + 1, 2)``.

        What the strategy knows of the batches stays as it is.
        """
        was_training = self.training
        try:
            route = self.eval().decide(logits).route
        finally:
            self.train(was_training)
        if route is None:
            raise SpotkdError(f"strategy {type(self).__name__} routes nothing")
        return route

    def teacher_probability(self, logits: Tensor) -> Tensor:
        """P(teacher) ``(B, K + 1)`` without the noise of a draw: ``sigmoid(l_0 - l_1)`` of the policy's logits.

        A strategy without a policy gives the probability that a sample is distilled, whatever the logits are.

        Raises:
            SpotkdError: the strategy has no policy and does not say.
        """
        if self.learns:
            return torch.sigmoid(logits[..., 0] - logits[..., 1])
        raise SpotkdError(f"strategy {type(self).__name__} has no policy to ask: give it a teacher_probability()")

    def expected_weights(self, evidence: Evidence) -> Tensor:
        """The weights ``(B, K + 1)`` without the noise of a draw and without learning from the batch, for inspection.

        Raises:
            SpotkdError: the strategy does not say.
        """
        return self.teacher_probability(evidence.policy_logits)

    def measures(self) -> Mapping[str, Tensor]:
        """What it has found out, for ``metrics.csv``: by name a number ``(K + 1,)`` for each spot, without gradient."""
        return {}

    def start_epoch(self, epoch: int, epochs: int) -> None:  # a hook: most strategies do not need it
        """Epoch ``epoch`` of ``epochs``, counted from 1, begins: for strategies that change with time.

        What :meth:`decide` does may depend on it; a run that is resumed calls it again with the same numbers.
        """

    def finish_epoch(self, held_out_loss: float) -> Sequence[Draw]:
        """An epoch is over; called for strategies that set ``needs_held_out``.

        Args:
            held_out_loss: mean cross entropy of the student on the validation images, in nats; the same in every
                process.

        Returns:
            What chance decided in the epoch, where it did.
        """
        return ()


STRATEGIES: Registry[Callable[..., Strategy]] = Registry("strategy")


def check_share(name: str, share: float) -> float:
    """A share of the samples.

    Raises:
        SpotkdError: it is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise SpotkdError(f"strategy {name}: {share:g} is no share of the samples, between 0 and 1")
    return share


@STRATEGIES.register("adaptive")
class Adaptive(Strategy):
    """SAKD: distil where the policy takes the teacher's path.

    The route is drawn with probability ``sigmoid(l_teacher - l_student)`` (Gumbel noise, straight-through with
    temperature 5), and the mask is the same decisions without their gradient: one draw a step drives both.
    """

    learns = True

    def decide(self, logits: Tensor) -> Decisions:
        route = straight_through(logits)
        return Decisions(route.detach(), route)


@STRATEGIES.register("anti")
class Anti(Strategy):
    """The control experiment: the policy learns as in SAKD, the student is distilled on the complement.

    If learnt decisions carry information, doing the opposite must hurt. The balance term holds for what is routed, so
    at the logits at most about half of the samples are distilled.
    """

    learns = True

    def decide(self, logits: Tensor) -> Decisions:
        route = straight_through(logits)
        return Decisions(1 - route.detach(), route)


@STRATEGIES.register("random")
class Random(Strategy):
    """A coin for every sample and spot, independent of each other; fair, or `random:0.3` for a share of 0.3.

    The author code ties the coin of the logits to that of the last map for multi-spot distillers, and multiplies the
    student's cross entropy by gamma; here the coins are independent and the factor is 1, as everywhere.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = check_share("random", share)

    def decide(self, logits: Tensor) -> Decisions:
        coins = uniform(*logits.shape[:-1], device=logits.device, dtype=logits.dtype)
        return Decisions((coins < self.share).to(logits.dtype))

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.full_like(logits[..., 0], self.share)


@STRATEGIES.register("always")
class Always(Strategy):
    """Ordinary distillation: every sample at every spot."""

    def decide(self, logits: Tensor) -> Decisions:
        return Decisions(torch.ones_like(logits[..., 0]))

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.ones_like(logits[..., 0])


@STRATEGIES.register("never")
class Never(Strategy):
    """No distillation: labels alone, with the cost of the other strategies. A check on everything else."""

    def decide(self, logits: Tensor) -> Decisions:
        return Decisions(torch.zeros_like(logits[..., 0]))

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits[..., 0])


@STRATEGIES.register("joint")
class Joint(Adaptive):
    """SAKD while the teacher is trained too: it learns from the labels and is pulled towards the student.

    Both networks are in train mode and the teacher's features and logits keep their gradients. ``gamma`` multiplies
    the cross entropies of the student, of the teacher and of the routed network; there is neither the gamma rule nor
    the balance term. The policy starts at a hundredth of its rate for the first 29 of 240 epochs. (In the author code
    that hundredth lasts until epoch 150 by mistake.)
    """

    trains_teacher = True
    policy_warmup = 29 / 240
