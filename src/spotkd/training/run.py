"""A run on disk: its configuration, its metrics, its checkpoint and its result.

- config.yaml: the resolved configuration; ``--config`` takes it as it is
- metrics.csv: a row an epoch
- decisions.csv: mean P(teacher) at each spot by epoch and class, where a policy learns
- tensorboard/: the same numbers
- last.ckpt: the complete state of training after the last epoch
- best.ckpt: while training goes on, the weights of the best epoch so far, if that is to be the result
- summary.json: the result; the last file to be written, so that a folder with it is a finished run
- student.safetensors: the trained network (model.safetensors for a run of ``spotkd train``); teacher.safetensors too
  where the strategy trains the teacher
- prepared.ckpt, preparation.csv: what a distiller learnt before distillation, and its loss by epoch (ft, ab)
"""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from .. import __version__
from ..config import RunConfig
from ..errors import SpotkdError, one_line
from ..files import load_tensors, replacing
from .evaluate import Scores


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        model: name of the trained network.
        scores: test scores of the chosen epoch.
        protocol: how that was chosen: last epoch, best on validation, best on test.
        epoch: the chosen epoch.
        last: test scores after the last epoch, whichever was chosen.
        epochs: number of epochs.
        seconds: wall time of training, without evaluation.
        shares: share of samples distilled at each spot in the last epoch, by the spot's name.
        folder: where the run lies.
        device: what it ran on, and in which precision.
        machine: the processor or GPU.
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

    def __str__(self) -> str:
        if self.protocol == "last epoch":
            return f"test top-1 {self.scores.top1:.2f} % after epoch {self.epoch}"
        return (
            f"test top-1 {self.scores.top1:.2f} % ({self.protocol}: epoch {self.epoch}; "
            f"after the last, {self.epochs}: {self.last.top1:.2f} %)"
        )


class Run:
    """The folder of a run.

    Args:
        folder: created if need be.
        config: written to ``config.yaml``.
        overwrite: remove the files that a run writes; whatever else lies there is left alone.

    Raises:
        SpotkdError: the folder already holds a run, or cannot be made.
    """

    FILES = (
        "config.yaml",
        "metrics.csv",
        "decisions.csv",
        "last.ckpt",
        "best.ckpt",
        "summary.json",
        "student.safetensors",
        "teacher.safetensors",
        "model.safetensors",
        "prepared.ckpt",
        "preparation.csv",
    )

    def __init__(self, folder: str | Path, config: RunConfig, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        there = [name for name in (*self.FILES, "tensorboard") if (self.folder / name).exists()]
        if there and not overwrite:
            raise SpotkdError(
                f"{self.folder}: holds a run already ({there[0]}); give another --out, or replace it: --overwrite true"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self.FILES:
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            with replacing(self.folder / "config.yaml") as path:
                # Consent to overwrite was given for this run, not for whoever repeats it from its configuration.
                content = dataclasses.asdict(config) | {"overwrite": False}
                path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise SpotkdError(f"{self.folder}: cannot write a run there ({error.strerror or error})") from error
        self._columns: dict[str, list[str]] = {}

    def log(self, row: Mapping[str, float | int], name: str = "metrics.csv") -> None:
        """Append a row to a table; the first one fixes the columns."""
        with (self.folder / name).open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if name not in self._columns:
                self._columns[name] = list(row)
                writer.writerow(row)
            columns = self._columns[name]
            writer.writerow(f"{row[key]:.6g}" if isinstance(row[key], float) else row[key] for key in columns)

    def checkpoint(self, state: Mapping[str, Any], name: str = "last.ckpt") -> None:
        """Replace a checkpoint."""
        target = self.folder / name
        try:
            with replacing(target) as path:
                torch.save(dict(state), path)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            raise SpotkdError(
                f"{target}: cannot be written, the last good one stays ({one_line(error)[:200]})"
            ) from error

    def read(self, name: str) -> Any:
        """A checkpoint of this run."""
        return load_tensors(self.folder / name)

    def finish(self, summary: Summary) -> None:
        """Write ``summary.json``."""
        content = dataclasses.asdict(summary) | {
            "scores": summary.scores._asdict(),
            "last": summary.last._asdict(),
            "spotkd": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        del content["folder"]  # a run may be moved
        with replacing(self.folder / "summary.json") as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of ours, read without executing anything that stands in it."""
    state = load_tensors(path)
    if not isinstance(state, dict) or "method" not in state:
        raise SpotkdError(f"{path}: not a checkpoint of spotkd")
    return state


def read_metrics(folder: str | Path) -> dict[str, list[float]]:
    """The columns of a run's ``metrics.csv``."""
    path = Path(folder) / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be read ({error.strerror or error})") from error
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
