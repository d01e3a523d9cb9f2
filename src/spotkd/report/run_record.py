"""What a run's own files hold."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import DistillConfig, RunConfig, TrainConfig, read_config
from ..errors import SpotkdError, one_line
from ..training.course import CourseRow, read_course
from ..training.run import read_metrics

CONFIG = "config.yaml"


@dataclass(frozen=True)
class RunRecord:
    """A run, from its files alone.

    Attributes:
        name: how to call it beside the others.
        folder: where it lies.
        config: its options.
        yaml: its ``config.yaml`` as it stands there.
        metrics: the columns of ``metrics.csv``.
        summary: its result; None for a run that has not finished.
        decisions: spots and rows of ``decisions.csv``.
    """

    name: str
    folder: Path
    config: RunConfig
    yaml: str
    metrics: dict[str, list[float]]
    summary: dict[str, Any] | None
    decisions: tuple[tuple[str, ...], list[CourseRow]]

    @property
    def distill_options(self) -> DistillConfig | None:
        """The options of a distillation; None for a network trained on labels."""
        return self.config if isinstance(self.config, DistillConfig) else None

    @property
    def student(self) -> str:
        """The network that was trained."""
        return self.config.student.name if isinstance(self.config, DistillConfig) else _network_name(self.config)

    @property
    def epochs(self) -> list[int]:
        return [int(epoch) for epoch in self.metrics["epoch"]]

    @property
    def evaluated_split(self) -> str:
        """The split that was evaluated after every epoch."""
        return "val" if "val_top1" in self.metrics else "test"

    @property
    def command(self) -> str:
        """A command that repeats the run: every option that is not the default."""
        default = type(self.config)()
        given = dict(_changed_options(asdict(self.config), asdict(default)))
        for key in ("out", "overwrite", "recipe"):  # its own folder; consent; the recipe's options are all in the rest
            given.pop(key, None)
        verb = "distill" if self.distill_options else "train"
        words = [f"--{key} {shlex.quote(_format_argument(value))}" for key, value in given.items()]
        return " ".join([f"spotkd {verb}", *words, f"--out {shlex.quote(f'{self.folder}-again')}"])


def _network_name(config: RunConfig) -> str:
    return config.model.name if isinstance(config, TrainConfig) else "?"


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
    found = {place: sorted(path.parent for path in Path(place).rglob(CONFIG)) for place in places}
    empty = [place for place, runs in found.items() if not runs]
    if empty and (len(empty) < len(places) or len(places) > 1 or Path(empty[0]).is_dir()):
        raise SpotkdError(f"{empty[0]}: no run there; name folders of runs, or one plan")
    return list(dict.fromkeys(run for runs in found.values() for run in runs))


def read_record(folder: Path, name: str) -> RunRecord:
    """The record of the run in ``folder``.

    Raises:
        SpotkdError: it holds no run with a finished epoch, or a file is damaged.
    """
    path = folder / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        kind = DistillConfig if "distiller" in content else TrainConfig
        summary = folder / "summary.json"
        result = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else None
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise SpotkdError(f"{folder}: a damaged run ({one_line(error)[:200]})") from error
    config: RunConfig = read_config(kind, path)
    metrics = read_metrics(folder)
    if not metrics:
        raise SpotkdError(f"{folder}: this run has not finished an epoch yet")
    return RunRecord(name, folder, config, text, metrics, result, read_course(folder))
