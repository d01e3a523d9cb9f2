"""Which epoch's weights are the result of a run, and on which images that was decided."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..data import Dataset, Split
from ..errors import SpotkdError
from ..runs.summary import CONCEALED, Scores

PROTOCOLS = {"last": "last epoch", "best_val": "best on validation", "best_test": "best on test"}


def resolve_select(select: str, data: Dataset) -> str:
    """``select`` with ``auto`` resolved, a key of :data:`PROTOCOLS`.

    Raises:
        SpotkdError: the best epoch on validation images is asked for, and there are none.
    """
    if select == "best_val" and data.val is None:
        raise SpotkdError(
            f"select is best_val: {data.name} has no validation images; hold some out: --data.val_share 0.1"
        )
    if select == "auto":
        return "last" if data.val is None else "best_val"
    return select


def check_patience(patience: int, data: Dataset) -> None:
    """Only validation images can say when to stop.

    Raises:
        SpotkdError: there are none.
    """
    if patience and data.val is None:
        raise SpotkdError(
            f"patience is {patience}: {data.name} has no validation images; hold some out: --data.val_share 0.1"
        )


class Selection:
    """Keeps the weights of the best epoch so far.

    The test images are looked at after every epoch only where there are no validation images, or where the user asks
    for the best epoch on the test images.

    Args:
        select: what the user chose.
        data: the data set.
        networks: the networks whose weights belong to an epoch, by name. Those of the best epoch are kept in main
            memory and are part of a run's state.
        patience: epochs without a better score after which to stop; 0 for never.

    Attributes:
        watched: name and images of the split that is evaluated after every epoch.
        epoch: the chosen epoch so far.
    """

    def __init__(self, select: str, data: Dataset, networks: dict[str, nn.Module], patience: int = 0) -> None:
        check_patience(patience, data)
        self.patience, self._peak, self._idle = patience, -1.0, 0
        self.select, self.networks = resolve_select(select, data), networks
        self._best: dict[str, dict[str, Tensor]] = {}
        val = None if self.select == "best_test" else data.val
        self.watched: tuple[str, Split] = ("test", data.test) if val is None else ("val", val)
        self._is_test_concealed = data.test is data.val
        self.epoch, self.score = 0, -1.0

    @property
    def protocol(self) -> str:
        """How the result was chosen, in words for tables."""
        return PROTOCOLS[self.select] + (CONCEALED if self._is_test_concealed else "")

    @property
    def stopping(self) -> str | None:
        """Why the training stops now, in words; None if it does not."""
        if self.patience and self._idle >= self.patience:
            return f"no better on {self.watched[0]} images for {self.patience} epoch{'s' * (self.patience != 1)}"
        return None

    def update(self, epoch: int, scores: Scores) -> None:
        """Compare an epoch's scores on the watched images with the best so far; of equal ones the first is the best."""
        self._idle = 0 if scores.top1 > self._peak else self._idle + 1
        self._peak = max(self._peak, scores.top1)
        if self.select == "last":
            self.epoch, self.score = epoch, scores.top1
        elif scores.top1 > self.score:
            self.epoch, self.score = epoch, scores.top1
            self._best = {
                name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in network.state_dict().items()}
                for name, network in self.networks.items()
            }

    def load_best(self) -> None:
        """Put the chosen epoch's weights into the networks."""
        for name, weights in self._best.items():
            self.networks[name].load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, its score and its weights."""
        state = {"epoch": self.epoch, "score": self.score, "best": self._best}
        return state | ({"peak": self._peak, "idle": self._idle} if self.patience else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where :meth:`state_dict` was."""
        self.epoch, self.score, self._best = state["epoch"], state["score"], state["best"]
        self._peak, self._idle = state.get("peak", -1.0), state.get("idle", 0)
