"""The state of a training: all that decides how it goes on."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..data import Dataset
from ..distributed import Shard
from ..errors import SpotkdError, one_line
from ..method import Losses, Method
from ..stages import Batch
from .averages import total as summed_over_processes
from .checkpoint import fingerprint, set_random_state
from .run import TRAINING
from .select import Selection

_ALL, _NONE = 0.999, 0.001  # shares of an epoch at which a policy no longer decides


class Meter:
    """Means over an epoch, summed on the device and read only when somebody looks."""

    def __init__(self, spot_names: tuple[str, ...], device: torch.device) -> None:
        self.names = [*(f"loss_{term}" for term in Losses.terms()), "train_top1", *(f"share_{n}" for n in spot_names)]
        precise = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self._sums = torch.zeros(len(self.names), device=device, dtype=precise)
        self._count = 0

    def add(self, losses: Losses, batch: Batch, shard: Shard) -> None:
        """Take note of a step; where several processes share the batch, of all of it."""
        hits = 100 * (losses.logits.argmax(1) == batch.labels).float().mean()
        terms = torch.stack([*losses[: len(Losses.terms())], hits]).detach()
        means = torch.cat([terms, losses.mask.mean(0)]).to(self._sums.dtype)
        self._sums += summed_over_processes(means * shard.effective_size)
        self._count += shard.total

    def reset(self) -> None:
        """An epoch begins."""
        self._sums.zero_()
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": self._sums.cpu(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the sums of :meth:`state_dict`."""
        self._sums.copy_(state["sums"])
        self._count = state["count"]

    def read(self) -> dict[str, float]:
        """Means by name. Waits for the device."""
        values = (self._sums / max(self._count, 1)).tolist()
        return dict(zip(self.names, values, strict=True))


def shares_of(means: Mapping[str, float]) -> dict[str, float]:
    """The shares of distilled samples by spot, out of the means of a meter."""
    return {name.removeprefix("share_"): value for name, value in means.items() if name.startswith("share_")}


def losses_of(means: Mapping[str, float]) -> dict[str, float]:
    """The terms of the loss, out of the means of a meter; they add up to the total."""
    return {name.removeprefix("loss_"): value for name, value in means.items() if name.startswith("loss_")}


@dataclass
class Position:
    """How far a training is.

    Attributes:
        epochs: complete epochs.
        steps: complete steps of the one after them.
        spent: seconds spent on those steps.
        seconds: seconds spent on the complete epochs.
        rates: learning rates when that epoch began.
        skipped: steps that were left out because a number was not finite.
        means: of the last complete epoch, by name.
        collapsed: spots about which the user has been told that nothing is decided there.
    """

    epochs: int = 0
    steps: int = 0
    spent: float = 0.0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    skipped: int = 0
    means: dict[str, float] = field(default_factory=dict)
    collapsed: list[str] = field(default_factory=list)


class Training:
    """The parts of a training that have a state, and the state as one dictionary.

    The schedule needs none: its rates follow from the number of steps. A frozen teacher has a file of its own; only its
    checksum is kept, and so it is with the labels of the training images.
    """

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer,
        schedule: LRScheduler,
        selection: Selection,
        meter: Meter,
        data: Dataset,
    ) -> None:
        self.method, self.optimizer, self.schedule = method, optimizer, schedule
        self.selection, self.meter = selection, meter
        self.position = Position()
        self._constants = {
            "teacher": fingerprint(_teacher(method)),
            "data": f"{len(data.train)} images, {_checksum(data.train.labels)}",
        }

    def next_epoch(self, means: dict[str, float]) -> None:
        """An epoch is complete."""
        at = self.position
        at.epochs, at.steps, at.seconds, at.spent, at.means = at.epochs + 1, 0, at.seconds + at.spent, 0.0, means
        self.meter.reset()

    def newly_collapsed(self) -> list[str]:
        """Spots at which all samples, or none, went to the teacher in the last epoch, each of them once."""
        stuck = [spot for spot, share in shares_of(self.position.means).items() if not _NONE < share < _ALL]
        fresh = [spot for spot in stuck if spot not in self.position.collapsed]
        self.position.collapsed += fresh
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """All of it. Tensors are those in use, not copies."""
        at = asdict(self.position)
        return {
            "phase": TRAINING,
            "epoch": at.pop("epochs"),
            "step": at.pop("steps"),
            "tallies": at | {"meter": self.meter.state_dict()},
            "method": learnt(self.method),
            "optimizer": self.optimizer.state_dict()["state"],
            "selection": self.selection.state_dict(),
            "constants": self._constants,
        }

    def load_state_dict(self, state: dict[str, Any], steps_per_epoch: int) -> None:
        """Go on from :meth:`state_dict`, random numbers included.

        Raises:
            SpotkdError: the state belongs to other networks, another teacher or other training images.
        """
        try:
            for what, value in self._constants.items():
                if state["constants"][what] != value:
                    raise SpotkdError(f"the {_CONSTANTS[what]} other than when this run was interrupted: begin anew")
            tallies = dict(state["tallies"])
            self.meter.load_state_dict(tallies.pop("meter"))
            self.position = Position(state["epoch"], state["step"], **tallies)
            load_learnt(self.method, state["method"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
            self.selection.load_state_dict(state["selection"])
            set_random_state(state["random"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SpotkdError(f"the run cannot go on from its checkpoint: {one_line(error)[:300]}") from error
        steps = self.position.epochs * steps_per_epoch + self.position.steps
        if steps:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no optimizer has stepped yet, and need not have
                self.schedule.last_epoch = steps - 1
                self.schedule.step()


_CONSTANTS = {"teacher": "teacher's weights are", "data": "training images are"}


def learnt(method: Method) -> dict[str, Tensor]:
    """What a method has learnt; without a frozen teacher."""
    frozen = _frozen_keys(method)
    return {key: value for key, value in method.state_dict().items() if key not in frozen}


def load_learnt(method: Method, state: dict[str, Tensor]) -> None:
    """Load what :func:`learnt` gave."""
    frozen = _frozen_keys(method)
    method.load_state_dict({key: value for key, value in method.state_dict().items() if key in frozen} | state)


def changing_buffers(method: Method) -> Iterator[Tensor]:
    """The buffers that a forward pass may change."""
    frozen = _frozen_keys(method)
    return (buffer for name, buffer in method.named_buffers() if name not in frozen)


def _frozen_keys(method: Method) -> set[str]:
    if method.trained_teacher is not None:
        return set()
    return {f"teacher.{key}" for key in _teacher(method)}


def _teacher(method: Method) -> dict[str, Tensor]:
    """A frozen teacher's tensors by name; empty where there is none."""
    teacher = getattr(method, "teacher", None)
    return {} if teacher is None or method.trained_teacher is not None else teacher.state_dict()


def _checksum(labels: Tensor | None) -> str:
    return "-" if labels is None else hashlib.sha256(labels.cpu().contiguous().numpy().data).hexdigest()
