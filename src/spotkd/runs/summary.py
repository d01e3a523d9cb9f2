"""The result of a run, and ``summary.json``, which holds it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import __version__
from ..errors import RunError, SpotkdError, one_line
from ..untrusted.files import read_text
from ..untrusted.json_values import parse_json

MAX_BYTES = 1 << 20  # of summary.json
CONCEALED = ", measured on validation"  # in the protocol of a run that saw validation images in place of test images


class Scores(NamedTuple):
    """Accuracies in percent, the mean cross entropy in nats, and the number of images."""

    top1: float
    top5: float
    loss: float
    images: int


def current_versions() -> dict[str, str]:
    """The versions of spotkd, PyTorch and Python that are running."""
    return {"spotkd": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        model: name of the trained network.
        scores: test scores of the chosen epoch.
        protocol: how that was chosen: last epoch, best on validation, best on test.
        epoch: the chosen epoch.
        last: test scores after the last epoch, whichever was chosen.
        epochs: number of epochs.
        stopped: why it ended before the last of those planned, in words; None if it did not.
        seconds: wall time of training, without evaluation.
        shares: share of samples distilled at each spot in the last epoch, by the spot's name.
        folder: where the run lies.
        device: what it ran on, and in which precision.
        machine: the processor or GPU.
        versions: of spotkd, torch and python.
    """

    model: str
    scores: Scores
    protocol: str
    epoch: int
    last: Scores
    epochs: int
    seconds: float
    shares: dict[str, float]
    folder: Path
    device: str
    machine: str
    versions: dict[str, str] = field(default_factory=current_versions)
    stopped: str | None = None

    def __str__(self) -> str:
        early = "" if self.stopped is None else f"; stopped early, after epoch {self.epochs}: {self.stopped}"
        return self._scores() + early

    def _scores(self) -> str:
        split = "validation" if self.protocol.endswith(CONCEALED) else "test"
        if self.protocol.removesuffix(CONCEALED) == "last epoch":
            return f"{split} top-1 {self.scores.top1:.2f} % after epoch {self.epoch}"
        return (
            f"{split} top-1 {self.scores.top1:.2f} % ({self.protocol}: epoch {self.epoch}; "
            f"after the last, {self.epochs}: {self.last.top1:.2f} %)"
        )

    def as_dict(self) -> dict[str, Any]:
        """The content of ``summary.json``; without the folder, since a run may be moved."""
        content = asdict(self) | {"scores": self.scores._asdict(), "last": self.last._asdict()}
        del content["folder"], content["versions"]
        if self.stopped is None:
            del content["stopped"]
        return content | self.versions


def read_summary(path: Path) -> Summary:
    """The summary in a file, every value of the type that it must have.

    Raises:
        RunError: it cannot be read, or is not the summary of a run.
    """
    try:
        content = parse_json(read_text(path, MAX_BYTES, follow=False))
        return Summary(
            scores=_read_scores(content["scores"]),
            last=_read_scores(content["last"]),
            epoch=int(content["epoch"]),
            epochs=int(content["epochs"]),
            seconds=float(content["seconds"]),
            shares={str(spot): float(share) for spot, share in dict(content["shares"]).items()},
            folder=path.parent,
            stopped=None if content.get("stopped") is None else str(content["stopped"]),
            versions={key: str(content[key]) for key in current_versions()},
            **{key: str(content[key]) for key in ("model", "protocol", "device", "machine")},
        )
    except SpotkdError as error:
        raise RunError(str(error)) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise RunError(f"{path}: damaged or not the summary of a run ({reason})") from error


def _read_scores(content: Mapping[str, Any]) -> Scores:
    top1, top5, loss = (float(content[key]) for key in ("top1", "top5", "loss"))
    return Scores(top1, top5, loss, int(content["images"]))
