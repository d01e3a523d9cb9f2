"""The policy network and its decisions (paper, section III)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..distributed import uniform

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


class PolicyNetwork(nn.Module):
    """One linear layer from the two networks' embeddings to a teacher and a student logit for every decision.

    Args:
        teacher_dim: ``D_T``, length of the teacher's embedding.
        student_dim: ``D_S``, length of the student's.
        decisions: ``K + 1``: intermediate spots, shallow to deep, then the logits.
        bias: added to every "teacher" logit's bias at initialisation and only then (it stays trainable and under
            weight decay). The paper uses 10 for pairs of one architecture, 0 for others.
    """

    def __init__(self, teacher_dim: int, student_dim: int, decisions: int, bias: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(teacher_dim + student_dim, 2 * decisions)
        with torch.no_grad():
            self.linear.bias.view(decisions, 2)[:, 0] += bias

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Logits ``(B, K + 1, 2)`` from embeddings ``(B, D_T)`` and ``(B, D_S)``; position 0 means "teacher".

        Both inputs are detached: the policy trains neither network.
        """
        inputs = torch.cat([teacher.detach(), student.detach()], dim=1)
        with torch.autocast(inputs.device.type, enabled=False):
            logits: Tensor = self.linear(inputs.to(self.linear.weight.dtype))
        return logits.view(len(logits), -1, 2)


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
    drawn = uniform(*logits.shape, device=logits.device, dtype=logits.dtype)
    gumbel = -torch.log(-torch.log(drawn + 1e-20) + 1e-20)
    soft = torch.softmax((logits + gumbel) / tau, dim=-1)[..., 0]
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())
