"""A run on disk: its configuration, its metrics, its checkpoint and its result.

- config.yaml: the resolved configuration; ``--config`` takes it as it is
- metrics.csv: a row an epoch
- decisions.csv: mean P(teacher) at each spot by epoch and class, where a policy learns
- tensorboard/, csv/, wandb/: the same numbers, by whichever loggers were chosen
- loggers.json: by what number Weights & Biases or MLflow know the run
- last.ckpt, previous.ckpt: the complete state of training, and the one before it (see :mod:`.checkpoint`); a damaged
  one that a resumed run found is set aside as damaged.ckpt
- summary.json: the result; the last file to be written, so that a folder with it is a finished run
- student.safetensors: the trained network (model.safetensors for a run of ``spotkd train``); teacher.safetensors too
  where the strategy trains the teacher
- prepared.ckpt, preparation.csv: what a distiller learnt before distillation, and its loss by epoch (ft, ab)
- nonfinite.json: the samples of the step that stopped a run because a number was not finite
- .lock: held by the process that writes here
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from .. import __version__
from ..config import RunConfig, different
from ..errors import SpotkdError, Stopped, one_line
from ..files import atomic_write
from .checkpoint import DAMAGED, FORMAT, LAST, PREVIOUS, newest, random_state, read_sealed, write_sealed
from .evaluate import Scores
from .interrupt import Interrupt

NONFINITE = "nonfinite.json"
FOREIGN = "loggers.json"
# What may differ when a run goes on: where files lie, what is printed, how often is saved.
HARMLESS = {
    "out", "overwrite", "quiet", "resume", "accept_changes", "checkpoint_every", "recipe", "min_teacher_top1",
    "inspect_every", "cache_teacher", "logger",
    "data.root", "data.download", "data.mirror", "data.workers", "teacher.checkpoint", "devices",
}  # fmt: skip


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
    """The folder of a run, and when its state is saved. Use it in a ``with`` statement, which holds its lock.

    Args:
        folder: created if need be.
        config: written to ``config.yaml``; its ``overwrite``, ``resume``, ``accept_changes`` and ``checkpoint_every``
            are obeyed. To overwrite removes the files that a run writes; whatever else lies there is left alone.

    Attributes:
        state: what an earlier process saved, if the run goes on; None if it begins.
        note: a line on what was found when it went on, or None.

    Raises:
        SpotkdError: the folder already holds a run and neither overwriting nor going on was asked for, or that run
            has other options; another process is at work there; the folder cannot be made.
    """

    FILES = (
        "config.yaml",
        "metrics.csv",
        "decisions.csv",
        LAST,
        PREVIOUS,
        DAMAGED,
        "summary.json",
        "student.safetensors",
        "teacher.safetensors",
        "model.safetensors",
        "prepared.ckpt",
        "preparation.csv",
        NONFINITE,
        FOREIGN,
    )
    FOLDERS = ("tensorboard", "csv", "wandb")  # of loggers

    def __init__(self, folder: str | Path, config: RunConfig) -> None:
        self.folder, self.config = Path(folder), config
        self.state: dict[str, Any] | None = None
        self.note: str | None = None
        self._tables: dict[str, str] = {}
        self._steps, self._seconds = interval(config.checkpoint_every)
        self._since, self._saved = 0, time.monotonic()
        self._interrupt = Interrupt()
        goes_on = self._goes_on()
        there = [name for name in (*self.FILES, *self.FOLDERS) if (self.folder / name).exists()]
        if there and not (goes_on or config.overwrite):
            raise SpotkdError(
                f"{self.folder}: holds a run already ({there[0]}); give another --out, replace it: --overwrite true, "
                "or go on with it: --resume auto"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise SpotkdError(f"{self.folder}: another process is at work there; wait for it or stop it") from error
        except OSError as error:
            raise SpotkdError(f"{self.folder}: cannot write a run there ({error.strerror or error})") from error
        try:
            if goes_on:
                self.state, self.note = newest(self.folder)
            self._prepare_files()
        except OSError as error:
            self._lock.release()
            raise SpotkdError(f"{self.folder}: cannot write a run there ({error.strerror or error})") from error
        except SpotkdError:
            self._lock.release()
            raise

    def _goes_on(self) -> bool:
        """Whether there is a run to go on with, and it is this one."""
        wanted, stored = self.config, self.folder / "config.yaml"
        if wanted.resume is None:
            return False
        if not stored.is_file():
            if wanted.resume != "auto":
                raise SpotkdError(f"{self.folder}: holds no run to go on with (no config.yaml)")
            return False
        changes = different(stored, wanted, HARMLESS)
        if changes and not wanted.accept_changes:
            if wanted.resume == "auto" and wanted.overwrite:
                return False
            raise SpotkdError(
                f"{self.folder}: was begun with other options: {'; '.join(changes[:8])}; begin anew (--out, "
                "--overwrite true), or go on all the same: --accept_changes true"
            )
        if changes:
            (self.folder / "summary.json").unlink(missing_ok=True)  # with more epochs it is finished no longer
        return True

    def _prepare_files(self) -> None:
        """Bring the folder to where the state says the run stands: the beginning, if there is none."""
        for left in self.folder.glob(".*.*"):  # half-written files of a process that was killed
            if any(left.name.startswith(f".{name}.") for name in self.FILES):
                left.unlink()
        if self.finished:
            return
        self._tables = dict(self.state["tables"]) if self.state is not None else {}
        kept = {"config.yaml", LAST, PREVIOUS, DAMAGED, FOREIGN, "prepared.ckpt"} if self.state is not None else set()
        for name in self.FILES:
            if name not in kept:
                (self.folder / name).unlink(missing_ok=True)
        for name, text in self._tables.items():  # a line that was torn, or that the state does not know yet, is gone
            with atomic_write(self.folder / name) as path:
                path.write_text(text, encoding="utf-8", newline="")
        for name in self.FOLDERS if self.state is None else ():
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with atomic_write(self.folder / "config.yaml") as path:
            # Consent to overwrite was given for this run, not for whoever repeats it from its configuration.
            content = dataclasses.asdict(self.config) | {"overwrite": False, "resume": None, "accept_changes": False}
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    @property
    def finished(self) -> bool:
        """Whether the run that goes on is complete already."""
        return self.state is not None and (self.folder / "summary.json").is_file()

    def __enter__(self) -> Run:
        self._interrupt.__enter__()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._interrupt.__exit__(*error)
        self._lock.release()

    def log(self, row: Mapping[str, float | int], name: str = "metrics.csv") -> None:
        """Append a row to a table; the first one fixes the columns."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if name not in self._tables:
            writer.writerow(row)
            self._tables[name] = ""
        else:
            table = self._tables[name]
            columns = next(csv.reader([table[: table.index("\n")]]))
            row = {key: row[key] for key in columns}
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row.values())
        self._tables[name] += text.getvalue()
        try:
            with (self.folder / name).open("a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise SpotkdError(
                f"{self.folder / name}: cannot be written ({error.strerror or error}); {self.last_good()}"
            ) from error

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Save the state of training; the two newest are kept.

        Raises:
            SpotkdError: it cannot be written; the last good one is named, and left as it is.
        """
        content = {
            **state,
            "format": FORMAT,
            "random": random_state(),
            "tables": self._tables,
            "config": dataclasses.asdict(self.config),
            "versions": {"spotkd": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        }
        try:
            write_sealed(self.folder / LAST, content, keep=self.folder / PREVIOUS)
        except SpotkdError as error:
            raise SpotkdError(f"{error}; {self.last_good()}; make room, then go on: {self.command()}") from error
        self._since, self._saved = 0, time.monotonic()

    def after_step(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save the state if it is time to, or if somebody asks the run to stop.

        Raises:
            Stopped: somebody does; the state is saved.
        """
        self._since += 1
        asked = self._interrupt.asked
        due = self._since == self._steps or (self._seconds and time.monotonic() - self._saved >= self._seconds)
        if asked or due:
            self.checkpoint(state())
        if asked:
            raise Stopped(f"stopped by {asked}; the state is saved, go on with: {self.command()}")

    def last_good(self) -> str:
        """What an interrupted run can go on from, in words."""
        for name in (LAST, PREVIOUS):
            try:
                state = read_sealed(self.folder / name)
            except SpotkdError:
                continue
            epoch, step = state["epoch"], state["step"]
            part = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
            return f"{self.folder / name} holds {part}{' of the preparation' * (state['phase'] == PREPARATION)}"
        return "no epoch was completed"

    def command(self) -> str:
        """What goes on with this run."""
        name = "distill" if hasattr(self.config, "teacher") else "train"
        folder = str(self.folder)
        return f"spotkd {name} --resume {folder if re.fullmatch(r'[-+./:=@%~^,A-Za-z0-9_]+', folder) else repr(folder)}"

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of another kind, beside the states of training."""
        write_sealed(self.folder / name, state)

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
        with atomic_write(self.folder / "summary.json") as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


PREPARATION, TRAINING = "preparation", "training"  # phases of a run


def interval(every: int | str | None) -> tuple[int, float]:
    """``checkpoint_every`` in steps and in seconds; 0 where it is not counted so.

    Raises:
        SpotkdError: it is neither a number of steps nor of minutes.
    """
    if every is None:
        return 0, 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(steps?|m|min|minutes?)?", str(every).strip())
    number = float(found[1]) if found else 0.0
    if found and number > 0 and (found[2] or "step").startswith("m"):
        return 0, 60 * number
    if found and number >= 1 and number.is_integer():
        return int(number), 0.0
    raise SpotkdError(f"checkpoint_every is {every}: give steps, as 500, or minutes, as 10min")


def read_summary(folder: str | Path) -> Summary:
    """The result of a finished run.

    Raises:
        SpotkdError: the folder holds none.
    """
    path = Path(folder) / "summary.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content |= {"scores": Scores(**content["scores"]), "last": Scores(**content["last"]), "folder": Path(folder)}
        return Summary(**{field.name: content[field.name] for field in dataclasses.fields(Summary)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SpotkdError(f"{path}: not the summary of a run ({one_line(error)[:200]})") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of ours, read without executing anything that stands in it."""
    state = read_sealed(path)
    if "method" not in state:
        raise SpotkdError(f"{path}: not a checkpoint of a training")
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
