"""L2T: how much is learnt of which sample where, by what it does for other samples.

Jang, Lee, Hwang, Shin, "Learning What and Where to Transfer", ICML 2019, arXiv:1905.05901.

**Idea.** Weights of distillation are good if a step by them lowers the labels' loss. They are learnt through the step.

**Formula.** With the teacher's embedding `e_b` and a linear layer `W, c`, the weights of sample `b`:

    w_b = relu6( W e_b + c )

In every fifth step the derivative of a loss by the weights is taken: the labels' loss of one half of the batch, after a
step of gradient descent by the distillation of the other half. Against it the linear layer is moved.

**Constants.** `W` begins at 0 and `c` at 1, as `always`. The step ahead has the rate 0.01. Every 5 steps.

**Cost.** In every fifth step a backward pass with its graph, and one through it.

**Paper and author code.** The paper weighs pairs of layers by linear layers on each teacher feature, and channels too;
it takes several steps ahead by distillation alone and one by labels, and Adam. Here the embedding decides about every
spot (of several teachers, the last one's logits), one step is taken, and the derivative is scaled to mean size 1 for
the optimizer of the run, at the policy's rate. Of several processes each looks ahead on its own samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..stages import Shape
from .strategies import STRATEGIES, Decisions, Evidence, Strategy

EVERY = 5  # steps from one look ahead to the next


@STRATEGIES.register("l2t")
class L2T(Strategy):
    """Weigh samples by the teacher's embedding, learnt from what a step by these weights does for other samples."""

    looks_ahead = True

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        self.gate = nn.Linear(teacher_shapes[-2][0], spots)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        self._steps = 0

    def weigh(self, evidence: Evidence) -> Decisions:
        weights = self._weights(evidence)
        mask = weights.detach()
        if not (self.training and torch.is_grad_enabled()):
            return Decisions(mask)
        due = self.phase
        self.advance()
        if not due:
            return Decisions(mask)
        derivative = evidence.look_ahead(mask)
        size = derivative.abs().mean()
        return Decisions(mask, loss=(weights * (derivative / torch.where(size > 0, size, 1.0))).mean())

    @property
    def phase(self) -> bool:
        """Whether this step looks ahead, see :class:`~spotkd.recording.Counter`."""
        return self._steps % EVERY == 0

    def advance(self) -> None:
        self._steps += 1

    @torch.no_grad()
    def expected_weights(self, evidence: Evidence) -> Tensor:
        return self._weights(evidence)

    def _weights(self, evidence: Evidence) -> Tensor:
        return F.relu6(self.gate(evidence.teacher[-2])).to(self.gate.weight.dtype)

    def get_extra_state(self) -> Tensor:
        """The number of steps, so that a resumed run looks ahead when it would have."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Tensor) -> None:
        self._steps = int(state)
