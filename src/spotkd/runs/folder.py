"""The reader of runs: everything that a run's folder holds, typed and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import RunError, SpotkdError, one_line
from ..files import atomic_write
from ..notebook import html_table
from ..options import DistillOptions, TrainOptions, read_options
from ..options.values import describe_teachers
from ..untrusted.files import open_file, read_text
from ..untrusted.yaml_files import check_yaml_file, read_yaml
from . import layout
from .checkpoint import load_newest
from .origin import is_own, names_to_follow
from .summary import Summary, read_summary
from .tables import Decisions, Metrics, TrialTable, read_decisions, read_metrics, read_trial

MAX_LOG_BYTES = 1 << 30  # of what a worker printed
_LAST_BYTES = 64 << 10  # of that, and of why a run failed
Kind = Literal["train", "distill"]


class RunFolder:
    """The folder of a run as reports, tables, exports and a resumed run read it.

    .. code-block:: python

        run = RunFolder("runs/sakd")
        run.kind                     # "distill"
        run.options.epochs           # as they stand in config.yaml
        run.metrics["test_top1"]     # a list with a number an epoch
        run.summary.scores.top1      # None instead of a summary for a run that is not finished

    Nothing is read before it is asked for, nothing is written, and no code that a file names is imported.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What it trained and how that went; one line for a folder without a run, or with a damaged one."""
        try:
            return html_table(str(self.path), self._describe())
        except SpotkdError as error:
            return html_table(str(self.path), [(str(error),)])

    def _describe(self) -> list[tuple[str, object]]:
        options, summary = self.options, self.summary
        rows: list[tuple[str, object]] = [("data", options.data.name), ("seed", options.seed)]
        if isinstance(options, DistillOptions):
            rows += [("student", options.student.name), ("teacher", describe_teachers(options))]
            rows += [("what, where", f"{options.distiller}, {options.strategy}")]
        else:
            rows += [("network", options.model.name)]
        if summary is None:
            return [*rows, ("result", "not finished")]
        rows += [("result", summary), ("training time", f"{summary.seconds:.0f} s on {summary.machine}")]
        return [*rows, *((f"distilled at {spot}", f"{share:.0%}") for spot, share in summary.shares.items())]

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return (self.path / layout.CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run has a result, and is not trained further."""
        return (self.path / layout.SUMMARY).is_file() and not (self.path / layout.REOPENED).exists()

    @property
    def is_ours(self) -> bool:
        """Whether the folder is known to hold a run of spotkd, whole or damaged, which may then be overwritten.

        Its result says so, or a checkpoint, or all options together with the lock of a run that was at work there. A
        file of the same name alone does not, nor a file of options that somebody wrote.
        """
        began = {"out", "data", "optim"} <= set(self._options_there) and (self.path / layout.LOCK).is_file()
        readers = (lambda: self.options,) if began else ()
        return any(_can_read(read) for read in (*readers, lambda: self.result, self.state))

    @property
    def is_begun(self) -> bool:
        """Whether there is something that a run would go on from: a checkpoint or a result, sound or not."""
        return any((self.path / name).exists() for name in (layout.LAST, layout.PREVIOUS, layout.SUMMARY))

    @property
    def logger_folders(self) -> list[str]:
        """Which of the folders that loggers write are there and are the run's own, by its options."""
        named = str(self._options_there.get("logger"))
        return [name for name in layout.FOLDERS if name in named and (self.path / name).is_dir()]

    @property
    def _options_there(self) -> Mapping[str, Any]:
        """As :attr:`raw_options`; none where they cannot be read."""
        try:
            return self.raw_options
        except SpotkdError:
            return {}

    @property
    def is_own(self) -> bool:
        """Whether this user made the run on this machine, as far as the code that its options name tells."""
        return is_own(self.path, self.raw_options)

    @property
    def own_names(self) -> set[str]:
        """The names of code, networks and addresses in the options of a run that this user made."""
        return names_to_follow(self.raw_options) if self.is_own else set()

    @property
    def modified(self) -> float:
        """When the run was last started or resumed, in seconds since the epoch of the operating system."""
        return (self.path / layout.CONFIG).stat().st_mtime

    @property
    def files(self) -> list[str]:
        """Names of the files and folders of a run that are there, whether or not they make a whole run."""
        return [name for name in (*layout.FILES, *layout.FOLDERS) if (self.path / name).exists()]

    @cached_property
    def raw_options(self) -> Mapping[str, Any]:
        """The content of ``config.yaml``, not checked beyond being YAML with plain values.

        Raises:
            RunError: there is none, or it is no mapping.
        """
        path = self.path / layout.CONFIG
        if not path.is_file():
            raise RunError(f"{self.path}: holds no run (no {layout.CONFIG})")
        content = _as_run_error(lambda: read_yaml(path, follow=False))
        if not isinstance(content, Mapping):
            raise RunError(f"{path}: holds no options")
        return content

    @property
    def kind(self) -> Kind:
        """Which command made the run.

        Raises:
            RunError: as :attr:`raw_options`.
        """
        return "distill" if "teacher" in self.raw_options else "train"

    @cached_property
    def options(self) -> TrainOptions | DistillOptions:
        """The options of the run.

        Raises:
            RunError: there are none, or one is unknown or of the wrong type.
        """
        kind = DistillOptions if self.kind == "distill" else TrainOptions
        path = self.path / layout.CONFIG
        found: TrainOptions | DistillOptions = _as_run_error(lambda: read_options(kind, path, follow=False))
        return found

    @property
    def distill_options(self) -> DistillOptions:
        """The options of a distillation.

        Raises:
            RunError: the run is none.
        """
        if not isinstance(self.options, DistillOptions):
            raise RunError(f"{self.path}: is a run of 'spotkd train'; name one of 'spotkd distill'")
        return self.options

    @property
    def options_text(self) -> str:
        """``config.yaml`` as it stands there.

        Raises:
            RunError: it cannot be read.
        """
        text: str = _as_run_error(lambda: check_yaml_file(self.path / layout.CONFIG, follow=False))
        return text

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of ``metrics.csv``: a number an epoch.

        Raises:
            RunError: it is not there, or damaged.
        """
        return self._metrics.columns

    @property
    def _metrics(self) -> Metrics:
        return read_metrics(self.path / layout.METRICS)

    @property
    def remarks(self) -> list[str]:
        """What the tables lack because it was torn.

        Raises:
            RunError: a table is not there, or damaged.
        """
        return [table.remark for table in (self._metrics, self.decisions, self.trial) if table.remark is not None]

    @property
    def decisions(self) -> Decisions:
        """Where the policy sent the same training images, epoch after epoch; empty where that was not noted.

        Raises:
            RunError: the file is damaged.
        """
        return read_decisions(self.path / layout.DECISIONS)

    @property
    def trial(self) -> TrialTable:
        """What chance decided in each epoch, and the loss that followed; empty where nothing was left to chance.

        Raises:
            RunError: the file is damaged.
        """
        return read_trial(self.path / layout.TRIAL)

    @property
    def summary(self) -> Summary | None:
        """The result; None for a run that is not finished.

        Raises:
            RunError: the file is damaged.
        """
        return read_summary(self.path / layout.SUMMARY) if self.finished else None

    @property
    def result(self) -> Summary:
        """The result of a finished run.

        Raises:
            RunError: the run is not finished, or the file is damaged.
        """
        return read_summary(self.path / layout.SUMMARY)

    @property
    def weights(self) -> Path:
        """The file of the trained network.

        Raises:
            RunError: the run has none yet.
        """
        for name in (layout.STUDENT, layout.MODEL):
            if (self.path / name).is_file():
                return self.path / name
        raise RunError(f"{self.path}: holds no trained network yet")

    def state(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole; None where there is none.

        Raises:
            SpotkdError: there are some, and none can be used.
        """
        state, _ = load_newest(self.path, set_aside=False)
        if state is not None and not isinstance(state.get("method"), dict):
            raise RunError(f"{self.path}: its checkpoint is not a checkpoint of a training")
        return state

    # What 'spotkd bench' leaves with a run, before and after it trains.

    def request(self, text: str) -> None:
        """Write the options with which a worker is to train this run, and forget why an earlier one failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / layout.ERROR).unlink(missing_ok=True)
        with atomic_write(self.path / layout.REQUEST) as path:
            path.write_text(text, encoding="utf-8")

    @property
    def log(self) -> Path:
        """The file that gets what a worker prints."""
        return self.path / layout.LOG

    def last_words(self) -> str:
        """The last line that a worker printed; empty where it printed nothing."""
        if not self.log.is_file():
            return ""
        with open_file(self.log, MAX_LOG_BYTES, follow=False) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def error(self) -> str | None:
        """Why the run failed; None if it did not."""
        path = self.path / layout.ERROR
        return read_text(path, _LAST_BYTES, follow=False, errors="replace") if path.is_file() else None

    def fail(self, reason: str) -> None:
        """Note why the run failed."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / layout.ERROR).write_text(reason + "\n", encoding="utf-8")


def find_runs(place: str | Path) -> list[RunFolder]:
    """The runs in a folder and below it, in the order of their names."""
    return [RunFolder(path.parent) for path in sorted(Path(place).rglob(layout.CONFIG))]


def _can_read(read: Callable[[], object]) -> bool:
    try:
        return read() is not None
    except SpotkdError:
        return False


def _as_run_error(read: Any) -> Any:
    try:
        return read()
    except RunError:
        raise
    except (SpotkdError, OSError) as error:
        raise RunError(one_line(error)) from error
