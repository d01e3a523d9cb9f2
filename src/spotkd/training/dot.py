"""DOT: labels and teacher push with momenta of their own.

Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, arXiv:2307.08436.

**Idea.** Where both losses share one momentum, the labels' gradients dominate it and the student trades the teacher's
loss for theirs. With more momentum for the teacher's gradients, the student follows the teacher in the long run.

**Formula.** With the gradients `g_l` of the labels' loss (weight decay included) and `g_d` of everything else:

    v_l = (mu - Delta) v_l + g_l        v_d = (mu + Delta) v_d + g_d        theta = theta - lr (v_l + v_d)

**Constants.** `mu` 0.9; `Delta` 0.075 for KD on CIFAR-100, 0.09 on ImageNet and Tiny-ImageNet. `Delta` 0 is SGD.

**Cost.** A second backward pass through the student in every step, and two more tensors a parameter.

**Paper and author code.** The code decays weights in the labels' part, and so does this. What the policy and the
adapters learn from is no label's loss of the student: they get the momentum `mu` in both parts, which is SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..losses import Losses
from ..runtime.collectives import average_tensors


class DOT(Optimizer):
    """SGD with one momentum for the labels' gradients and another for the teacher's.

    :meth:`backward` takes the place of a backward pass: gradients are summed in ``grad`` as usual, where they can be
    looked at, and the teacher's part is kept beside them for the next :meth:`step`.

    Args:
        params: parameter groups, the student's first.
        lr: learning rate.
        momentum: of both gradients together, ``mu``.
        delta: the labels' momentum is so much smaller, the teacher's so much larger; for the first group alone.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float, delta: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "delta": 0.0})
        self.param_groups[0]["delta"] = delta
        self._taught: dict[Tensor, Tensor] = {}

    def backward(self, losses: Losses, backward: Callable[..., Any], weight: float) -> None:
        """The backward passes of one step, for gradients that have been set to None.

        Args:
            losses: of this process's samples.
            backward: runs a backward pass from a loss, a scalar; takes ``retain_graph``.
            weight: factor of the losses, see :class:`~spotkd.distributed.Shard`.
        """
        backward((losses.total - losses.task) * weight, retain_graph=True)
        student = self.param_groups[0]["params"]
        self._taught = {p: p.grad.clone() for p in student if p.grad is not None}
        average_tensors(self._taught.values())
        backward(losses.task * weight)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            low, high = group["momentum"] - group["delta"], group["momentum"] + group["delta"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                taught = self._taught.get(p)
                by_labels = p.grad if taught is None else p.grad - taught
                by_labels = by_labels.add(p, alpha=group["weight_decay"])
                state = self.state[p]
                if not state:
                    state["labels"], state["teacher"] = torch.zeros_like(p), torch.zeros_like(p)
                state["labels"].mul_(low).add_(by_labels)
                state["teacher"].mul_(high).add_(torch.zeros_like(p) if taught is None else taught)
                p.sub_(group["lr"] * (state["labels"] + state["teacher"]))
