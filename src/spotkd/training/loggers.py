"""The programs that show a run's numbers as they come: TensorBoard, CSV, Weights & Biases, MLflow.

Lightning Fabric has loggers for the first two; those for the others are adapters of a few lines, in its interface.
Their packages are imported only where they are asked for.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor

from ..errors import SpotkdError, Stopped, one_line
from ..runs import layout
from ..runs.writer import RunWriter
from .hooks import Epoch, Hook, Start

_ENTRY = {"wandb": "init", "mlflow": "start_run"}  # what we call of the packages that do not come along


def check_installed(names: Sequence[str]) -> None:
    """The packages of the loggers must be there.

    Raises:
        SpotkdError: one is not installed.
    """
    for name in names:
        if name in _ENTRY:
            _package(name)


class Loggers(Hook):
    """Sends the numbers of every epoch to all loggers that were chosen, and how the run ended.

    Args:
        names: of the loggers.
        run: whose folder they write to, and whose state says whether they are resumed.
        options: all options of the run; a service gets them too.
    """

    def __init__(self, names: Sequence[str], run: RunWriter, options: Mapping[str, Any]) -> None:
        self.run, self._names, self._options = run, names, options
        self._loggers: list[Logger] = []

    def on_start(self, start: Start) -> None:
        if self.run.writes:
            self._loggers = [_LOGGERS[name](self.run, self._options, start) for name in self._names]

    def on_epoch(self, epoch: Epoch) -> None:
        for logger in self._loggers:
            logger.log_metrics(dict(epoch.row), epoch.number)
            logger.save()  # the run may be killed at any moment

    def on_stop(self, error: BaseException | None) -> None:
        status = "success" if error is None else "aborted" if isinstance(error, Stopped) else "failed"
        for logger in self._loggers:
            logger.finalize(status)

    def show_images(self, title: str, pixels: Tensor, epoch: int) -> None:
        """Images ``(N, 3, H, W)`` uint8 side by side, eight in a row, for a logger that shows images (TensorBoard)."""
        for logger in self._loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_images(title, pixels, epoch)

    @property
    def can_show_images(self) -> bool:
        """Whether :meth:`show_images` does anything."""
        return self.run.writes and "tensorboard" in self._names


def _tensorboard(run: RunWriter, options: Mapping[str, Any], start: Start) -> Logger:
    return TensorBoardLogger(run.folder, name="tensorboard", version="", purge_step=start.epochs + 1)


def _csv(run: RunWriter, options: Mapping[str, Any], start: Start) -> Logger:
    # Fabric's starts its file over, so it gets the rows of an interrupted run again.
    shutil.rmtree(run.folder / "csv", ignore_errors=True)
    logger = CSVLogger(run.folder, name="csv", version="", flush_logs_every_n_steps=1)
    for row in zip(*start.history.values(), strict=True):
        values = dict(zip(start.history, row, strict=True))
        logger.log_metrics(values, int(values["epoch"]))
    return logger


class _Service(Logger):
    """A logger with a service of its own, which knows the run by an identifier that is kept in the run folder."""

    def __init__(self, run: RunWriter, options: Mapping[str, Any], start: Start) -> None:
        self._package = _package(str(self.name))
        known = run.logger_identifiers()
        try:
            self._version = self._start(run.folder, known.get(str(self.name)))
            if self.name not in known:
                self.log_hyperparams(dict(options))
        except Exception as error:  # of whatever kind the package has
            raise SpotkdError(f"logger {self.name}: does not start ({one_line(error)[:300]})") from error
        run.write_text(layout.LOGGERS, json.dumps(known | {self.name: self._version}) + "\n")

    def _start(self, folder: Path, known: str | None) -> str:
        """Begin, or resume the run ``known``; returns its identifier."""
        raise NotImplementedError

    @property
    def version(self) -> str:
        return self._version


class _Wandb(_Service):
    name = "wandb"

    def _start(self, folder: Path, known: str | None) -> str:
        self._run = self._package.init(dir=str(folder), name=folder.name, id=known, resume="allow")
        return str(self._run.id)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._run.config.update(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)


class _MLflow(_Service):
    name = "mlflow"

    def _start(self, folder: Path, known: str | None) -> str:
        self._run = self._package.start_run(run_id=known, run_name=None if known else folder.name)
        return str(self._run.info.run_id)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._package.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # It takes no other characters in names; a stage may be called anything.
        plain = {re.sub(r"[^\w./ -]", "_", name): float(value) for name, value in metrics.items()}
        self._package.log_metrics(plain, step=step)

    def finalize(self, status: str) -> None:
        self._package.end_run({"success": "FINISHED", "aborted": "KILLED"}.get(status, "FAILED"))


_LOGGERS: dict[str, Callable[[RunWriter, Mapping[str, Any], Start], Logger]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}


def _package(name: str) -> Any:
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise SpotkdError(f"logger is {name}: pip install {name} ({one_line(error)[:200]})") from error
    if not hasattr(package, _ENTRY[name]):  # python takes any folder of that name for a package
        raise SpotkdError(f"logger is {name}: what python finds by that name is not {name}; pip install {name}")
    return package
