"""Strategies: who decides, for each sample of a batch, at which spots it is distilled.

A strategy answers once for every batch: a *mask* `(B, K + 1)` of zeros and ones says who is distilled where; its
columns are the distiller's spots, shallow to deep, and then the logits. Strategies with a policy also give the *route*,
which samples take the teacher's path through the routing network; the policy and its adapters learn from that path's
loss, never from the student's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..distributed import uniform
from ..errors import SpotkdError
from ..registry import Registry
from .policy import straight_through


class Decisions(NamedTuple):
    """The decisions for one batch; columns are the intermediate spots, shallow to deep, then the logits.

    Attributes:
        mask: ``(B, K + 1)`` zeros and ones without gradient: which samples are distilled where.
        route: ``(B, K + 1)``, 1 where the routing network takes the teacher's path, with gradients to the policy;
            None for strategies without a policy.
    """

    mask: Tensor
    route: Tensor | None = None


class Strategy:
    """WHERE to distil. A subclass writes :meth:`decide`; ``@STRATEGIES.register("name")`` gives it a name.

    One that changes with the epoch writes :meth:`start_epoch` too:

    .. code-block:: python

        # Everyone everywhere in the first half of the run, then SAKD; the policy learns from the start.
        class LateStart(Strategy):
            learns = True

            def start_epoch(self, epoch, epochs):
                self.everyone = epoch <= epochs // 2

            def decide(self, logits):
                route = straight_through(logits)
                return Decisions(torch.ones_like(route) if self.everyone else route.detach(), route)

    ``SpotKD(..., strategy=LateStart())`` takes it as it is, and ``--strategy python:my_module.LateStart`` from a file
    ``my_module.py``. A strategy that does not learn writes :meth:`teacher_probability` too, if ``spotkd inspect`` is to
    show it.

    Attributes:
        learns: whether a policy network, adapters and the routing network are built and trained.
        trains_teacher: whether the teacher is trained along, see :class:`Joint`.
        policy_warmup: share of the run's epochs in which the policy's rate is a hundredth of itself.
    """

    learns: ClassVar[bool] = False
    trains_teacher: ClassVar[bool] = False
    policy_warmup: ClassVar[float] = 0.0

    @abstractmethod
    def decide(self, logits: Tensor) -> Decisions:
        """Decide for one batch.

        Args:
            logits: the policy's ``(B, K + 1, 2)`` (0: teacher, 1: student); zeros for strategies that do not learn.
        """

    def teacher_probability(self, logits: Tensor) -> Tensor:
        """P(teacher) ``(B, K + 1)`` without the noise of a draw: ``sigmoid(l_0 - l_1)`` of the policy's logits.

        A strategy without a policy gives the probability that a sample is distilled, whatever the logits are.

        Raises:
            SpotkdError: the strategy has no policy and does not say.
        """
        if self.learns:
            return torch.sigmoid(logits[..., 0] - logits[..., 1])
        raise SpotkdError(f"strategy {type(self).__name__} has no policy to ask: give it a teacher_probability()")

    def start_epoch(self, epoch: int, epochs: int) -> None:  # a hook: most strategies do not need it
        """Epoch ``epoch`` of ``epochs``, counted from 1, begins: for strategies that change with time.

        What :meth:`decide` does may depend on it; a run that is resumed calls it again with the same numbers.
        """


STRATEGIES: Registry[Callable[[], Strategy]] = Registry("strategy")


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
    """A fair coin for every sample and spot, independent of each other.

    The author code ties the coin of the logits to that of the last map for multi-spot distillers, and multiplies the
    student's cross entropy by gamma; here the coins are independent and the factor is 1, as everywhere.
    """

    def decide(self, logits: Tensor) -> Decisions:
        coins = uniform(*logits.shape[:-1], device=logits.device, dtype=logits.dtype)
        return Decisions((coins < 0.5).to(logits.dtype))

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.full_like(logits[..., 0], 0.5)


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
