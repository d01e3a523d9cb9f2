"""What chance decided in an epoch, and the loss on validation images that followed: ``trial.csv``."""

from __future__ import annotations

from ..data import Dataset
from ..errors import SpotkdError
from ..method import SpotKD
from ..routing import Strategy
from ..runs.layout import TRIAL
from ..runs.tables import DRAWN
from ..runs.writer import RunWriter
from .hooks import Epoch, Hook


class TrialLog(Hook):
    """Tells a strategy that needs it the loss on the validation images, and notes what the strategy had drawn.

    The one hook by which what is measured changes the training: the strategy learns, in every process the same.

    Args:
        method: whose strategy needs held-out images.
        run: gets the rows.
    """

    def __init__(self, method: SpotKD, run: RunWriter) -> None:
        self.method, self.run = method, run

    def on_epoch(self, epoch: Epoch) -> None:
        loss, top1 = (float(epoch.row[f"{epoch.split}_{what}"]) for what in ("loss", "top1"))
        for cohort, share, levels in self.method.strategy.finish_epoch(loss):
            drawn = zip((DRAWN + name for name in self.method.spot_names), levels, strict=True)
            row: dict[str, float | int | str] = {"epoch": epoch.number, "cohort": cohort, "share": share}
            self.run.log(row | {"loss": loss, "top1": top1} | dict(drawn), TRIAL)


def check_held_out(name: str, strategy: Strategy, data: Dataset, select: str) -> None:
    """A strategy that learns from held-out images must have some, and they may not be the test images.

    Args:
        name: of the strategy.
        strategy: it.
        data: the data set.
        select: by which images the best epoch is chosen: what is looked at after every epoch.

    Raises:
        SpotkdError: they are missing.
    """
    if not strategy.needs_held_out:
        return
    if data.val is None:
        raise SpotkdError(
            f"strategy is {name}: it needs validation images, and {data.name} has none; hold some out: "
            "--data.val_share 0.1"
        )
    if select == "best_test":
        raise SpotkdError(f"strategy is {name}: it looks at validation images, and select is best_test; take best_val")
