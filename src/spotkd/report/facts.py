"""What a run's own files tell about it, and what its networks cost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from ..config import DistillConfig, RunConfig, TrainConfig, read_config
from ..data import Dataset
from ..errors import SpotkdError, one_line
from ..models import build_model
from ..runs.tables import DecisionRow, read_decisions, read_metrics

CONFIG = "config.yaml"


@dataclass(frozen=True)
class RunFacts:
    """A run, from its files alone.

    Attributes:
        name: how to call it beside the others.
        folder: where it lies.
        config: its options.
        yaml: its ``config.yaml`` as it stands there.
        metrics: the columns of ``metrics.csv``.
        summary: its result; None for a run that has not finished.
        course: spots and rows of ``decisions.csv``.
    """

    name: str
    folder: Path
    config: RunConfig
    yaml: str
    metrics: dict[str, list[float]]
    summary: dict[str, Any] | None
    course: tuple[tuple[str, ...], tuple[DecisionRow, ...]]

    @property
    def distils(self) -> DistillConfig | None:
        """The options of a distillation; None for a network trained on labels."""
        return self.config if isinstance(self.config, DistillConfig) else None

    @property
    def student(self) -> str:
        """The network that was trained."""
        return self.config.student.name if isinstance(self.config, DistillConfig) else _model(self.config)

    @property
    def epochs(self) -> list[int]:
        return [int(epoch) for epoch in self.metrics["epoch"]]

    @property
    def watched(self) -> str:
        """The split that was evaluated after every epoch."""
        return "val" if "val_top1" in self.metrics else "test"

    @property
    def command(self) -> str:
        """A command that repeats the run: every option that is not the default."""
        default = type(self.config)()
        given = dict(_different(asdict(self.config), asdict(default)))
        for key in ("out", "overwrite", "recipe"):  # its own folder; consent; the recipe's options are all in the rest
            given.pop(key, None)
        verb = "distill" if self.distils else "train"
        words = [f"--{key} {shlex.quote(_spelled(value))}" for key, value in given.items()]
        return " ".join([f"spotkd {verb}", *words, f"--out {shlex.quote(f'{self.folder}-again')}"])


def _model(config: RunConfig) -> str:
    return config.model.name if isinstance(config, TrainConfig) else "?"


def _different(mine: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mine.items():
        if isinstance(value, dict):
            yield from _different(value, theirs.get(key) or {}, f"{prefix}{key}.")
        elif key not in theirs or value != theirs[key]:
            yield prefix + key, value


def _spelled(value: object) -> str:
    """As the command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def runs_below(places: Sequence[str]) -> list[Path]:
    """The run folders among ``places`` and below them, in order; none where no place is such a folder.

    Raises:
        SpotkdError: some places hold runs and others none.
    """
    found = {place: sorted(path.parent for path in Path(place).rglob(CONFIG)) for place in places}
    empty = [place for place, runs in found.items() if not runs]
    if empty and (len(empty) < len(places) or len(places) > 1 or Path(empty[0]).is_dir()):
        raise SpotkdError(f"{empty[0]}: no run there; name folders of runs, or one plan")
    return list(dict.fromkeys(run for runs in found.values() for run in runs))


def read_run(folder: Path, name: str) -> RunFacts:
    """Everything that the files in ``folder`` tell.

    Raises:
        SpotkdError: it holds no run that was carried through an epoch, or a file is damaged.
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
    metrics = read_metrics(folder / "metrics.csv")
    if not metrics:
        raise SpotkdError(f"{folder}: not an epoch of this run is done yet")
    return RunFacts(name, folder, config, text, metrics, result, _course(folder))


def _course(folder: Path) -> tuple[tuple[str, ...], tuple[DecisionRow, ...]]:
    found = read_decisions(folder / "decisions.csv")
    return found.spots, found.rows


@dataclass(frozen=True)
class Cost:
    """What a network costs: parameters, and floating point operations of one image's forward pass (two a product)."""

    parameters: int
    flops: int


def cost(model: str, data: Dataset) -> Cost:
    """Of the network of that name, for the images and classes of a data set."""
    network = build_model(model, len(data.classes), image_shape=data.image_shape).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *data.image_shape))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops())
