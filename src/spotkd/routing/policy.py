"""The policy network and its decisions (paper, section III)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_reduce_sum, current_shard, uniform, use_shard

PAPER_BIAS = 10.0
# The paper's policy: lr 0.025, momentum 0.9, weight decay 1e-3, 240 epochs of 782 steps. Weight decay shrinks a bias by
# lr * decay / (1 - momentum) a step, so there the bias of 10 is down to 1 after 4.9 % of the run.
_PAPER_RATE, _PAPER_STEPS = 0.025 * 1e-3 / (1 - 0.9), 240 * 782
_FRACTION_OF_RUN = math.log(PAPER_BIAS) / (_PAPER_RATE * _PAPER_STEPS)


def scaled_bias(steps: int, lr: float, weight_decay: float, momentum: float = 0.9) -> float:
    """The initial bias that suits a run of another length than the paper's 187 680 steps.

    The paper's bias of 10 is an initial condition: weight decay brings it down to 1 after the first 4.9 % of the run,
    and only then do decisions open. In a short run 10 would hold every decision at "teacher" to the end. This is
    the bias that is down to 1 at the same fraction of a run of ``steps`` steps: 10 for the paper's run, near 1
    for a run of a thousand steps (P(teacher) = 0.73 at the start).

    Args:
        steps: optimizer steps of the whole run.
        lr: learning rate of the policy.
        weight_decay: weight decay of the policy.
        momentum: momentum of its SGD.
    """
    rate = lr * weight_decay / (1 - momentum)
    return min(PAPER_BIAS, math.exp(_FRACTION_OF_RUN * rate * steps))


def scaled_decay(steps: int, lr: float, momentum: float = 0.9) -> float:
    """The weight decay under which a policy forgets as much in a run of ``steps`` steps as the paper's in its own.

    Decay is what re-opens decisions: over the paper's run a weight without gradient shrinks by ``exp(-46.9)``. In a run
    of a thousand steps the published 1e-3 leaves it at half of itself or more.

    Args:
        steps: optimizer steps of the whole run.
        lr: learning rate of the policy.
        momentum: momentum of its SGD.
    """
    return _PAPER_RATE * _PAPER_STEPS * (1 - momentum) / (lr * max(steps, 1))


class PolicyNetwork(nn.Module):
    """One linear layer from the two networks' embeddings to a teacher and a student logit for every decision.

    Args:
        teacher_dim: ``D_T``, length of the teacher's embedding.
        student_dim: ``D_S``, length of the student's.
        decisions: ``K + 1``: intermediate spots, shallow to deep, then the logits.
        bias: added to every "teacher" logit's bias at initialisation and only then (it stays trainable and under
            weight decay). The paper uses 10 for pairs of one architecture, 0 for others.
        normalise: bring each embedding to length 1 first. Not in the paper: there its length, which differs by hundreds
            between networks and between the first steps and the last, decides how fast the policy learns.
    """

    def __init__(
        self, teacher_dim: int, student_dim: int, decisions: int, bias: float = 0.0, normalise: bool = False
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.linear = nn.Linear(teacher_dim + student_dim, 2 * decisions)
        with torch.no_grad():
            self.linear.bias.view(decisions, 2)[:, 0] += bias

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Logits ``(B, K + 1, 2)`` from embeddings ``(B, D_T)`` and ``(B, D_S)``; position 0 means "teacher".

        Both inputs are detached: the policy trains neither network.
        """
        embeddings = [teacher.detach(), student.detach()]
        if self.normalise:
            embeddings = [F.normalize(x.float(), dim=1) for x in embeddings]
        inputs = torch.cat(embeddings, dim=1)
        with torch.autocast(inputs.device.type, enabled=False):
            logits: Tensor = self.linear(inputs.to(self.linear.weight.dtype))
        return logits.view(len(logits), -1, 2)


def gumbel_logits(logits: Tensor) -> Tensor:
    """Logits ``(B, K + 1, 2)`` with Gumbel noise: the larger of a pair is a draw with the pair's probabilities."""
    drawn = uniform(*logits.shape, device=logits.device, dtype=logits.dtype)
    return logits - torch.log(-torch.log(drawn + 1e-20) + 1e-20)


def straight_through(logits: Tensor, tau: float = 5.0) -> Tensor:
    """Sample decisions: 1 where the teacher's path is taken, with the gradient of a softmax.

    Straight-through Gumbel-softmax over the last axis. The value is exactly 0 or 1 with
    ``P(1) = sigmoid(l_0 - l_1)``, whatever ``tau`` is; the gradient is that of
    ``softmax((l + g) / tau)[..., 0]``, so ``da / dl_0 = p_0 * p_1 / tau = -da / dl_1``.

    Args:
        logits: ``(B, K + 1, 2)``.
        tau: temperature of the gradient; the paper's 5.

    Returns:
        ``(B, K + 1)``.
    """
    soft = torch.softmax(gumbel_logits(logits) / tau, dim=-1)[..., 0]
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())


class PolicyPace(nn.Module):
    """When and how fast a policy learns, where that is not as in the paper: there in every step from the first on.

    The routing network runs the student in eval mode, whose statistics are still those of initialisation in the first
    steps: a deep student's routing loss is then in the hundreds, and its gradient pins every decision at "teacher" in
    one step.

    Args:
        settling: steps at the start in which everybody is distilled and nothing routed.
        bound: norm of the routing loss's gradient at the policy's logits of a batch, at most.
        every: the policy and the adapters learn in every so many steps; it decides in all of them. An approximation,
            which saves the routing network's pass in the others.
    """

    def __init__(self, settling: int = 50, bound: float = 0.03, every: int = 1) -> None:
        super().__init__()
        self.settling, self.bound, self.every = settling, bound, every
        self._taken = 0

    @property
    def phase(self) -> tuple[bool, bool]:
        """Whether the next step is still one of the start, and whether the policy learns in it."""
        after = self._taken - self.settling
        return after < 0, after >= 0 and after % self.every == 0

    def advance(self) -> tuple[bool, bool]:
        """Counts a step, and gives its phase."""
        phase = self.phase
        self._taken += 1
        return phase

    def attach(self, logits: Tensor) -> Tensor:
        """The same logits, through which gradients flow back bounded."""
        bounded: Tensor = _BoundGradient.apply(logits, self.bound)  # type: ignore[no-untyped-call]
        return bounded

    def get_extra_state(self) -> Tensor:
        """The number of steps."""
        return torch.tensor(self._taken)

    def set_extra_state(self, state: Any) -> None:
        self._taken = int(state)


class _BoundGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound, ctx.shard = bound, current_shard()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # The batch's gradient is the mean over the processes, each of which has nothing of the others' samples.
        with use_shard(ctx.shard):
            norm = all_reduce_sum(grad.square().sum()).sqrt()
        norm = norm / (ctx.shard.processes if ctx.shard.is_split else 1)
        return grad * (ctx.bound / norm.clamp(min=1e-12)).clamp(max=1.0), None
