"""The writer of a run: its lock, its files as they grow, and when its state is saved."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from filelock import FileLock, Timeout
from torch import nn

from ..errors import RunError, SpotkdError, Stopped
from ..escaping import escape_shell
from ..files import atomic_write
from ..models import save_weights
from ..runtime.random_state import get_random_state
from ..runtime.signals import StopRequest
from ..untrusted.files import check_own_files, read_text
from ..untrusted.json_values import check_types, parse_json
from . import layout
from .checkpoint import FORMAT, load_newest, read_checkpoint, write_checkpoint
from .layout import LAST, PREVIOUS
from .origin import note_origin
from .summary import Summary, current_versions
from .tables import read_metrics

PREPARATION, TRAINING = "preparation", "training"  # phases of a run


class RunWriter:
    """The folder of a run that is being trained. Use it in a ``with`` statement, which holds its lock.

    Args:
        folder: created if need be.
        options: all options of the run, section by section; written to ``config.yaml`` and into every checkpoint.
        command: of spotkd, that began the run: train or distill.
        resumes: take up the run that the folder holds. Otherwise the files of a run that is there are removed when the
            new one begins; whatever else lies there is left alone.
        reopens: a finished run is trained further, since options have changed: with more epochs, say. Its result stays
            until the new one is complete.
        check: gets the options that the newest checkpoint holds and raises where they do not go with these; what it
            returns says once more whether options have changed.
        logger_folders: folders of loggers that are removed together with the files of an earlier run.
        save_every: steps, and seconds, after which the state is saved inside of an epoch; 0 where it is not counted so.

    Attributes:
        folder: where the run lies.
        state: what an earlier process saved, if the run is resumed; None if it begins.
        note: a line on what was found when it was resumed, or None.

    Raises:
        SpotkdError: another process is running there; the folder cannot be made; no checkpoint there is whole.
    """

    def __init__(
        self,
        folder: str | Path,
        options: Mapping[str, Any],
        command: str,
        *,
        resumes: bool = False,
        reopens: bool = False,
        check: Callable[[Mapping[str, Any]], bool] = lambda _: False,
        logger_folders: Sequence[str] = layout.FOLDERS,
        save_every: tuple[int, float] = (0, 0.0),
    ) -> None:
        self.folder, self.options, self.command = Path(folder), options, command
        self.state: dict[str, Any] | None = None
        self.note: str | None = None
        self._tables: dict[str, str] = {}
        self._logger_folders = logger_folders
        self._resumes, self._reopens, self._identity = resumes, reopens, (0, 0)
        self._steps, self._seconds = save_every
        self._since, self._saved = 0, time.monotonic()
        self._stop = StopRequest()
        try:
            self._is_new = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            check_own_files(self.folder, (*layout.FILES, layout.LOCK), layout.FOLDERS)
            self._lock = FileLock(self.folder / layout.LOCK, timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise RunError(f"{self.folder}: another process is running there; wait for it or stop it") from error
        except OSError as error:
            raise RunError(f"{self.folder}: cannot write a run there ({error.strerror or error})") from error
        try:
            if resumes:
                self._read_state(check)
        except OSError as error:
            self._lock.release()
            raise RunError(f"{self.folder}: cannot write a run there ({error.strerror or error})") from error
        except SpotkdError:
            self._lock.release()
            raise

    def _read_state(self, check: Callable[[Mapping[str, Any]], bool]) -> None:
        has_result = (self.folder / layout.SUMMARY).is_file()
        if has_result and not self._reopens and not self._is_reopened:
            try:
                self.state, self.note = load_newest(self.folder, set_aside=False)
            except SpotkdError:  # it is only read: its checkpoints are not needed
                return
        else:
            self.state, self.note = load_newest(self.folder)
        if self.state is not None:
            self._reopens |= check(self.state["config"])
        elif has_result and (self._reopens or self._is_reopened):
            raise RunError(
                f"{self.folder}: is finished, and has no checkpoint to train further from; start over in another "
                "folder: --out, or replace it: --overwrite true"
            )

    @property
    def _is_reopened(self) -> bool:
        return (self.folder / layout.REOPENED).exists()

    def begin(self) -> None:
        """Bring the folder to where the state says the run stands: the beginning, if there is none.

        Called when all that the run needs is there and has been checked; until then nothing in the folder is changed.
        """
        if self._identity == (0, 0):
            self._identity = (-1, -1)
            self._prepare_files()
            self._identity = self._identify()

    def _identify(self) -> tuple[int, int]:
        """The folder, whatever it is called."""
        found = self.folder.stat()
        return found.st_dev, found.st_ino

    def _check_place(self) -> None:
        """The folder must be the one that the run began in, with its options.

        Raises:
            RunError: it was moved, removed or replaced.
        """
        try:
            same = self._identify() == self._identity and (self.folder / layout.CONFIG).is_file()
        except OSError:
            same = False
        if not same:
            raise RunError(
                f"{self.folder}: was moved, removed or replaced while this run trained; resume it from where its "
                "checkpoints are now"
            )

    def _prepare_files(self) -> None:
        for left in self.folder.glob(".*.*"):  # half-written files of a process that was killed
            if any(left.name.startswith(f".{name}.") for name in layout.FILES):
                left.unlink()
        if self.finished:
            return
        kept: set[str] = set()
        if self.state is not None:
            self._tables = dict(self.state["tables"])
            kept = {layout.CONFIG, LAST, PREVIOUS, layout.DAMAGED, layout.LOGGERS, layout.PREPARED}
            if self._is_reopened or (self.folder / layout.SUMMARY).is_file():
                (self.folder / layout.REOPENED).touch()
                kept |= {layout.REOPENED, *layout.RESULT}
        for name in layout.FILES:
            if name not in kept:
                (self.folder / name).unlink(missing_ok=True)
        for name, text in self._tables.items():  # a line that was torn, or that the state does not know yet, is gone
            self.write_text(name, text)
        for name in self._logger_folders if self.state is None else ():
            shutil.rmtree(self.folder / name, ignore_errors=True)
        # Consent to overwrite was given for this run, not for another one that is made from its configuration.
        content = dict(self.options) | {"overwrite": False, "resume": None, "accept_changes": False}
        self.write_text(layout.CONFIG, yaml.safe_dump(content, sort_keys=False))
        note_origin(self.folder, content)

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return True

    @property
    def finished(self) -> bool:
        """Whether the run that is resumed is complete already, whether or not its checkpoints are still there."""
        complete = (self.folder / layout.SUMMARY).is_file() and not self._is_reopened
        return self._resumes and complete and not self._reopens

    def __enter__(self) -> RunWriter:
        self._stop.__enter__()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.__exit__(*error)
        self._lock.release()
        if self._is_new and self._identity == (0, 0):  # nothing began
            (self.folder / layout.LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()

    def history(self) -> dict[str, list[float]]:
        """The columns of the metrics so far; none where no epoch is complete."""
        return read_metrics(self.folder / layout.METRICS).columns if layout.METRICS in self._tables else {}

    def log(self, row: Mapping[str, float | int | str], name: str = layout.METRICS) -> None:
        """Append a row to a table; the first one fixes the columns."""
        self.begin()
        self._check_place()
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
            raise RunError(
                f"{self.folder / name}: cannot be written ({error.strerror or error}); {self.last_good()}"
            ) from error

    def write_text(self, name: str, text: str) -> None:
        """Write one of the run's text files, whole or not at all."""
        with atomic_write(self.folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="")

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Save the state of training; the two newest are kept.

        Raises:
            SpotkdError: it cannot be written; the last good one is named, and left as it is.
        """
        self.begin()
        self._check_place()
        content = {
            **state,
            "format": FORMAT,
            "random": get_random_state(),
            "tables": self._tables,
            "config": dict(self.options),
            "versions": current_versions(),
        }
        try:
            write_checkpoint(self.folder / LAST, content, keep=self.folder / PREVIOUS)
        except SpotkdError as error:
            raise RunError(f"{error}; {self.last_good()}; make room, then resume: {self.resume_command()}") from error
        self._since, self._saved = 0, time.monotonic()

    def after_step(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save the state if it is time to, or if a signal asks the run to stop.

        Raises:
            Stopped: a signal does; the state is saved.
        """
        self._since += 1
        asked = self._stop.received
        due = self._since == self._steps or (self._seconds and time.monotonic() - self._saved >= self._seconds)
        if asked or due:
            self.checkpoint(state())
        if asked:
            raise Stopped(f"stopped by {asked}; the state is saved, resume with: {self.resume_command()}")

    def last_good(self) -> str:
        """What an interrupted run can be resumed from, in words."""
        for name in (LAST, PREVIOUS):
            try:
                state = read_checkpoint(self.folder / name)
            except SpotkdError:
                continue
            epoch, step = state["epoch"], state["step"]
            part = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
            return f"{self.folder / name} holds {part}{' of the preparation' * (state['phase'] == PREPARATION)}"
        return "no epoch was completed"

    def resume_command(self) -> str:
        """What resumes this run."""
        return escape_shell(["spotkd", self.command, "--resume", str(self.folder)])

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of another kind, beside the states of training."""
        self.begin()
        write_checkpoint(self.folder / name, state)

    def logger_identifiers(self) -> dict[str, str]:
        """By what identifier each logger's service knows this run.

        Raises:
            RunError: the file is damaged.
        """
        path = self.folder / layout.LOGGERS
        try:
            found = parse_json(read_text(path, follow=False)) if path.is_file() else {}
            return check_types(path, found, "identifiers", dict.fromkeys(found, str))
        except (ValueError, TypeError) as error:  # a SpotkdError is a ValueError
            raise RunError(f"{path}: cannot be read; without it the loggers start over: remove it") from error

    def save_network(self, name: str, network: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Write what was trained, with what belongs to it."""
        self.begin()
        self._check_place()
        save_weights(network, self.folder / name, metadata)

    def keep_nonfinite(self, content: Mapping[str, Any]) -> Path:
        """Write what is known of a step with a number that is not finite, for inspection; returns the file."""
        self.begin()
        self.write_text(layout.NONFINITE, json.dumps(content, indent=2) + "\n")
        return self.folder / layout.NONFINITE

    def finish(self, summary: Summary) -> None:
        """Write ``summary.json``, by which the run is finished."""
        self.begin()
        self._check_place()
        self.write_text(layout.SUMMARY, json.dumps(summary.as_dict(), indent=2) + "\n")
        (self.folder / layout.REOPENED).unlink(missing_ok=True)
