"""What a run's own files hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, SpotkdError
from ..escaping import escape_shell
from ..options import DistillOptions, TrainOptions
from ..runs.folder import RunFolder
from ..runs.folder import find_runs as find_run_folders
from ..runs.layout import METRICS
from ..runs.summary import Summary
from ..runs.tables import Decisions


@dataclass(frozen=True)
class RunRecord:
    """A run, from its files alone.

    Attributes:
        name: how to call it beside the others.
        folder: where it lies.
        options: its options.
        yaml: its ``config.yaml`` as it stands there.
        metrics: the columns of ``metrics.csv``.
        summary: its result; None for a run that has not finished.
        decisions: where the policy sent the same images, epoch by epoch.
        remarks: what was left out because it was torn.
    """

    name: str
    folder: Path
    options: TrainOptions | DistillOptions
    yaml: str
    metrics: dict[str, list[float]]
    summary: Summary | None
    decisions: Decisions
    remarks: tuple[str, ...] = ()

    @property
    def distill_options(self) -> DistillOptions | None:
        """The options of a distillation; None for a network trained on labels."""
        return self.options if isinstance(self.options, DistillOptions) else None

    @property
    def student(self) -> str:
        """The network that was trained."""
        return self.options.student.name if isinstance(self.options, DistillOptions) else self.options.model.name

    @property
    def epochs(self) -> list[int]:
        return [int(epoch) for epoch in self.metrics["epoch"]]

    @property
    def shares(self) -> dict[str, float]:
        """Share of samples distilled at each spot in the last epoch, by the spot's name; empty without a teacher."""
        found = self.metrics.items()
        return {key.removeprefix("share_"): values[-1] for key, values in found if key.startswith("share_")}

    @property
    def evaluated_split(self) -> str:
        """The split that was evaluated after every epoch."""
        return "val" if "val_top1" in self.metrics else "test"

    @property
    def command(self) -> str:
        """A command that repeats the run: every option that is not the default."""
        return repeat_command(self.options, f"{self.folder}-again")


def repeat_command(options: TrainOptions | DistillOptions, out: str) -> str:
    """The command of a run with these options, in the folder ``out``: every option that is not the default."""
    given = dict(_changed_options(asdict(options), asdict(type(options)())))
    for key in ("out", "overwrite", "resume", "recipe"):  # its own folder; consent; the rest holds the recipe's options
        given.pop(key, None)
    words = ["spotkd", "distill" if isinstance(options, DistillOptions) else "train"]
    for key, value in (given | {"out": out}).items():
        text = _format_argument(value)
        # As one word where the value would be taken for an option.
        words += [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    return escape_shell(words)


def _changed_options(mine: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mine.items():
        if isinstance(value, dict):
            yield from _changed_options(value, theirs.get(key) or {}, f"{prefix}{key}.")
        elif key not in theirs or value != theirs[key]:
            yield prefix + key, value


def _format_argument(value: object) -> str:
    """As the command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def find_runs(places: Sequence[str]) -> list[Path]:
    """The run folders among ``places`` and below them, in order; none where no place is such a folder.

    Raises:
        SpotkdError: some places hold runs and others none.
    """
    found = {place: [run.path for run in find_run_folders(place)] for place in places}
    empty = [place for place, runs in found.items() if not runs]
    if empty and (len(empty) < len(places) or len(places) > 1 or Path(empty[0]).is_dir()):
        raise SpotkdError(f"{empty[0]}: no run there; name folders of runs, or one plan")
    return list(dict.fromkeys(run for runs in found.values() for run in runs))


def read_record(folder: Path, name: str) -> RunRecord:
    """The record of the run in ``folder``.

    Raises:
        SpotkdError: it holds no run with a finished epoch, or a file is damaged.
    """
    run = RunFolder(folder)
    metrics = run.metrics
    if not metrics:
        raise RunError(f"{folder}: this run has not finished an epoch yet")
    split = "val" if "val_top1" in metrics else "test"
    epochs = metrics.get("epoch", [])
    if f"{split}_top1" not in metrics or not epochs or any(e != i for i, e in enumerate(epochs, 1)):
        raise RunError(f"{folder / METRICS}: damaged, it has no row for each epoch with the {split} images' top1")
    options, yaml, remarks = run.options, run.options_text, tuple(run.remarks)
    return RunRecord(name, folder, options, yaml, metrics, run.summary, run.decisions, remarks)
