"""The losses of one batch, and what the training loop needs of a method that computes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deprecation import Renamed
from .distributed import per_rank_generator
from .errors import SpotkdError, one_line
from .notebook import html_table
from .precision import full_precision
from .stages import Batch, Shape

_NO_LABEL = -(2**62)  # of samples that PyTorch leaves out, -100 by default, which nobody means here


def as_batch(batch: Batch | Sequence[Any], image_shape: Shape | None = None, dtype: torch.dtype | None = None) -> Batch:
    """A batch as the methods here take it: floating-point images, labels as class indices or as shares of classes.

    Integers of any size become indices, and one-hot rows of integers shares. Only types and shapes are looked at, so
    nothing waits for the device.

    Args:
        batch: a :class:`~spotkd.stages.Batch` or a plain ``(images, labels)``.
        image_shape: ``(C, H, W)`` that the images must have; None for any.
        dtype: of the networks' weights, which the images must have outside of autocast; None for any.

    Raises:
        SpotkdError: what is wrong with it, and what was expected.
    """
    if not isinstance(batch, Sequence) or not 2 <= len(batch) <= 3 or not all(torch.is_tensor(x) for x in batch[:2]):
        raise SpotkdError("a batch is (images, labels) or Batch(images, labels, indices), of tensors")
    images, labels, indices = Batch(*batch)
    if not images.is_floating_point():
        told = "(images / 255 - mean) / std"
        raise SpotkdError(f"images are {images.dtype}: give floats, normalised as for the networks' training, {told}")
    if images.dim() != 4 or not len(images):
        raise SpotkdError(f"images are {tuple(images.shape)}: give (B, C, H, W), of one image at least")
    if dtype not in (None, images.dtype) and not torch.is_autocast_enabled(images.device.type):
        raise SpotkdError(
            f"images are {images.dtype} and the networks' weights {dtype}: give one as the other, or use torch.autocast"
        )
    if image_shape is not None and tuple(images.shape[1:]) != tuple(image_shape):
        raise SpotkdError(
            f"images are {tuple(images.shape[1:])}, and the features that are compared were built for image_shape "
            f"{tuple(image_shape)}: resize them, or give their shape"
        )
    is_wrong = labels.dim() not in (1, 2) or labels.shape[1:] == (1,) or len(labels) != len(images)
    if is_wrong or (labels.dim() == 1 and labels.is_floating_point()):
        raise SpotkdError(
            f"labels are {tuple(labels.shape)} of {labels.dtype} for {len(images)} images: give class indices (B,), or "
            "shares of the classes (B, classes) as floats"
        )
    return Batch(images, labels.long() if labels.dim() == 1 else labels.to(images.dtype), indices)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The mean cross entropy, a scalar, of logits ``(B, classes)`` with indices ``(B,)`` or shares ``(B, classes)``.

    Raises:
        SpotkdError: labels of another number of classes. (On a GPU an index that is too large is CUDA's own error.)
    """
    if labels.dim() == 2 and labels.shape != logits.shape:
        raise SpotkdError(f"labels have {labels.shape[1]} classes and the logits {logits.shape[1]}")
    try:
        targets = labels if labels.dim() == 1 else labels.to(logits.dtype)
        return _cross_entropy(logits, targets, ignore_index=_NO_LABEL, label_smoothing=label_smoothing)
    except IndexError as error:
        count = logits.shape[1]
        raise SpotkdError(f"labels are indices of {count} classes, from 0 to {count - 1}: {one_line(error)}") from error


_cross_entropy: Callable[..., Tensor] = full_precision(F.cross_entropy)


def unless_finite(logits: Tensor) -> Tensor:
    """Zero, or NaN where a teacher's logits are not finite: the guard must see it, whatever a distiller does."""
    return (logits.detach() * 0).sum()


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

    def __repr__(self) -> str:
        """``Losses(total 5.31 = task 4.6 + kl 0.7; distilled 100 %, 41 %)``: terms of 0 left out, shares by spot."""
        named = ((name, float(getattr(self, name).detach())) for name in self.terms())
        terms = " + ".join(f"{name} {value:.4g}" for name, value in named if value) or "0"
        shares = ", ".join(f"{100 * share:.0f} %" for share in self.mask.detach().float().mean(0).tolist())
        return f"Losses(total {float(self.total.detach()):.4g} = {terms}; distilled {shares})"

    def _repr_html_(self) -> str:
        rows = [(name, f"{float(getattr(self, name).detach()):.4g}") for name in (*self.terms(), "total")]
        shares = enumerate(self.mask.detach().float().mean(0).tolist())
        rows += [(f"distilled at spot {spot}", f"{100 * share:.0f} %") for spot, share in shares]
        return html_table("Losses of one batch", rows)

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
        has_policy: whether a policy decides, and may cease to.
        label_smoothing: share of every label that is spread over all classes, in each cross entropy with the labels.
    """

    student: nn.Module
    trained_teacher: nn.Module | None = None
    spot_names: tuple[str, ...] = ()
    policy_warmup: float = 0.0
    has_policy: bool = False
    label_smoothing: float = 0.0

    @abstractmethod
    def forward(self, batch: Batch | Sequence[Any]) -> Losses:
        """The losses of one batch, a :class:`~spotkd.stages.Batch` or a plain ``(images, labels)``."""

    def on_labels(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross entropy of logits ``(B, C)`` with the labels, a scalar."""
        return cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)

    def start_epoch(self, epoch: int, epochs: int) -> None:  # plain training has nothing to do
        """Epoch ``epoch`` of ``epochs``, counted from 1, begins."""

    def compilable_calls(self) -> list[tuple[nn.Module, str]]:
        """The methods ``(module, name)`` that take nearly all of a step's time; each takes the images first."""
        return [(self.student, "forward")]

    passes = Renamed("compilable_calls")

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
        batch = as_batch(batch)
        with per_rank_generator(batch.images.device):
            logits = self.student(batch.images)
        task = self.on_labels(logits, batch)
        zero = task.new_zeros(())
        return Losses(task, zero, zero, zero, zero, zero, zero, logits.detach(), task.new_zeros(len(logits), 0))
