"""The state of a training: all that a run is resumed from."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..errors import SpotkdError, one_line
from ..losses import Method
from ..runs.checkpoint import fingerprint
from ..runs.writer import TRAINING
from ..runtime.random_state import set_random_state
from .means import EpochMeans, shares_of
from .session import Session

_ALL, _NONE = 0.999, 0.001  # shares of an epoch at which a policy no longer decides


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
        collapsed: spots at which the policy no longer decides, which has been noted for the user.
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

    def __init__(self, session: Session, optimizer: Optimizer) -> None:
        self.method, self.optimizer, self.rates = session.method, optimizer, session.schedule.rates
        self.selection, self.trained = session.selection, session.trained
        view = session.data.dataset.teacher_view
        self.meter = EpochMeans(
            session.method.spot_names,
            session.device.fabric.device,
            lambda: _balanced_weights(session.method),
            None if view is None else view.is_damaged,
            lambda: _measures(session.method),
        )
        self.position = Position()
        images = session.data.dataset.train
        self._constants = {
            "teacher": fingerprint(_teacher(session.method)),
            "data": f"{len(images)} images, {_checksum(images.labels)}",
            "pixels": images.fingerprint(),
        }
        saved = session.run.state
        if saved is not None and saved["phase"] == TRAINING:
            self.load_state_dict(saved, len(session.data.train))

    def finish_epoch(self, means: dict[str, float]) -> None:
        """An epoch is complete."""
        at = self.position
        at.epochs, at.steps, at.seconds, at.spent, at.means = at.epochs + 1, 0, at.seconds + at.spent, 0.0, means
        self.meter.reset()

    def newly_settled_spots(self) -> list[str]:
        """Spots at which a policy sent all samples, or none, to the teacher in the last epoch; each of them once."""
        if not self.method.has_policy:
            return []
        stuck = [spot for spot, share in shares_of(self.position.means).items() if not _NONE < share < _ALL]
        fresh = [spot for spot in stuck if spot not in self.position.collapsed]
        self.position.collapsed += fresh
        return fresh

    def state_dict(self, skipped: int = 0) -> dict[str, Any]:
        """All of it, with the number of steps left out so far. Tensors are those in use, not copies."""
        self.position.skipped = skipped
        at = asdict(self.position)
        return {
            "phase": TRAINING,
            "epoch": at.pop("epochs"),
            "step": at.pop("steps"),
            "tallies": at | {"meter": self.meter.state_dict()},
            "method": learned_state(self.method),
            "optimizer": self.optimizer.state_dict()["state"],
            "selection": self.selection.state_dict(),
            "trained": self.trained.state_dict(),
            "constants": self._constants,
        }

    def load_state_dict(self, state: dict[str, Any], steps_per_epoch: int) -> None:
        """Take up where :meth:`state_dict` was, random numbers included.

        Raises:
            SpotkdError: the state belongs to other networks, another teacher or other training images.
        """
        try:
            for what, value in self._constants.items():
                if state["constants"].get(what, value) != value:  # older runs know nothing of pixels
                    raise SpotkdError(f"the {_CONSTANTS[what]} other than when this run was interrupted: start over")
            tallies = dict(state["tallies"])
            self.meter.load_state_dict(tallies.pop("meter"))
            self.position = _check_position(Position(state["epoch"], state["step"], **tallies))
            load_learned_state(self.method, state["method"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
            self.selection.load_state_dict(state["selection"])
            self.trained.load_state_dict(state.get("trained", {}))  # older runs have none
            set_random_state(state["random"])
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
            raise SpotkdError(f"the run cannot be resumed from its checkpoint: {one_line(error)[:300]}") from error
        steps = self.position.epochs * steps_per_epoch + self.position.steps
        if steps:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no optimizer has stepped yet, and need not have
                self.rates.last_epoch = steps - 1
                self.rates.step()


def _check_position(position: Position) -> Position:
    """A position from a file, if all in it is of the right type."""
    for name, default in asdict(Position()).items():
        value = getattr(position, name)
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise TypeError(f"its {name} is a {type(value).__name__}")
    if not all(type(value) is float for value in (*position.rates, *position.means.values())):
        raise TypeError("its rates and means are not all numbers")
    return position


_CONSTANTS = {
    "teacher": "teacher's weights are",
    "data": "training images are",
    "pixels": "training images, whose labels are the same, are",
}


def learned_state(method: Method) -> dict[str, Tensor]:
    """What a method has learnt; without a frozen teacher."""
    frozen = _frozen_keys(method)
    return {key: value for key, value in method.state_dict().items() if key not in frozen}


def load_learned_state(method: Method, state: dict[str, Tensor]) -> None:
    """Load what :func:`learned_state` gave."""
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


def _balanced_weights(method: Method) -> Tensor | None:
    """The factors by which a method balances its distiller; None where it does not."""
    balance = getattr(method, "balance", None)
    return None if balance is None else balance.weights


def _measures(method: Method) -> Mapping[str, Tensor]:
    """What a method's strategy has found out; nothing where it has none."""
    strategy = getattr(method, "strategy", None)
    return {} if strategy is None else strategy.measures()


def _teacher(method: Method) -> dict[str, Tensor]:
    """A frozen teacher's tensors by name; empty where there is none."""
    teacher = getattr(method, "teacher", None)
    return {} if teacher is None or method.trained_teacher is not None else teacher.state_dict()


def _checksum(labels: Tensor | None) -> str:
    return "-" if labels is None else hashlib.sha256(labels.cpu().contiguous().numpy().data).hexdigest()
