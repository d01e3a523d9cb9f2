"""Which epoch's weights are the result of a run, and on which images that was decided."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..config import Select
from ..data import Dataset, Split
from ..errors import SpotkdError
from .averages import barrier
from .evaluate import Scores
from .run import Run

PROTOCOLS = {"last": "last epoch", "best_val": "best on validation", "best_test": "best on test"}
BEST = "best.ckpt"


def chosen(select: Select, data: Dataset) -> str:
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


class Selection:
    """Keeps the weights of the best epoch so far.

    The test images are looked at after every epoch only where there are no validation images, or where the user asks
    for the best epoch on the test images.

    Args:
        select: what the user chose.
        data: the data set.
        networks: the networks whose weights belong to an epoch, by name.
        run: where the best weights are kept while training goes on.

    Attributes:
        watched: name and images of the split that is evaluated after every epoch.
        epoch: the chosen epoch so far.
    """

    def __init__(self, select: Select, data: Dataset, networks: dict[str, nn.Module], run: Run) -> None:
        self.select, self.networks, self.run = chosen(select, data), networks, run
        val = None if self.select == "best_test" else data.val
        self.watched: tuple[str, Split] = ("test", data.test) if val is None else ("val", val)
        self.epoch, self.score = 0, -1.0

    @property
    def protocol(self) -> str:
        """How the result was chosen, in words for tables."""
        return PROTOCOLS[self.select]

    def after(self, epoch: int, scores: Scores) -> None:
        """Take note of an epoch's scores on the watched images; of equal ones the first is the best."""
        if self.select == "last":
            self.epoch, self.score = epoch, scores.top1
        elif scores.top1 > self.score:
            self.epoch, self.score = epoch, scores.top1
            self.run.checkpoint(self._content(), BEST)

    def load_best(self) -> None:
        """Put the chosen epoch's weights into the networks."""
        if self.select != "last":
            barrier()  # it is written
            state = self.run.read(BEST)
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
            barrier()  # all have read it
            self.run.remove(BEST)

    def _content(self) -> dict[str, Any]:
        weights = {name: network.state_dict() for name, network in self.networks.items()}
        return {"epoch": self.epoch, "score": self.score, "networks": weights}
