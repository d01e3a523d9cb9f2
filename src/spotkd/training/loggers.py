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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor

from ..config import RunConfig, flattened
from ..errors import SpotkdError, Stopped, one_line
from ..files import atomic_write
from .run import FOREIGN, Run

_NONE = "none"
_ENTRY = {"wandb": "init", "mlflow": "start_run"}  # what we call of the packages that do not come along


def chosen_loggers(logger: Sequence[str] | str) -> list[str]:
    """``tensorboard,csv`` as a list; ``none`` is an empty one.

    Raises:
        SpotkdError: an unknown name, or a package that is not installed.
    """
    names = [name.strip() for name in (logger.split(",") if isinstance(logger, str) else logger)]
    for name in names:
        if name not in (*_LOGGERS, _NONE):
            raise SpotkdError(f"logger is {name}: it must be {', '.join(_LOGGERS)} or {_NONE}")
        if name in _ENTRY:
            _package(name)
    if _NONE in names and len(names) > 1:
        raise SpotkdError(f"logger is {','.join(names)}: {_NONE} stands alone")
    return [] if _NONE in names else list(dict.fromkeys(names))


class Loggers:
    """All that were chosen, as one; use it in a ``with`` statement, which tells them how the run ended.

    Args:
        run: whose folder they write to, and whose state says whether they go on.
        config: its ``logger`` names them; all options are noted where the logger can.
        done: complete epochs, where the run goes on.
        history: the rows of these, by column.
        writes: whether this process does; of several only the first one.
    """

    def __init__(
        self, run: Run, config: RunConfig, done: int, history: Mapping[str, list[float]], writes: bool
    ) -> None:
        names = chosen_loggers(config.logger) if writes else []
        self._loggers = [_LOGGERS[name](run, config, done, history) for name in names]

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "success" if kind is None else "aborted" if issubclass(kind, Stopped) else "failed"
        for logger in self._loggers:
            logger.finalize(status)

    def log(self, row: Mapping[str, float], epoch: int) -> None:
        """The numbers of an epoch."""
        for logger in self._loggers:
            logger.log_metrics(dict(row), epoch)
            logger.save()  # the run may be killed at any moment

    def images(self, title: str, pixels: Tensor, epoch: int) -> None:
        """Images ``(N, 3, H, W)`` uint8 side by side, eight in a row, for a logger that shows images (TensorBoard)."""
        for logger in self._loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_images(title, pixels, epoch)

    @property
    def shows_images(self) -> bool:
        """Whether :meth:`images` does anything."""
        return any(isinstance(logger, TensorBoardLogger) for logger in self._loggers)


def _tensorboard(run: Run, config: RunConfig, done: int, history: Mapping[str, list[float]]) -> Logger:
    return TensorBoardLogger(run.folder, name="tensorboard", version="", purge_step=done + 1)


def _csv(run: Run, config: RunConfig, done: int, history: Mapping[str, list[float]]) -> Logger:
    # Fabric's begins its file anew, so it gets the rows of an interrupted run again.
    shutil.rmtree(run.folder / "csv", ignore_errors=True)
    logger = CSVLogger(run.folder, name="csv", version="", flush_logs_every_n_steps=1)
    for row in zip(*history.values(), strict=True):
        values = dict(zip(history, row, strict=True))
        logger.log_metrics(values, int(values["epoch"]))
    return logger


class _Outside(Logger):
    """A logger with a service of its own, which knows the run by a number that is noted in the run folder."""

    def __init__(self, run: Run, config: RunConfig, done: int, history: Mapping[str, list[float]]) -> None:
        self._package = _package(str(self.name))
        noted = run.folder / FOREIGN
        known = _numbers(noted)
        try:
            self._version = self._start(run.folder, known.get(str(self.name)))
            if self.name not in known:
                self.log_hyperparams(flattened(asdict(config)))
        except Exception as error:  # of whatever kind the package has
            raise SpotkdError(f"logger {self.name}: does not start ({one_line(error)[:300]})") from error
        with atomic_write(noted) as path:
            path.write_text(json.dumps(known | {self.name: self._version}) + "\n", encoding="utf-8")

    def _start(self, folder: Path, known: str | None) -> str:
        """Begin, or go on with the run ``known``; returns its number."""
        raise NotImplementedError

    @property
    def version(self) -> str:
        return self._version


class _Wandb(_Outside):
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


class _MLflow(_Outside):
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


_LOGGERS: dict[str, Callable[[Run, RunConfig, int, Mapping[str, list[float]]], Logger]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}


def _numbers(path: Path) -> dict[str, str]:
    """By what number each logger knows the run, as far as it does."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SpotkdError(f"{path}: cannot be read; without it the loggers begin anew: remove it") from error


def _package(name: str) -> Any:
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise SpotkdError(f"logger is {name}: pip install {name} ({one_line(error)[:200]})") from error
    if not hasattr(package, _ENTRY[name]):  # python takes any folder of that name for a package
        raise SpotkdError(f"logger is {name}: what python finds by that name is not {name}; pip install {name}")
    return package
