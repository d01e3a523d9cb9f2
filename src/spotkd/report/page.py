"""The page: what is shown of each run and of all of them, and its assembly."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..analysis import Inspection, inspect, split_of
from ..config import DistillConfig, InspectConfig, ReportConfig, data_spec
from ..data import Dataset, load_data
from ..errors import SpotkdError
from ..files import atomic_write
from ..routing import STRATEGIES
from .charts import HEIGHT, WIDTH, Drawing, HeatMap, LineChart, thinned
from .compare import Comparison, compare, guesses
from .facts import Cost, RunFacts, cost, read_run
from .figures import write_figures
from .gallery import Gallery, galleries

T = TypeVar("T")

_COLUMNS = 40  # epochs that a heat map shows
_CHANGED = 24  # rows of a block of the table of classes
_PROTOCOL = {"last epoch": "the last epoch", "best on validation": "best on validation images",
             "best on test": "best on the test images, which flatters"}  # fmt: skip


@dataclass
class Section:
    """What the page shows of one run.

    Attributes:
        run: what its files tell.
        facts: the card: a term and what there is to say.
        charts, heats: its figures.
        inspection: where its policy sends samples; None where nothing learns, or for lack of files.
        classes: classes by mean P(teacher), in blocks of rows: name, and a value for each spot.
        galleries: samples at either end.
        remarks: what could not be shown, and why.
    """

    run: RunFacts
    facts: list[tuple[str, str]] = field(default_factory=list)
    charts: list[LineChart] = field(default_factory=list)
    heats: list[HeatMap] = field(default_factory=list)
    inspection: Inspection | None = None
    classes: list[list[tuple[str, list[float]]]] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def report_runs(folders: Sequence[Path], options: ReportConfig) -> Iterator[str]:
    """Write the page and, if wanted, its figures.

    Yields:
        A line about each.

    Raises:
        SpotkdError: a folder holds no run that was carried through an epoch, or a file cannot be written.
    """
    runs = [read_run(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]
    desk = Desk(options)
    sections = [desk.section(run) for run in runs]
    together = [accuracy(runs)]
    comparisons, remarks = desk.comparisons(sections)
    target = Path(options.out or Path(options.what[0]) / "report.html")
    html = render(
        sections=sections, together=together, comparisons=comparisons, remarks=remarks, **side_by_side(sections)
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as path:
            path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise SpotkdError(f"{target}: cannot be written ({error.strerror or error})") from error
    yield f"{target}: {len(runs)} run{'s' * (len(runs) > 1)}, {len(html.encode()) / 1e6:.1f} MB"
    if options.figures is not None:
        shown: list[LineChart | HeatMap] = [*together]
        for section in sections:
            shown += [*section.charts, *section.heats]
        yield f"{options.figures}: {write_figures(shown, Path(options.figures))} figures, each as PNG and SVG"


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names without what all of them have in common."""
    paths = [folder.resolve() for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(common).as_posix() for path in paths]


def accuracy(runs: Sequence[RunFacts]) -> LineChart:
    """All runs on one chart, by the split that each was watched on."""
    epochs = sorted({epoch for run in runs for epoch in run.epochs})
    lines: dict[str, Sequence[float | None]] = {}
    for run in runs:
        found = dict(zip(run.epochs, run.metrics[f"{run.watched}_top1"], strict=True))
        lines[f"{run.name} ({run.watched})"] = [found.get(epoch) for epoch in epochs]
    return LineChart("accuracy", "Accuracy of each run's network by epoch", "top-1 (%)", epochs, lines)


class Desk:
    """Makes the sections; what costs time is done once: data sets, costs of networks, guesses.

    Args:
        options: of the command.
    """

    def __init__(self, options: ReportConfig) -> None:
        self.options = options
        self._data: dict[str, Dataset] = {}
        self._costs: dict[tuple[str, str], Cost] = {}

    def section(self, run: RunFacts) -> Section:
        """Everything about one run."""
        section = Section(run)
        section.charts = list(curves(run))
        costs = self._attempt(section.remarks, "sizes", lambda: self._costs_of(run))
        section.facts = list(card(run, costs))
        if run.distils is not None and STRATEGIES[run.distils.strategy]().learns:
            section.heats = list(course(run))
            self._attempt(section.remarks, "decisions", lambda: self._look(section))
        elif run.distils is not None:
            section.remarks.append(
                f"Strategy {run.distils.strategy} has no policy: it treats every sample alike, so there is nothing to "
                "show of where it distils."
            )
        return section

    def _attempt(self, remarks: list[str], what: str, work: Callable[[], T]) -> T | None:
        """The work's result; where files are missing, None and a remark: a page can be made of what is there."""
        try:
            return work()
        except SpotkdError as error:
            remarks.append(f"No {what}: {error}")
            return None

    def data(self, run: RunFacts) -> Dataset:
        key = str(run.config.data)
        if key not in self._data:
            self._data[key] = load_data(data_spec(run.config.data))
        return self._data[key]

    def _costs_of(self, run: RunFacts) -> dict[str, Cost]:
        """By role."""
        data = self.data(run)
        networks = {"student": run.student} | ({"teacher": run.distils.teacher.name} if run.distils else {})
        for model in networks.values():
            if (model, str(data.image_shape)) not in self._costs:
                self._costs[model, str(data.image_shape)] = cost(model, data)
        return {role: self._costs[model, str(data.image_shape)] for role, model in networks.items()}

    def _look(self, section: Section) -> None:
        """Ask the run's policy."""
        options = self.options
        run, split = section.run, options.split
        inspection, data = inspect(InspectConfig(str(run.folder), split, None, options.batch_size, options.accelerator))
        section.inspection = inspection
        section.galleries = galleries(inspection, split_of(data, split))
        means = inspection.class_means()
        order = [c for c in sorted(range(len(means)), key=lambda c: -means[c].mean()) if not math.isnan(means[c][0])]
        rows = [(inspection.classes[c], means[c].tolist()) for c in order]
        section.classes = [rows[i : i + _CHANGED] for i in range(0, len(rows), _CHANGED)]
        section.heats.append(
            HeatMap(
                f"{run.name}-classes",
                f"P(teacher) by class, {split} images, epoch {inspection.epoch}",
                ("class", "spot"),
                [name for name, _ in rows],
                inspection.spots,
                [values for _, values in rows],
            )
        )

    def comparisons(self, sections: Sequence[Section]) -> tuple[list[Comparison], list[str]]:
        """Each spot-adaptive student beside that of plain KD, the first one among the runs; and what stood against."""
        plain = next((s.run for s in sections if s.run.distils and _is_plain_kd(s.run.distils)), None)
        remarks: list[str] = []
        found: list[Comparison] = []
        if plain is None:
            return found, remarks
        for run in (section.run for section in sections if section.inspection is not None):
            what = f"comparison of {run.name} with plain KD"
            done = self._attempt(remarks, what, partial(self._compare, plain, run))
            found += [] if done is None else [done]
        return found, remarks

    def _compare(self, before: RunFacts, after: RunFacts) -> Comparison:
        if _test_images(before) != _test_images(after):
            raise SpotkdError("it was tested on other images")
        data = self.data(after)
        (labels, old), (_, new) = (guesses(run, data, self.options) for run in (before, after))
        return compare((before.name, old), (after.name, new), labels, data.classes)


def _is_plain_kd(config: DistillConfig) -> bool:
    return (config.distiller, config.strategy) == ("kd", "always")


def _test_images(run: RunFacts) -> tuple[object, ...]:
    data = run.config.data
    return data.name, data.test_share, data.image_size


_TERMS = {  # as people call them
    "task": "labels (task)",
    "kl": "logits (kl)",
    "distill": "distiller",
    "teacher": "teacher's labels",
    "route": "routing",
    "balance": "balance",
    "share": "share",
}


def curves(run: RunFacts) -> Iterator[LineChart]:
    """A run's metrics over its epochs."""
    metrics, epochs = run.metrics, run.epochs
    losses = {
        _TERMS.get(name.removeprefix("loss_"), name): values
        for name, values in metrics.items()
        if name.startswith("loss_") and any(values)
    }
    yield LineChart(
        f"{run.name}-losses", "Loss terms", "loss", epochs, losses, note="Weights included; training images."
    )
    top1 = {name.removesuffix("_top1"): values for name, values in metrics.items() if name.endswith("_top1")}
    yield LineChart(
        f"{run.name}-accuracy", "Accuracy", "top-1 (%)", epochs, top1, note="train: on augmented images, in train mode."
    )
    rates = {key: metrics[column] for key, column in (("student", "lr"), ("policy", "lr_policy")) if column in metrics}
    yield LineChart(
        f"{run.name}-rates", "Learning rates", "rate", epochs, rates, note="In the first step of each epoch."
    )
    shares = {name.removeprefix("share_"): values for name, values in metrics.items() if name.startswith("share_")}
    if shares:
        yield LineChart(
            f"{run.name}-shares", "Share of samples distilled at each spot", "share", epochs, shares, share=True,
            note="As drawn in training.",
        )  # fmt: skip


def course(run: RunFacts) -> Iterator[HeatMap]:
    """Epoch by spot: what the policy would do, where that was noted; else what was done."""
    spots, rows = run.course
    everyone = [row for row in rows if row.label is None]
    if everyone:
        epochs, means = [row.epoch for row in everyone], [row.means for row in everyone]
        title, note = "P(teacher) by epoch", f"Mean over the same {everyone[0].images} training images, un-augmented."
    else:
        shares = {key.removeprefix("share_"): values for key, values in run.metrics.items() if key.startswith("share_")}
        spots, epochs, means = tuple(shares), run.epochs, list(zip(*shares.values(), strict=True))
        title, note = "Share distilled by epoch", "As drawn in training."
    if spots:
        chosen = thinned(len(epochs), _COLUMNS)
        yield HeatMap(
            f"{run.name}-epochs",
            title,
            ("spot", "epoch"),
            spots,
            [str(epochs[i]) for i in chosen],
            [[means[i][spot] for i in chosen] for spot in range(len(spots))],
            note + (f" {len(chosen)} of {len(epochs)} epochs." if len(chosen) < len(epochs) else ""),
        )


def card(run: RunFacts, costs: dict[str, Cost] | None) -> Iterator[tuple[str, str]]:
    """The summary card."""
    config, summary = run.config, run.summary
    if isinstance(config, DistillConfig):
        yield "pair", f"{config.teacher.name} teaches {config.student.name}"
        yield "what", f"{config.distiller}" + (f" (spots {_listed(config.spots)})" if config.spots else "")
        yield "where", config.strategy
    else:
        yield "network", f"{run.student}, trained on labels"
    limit = "" if config.data.limit is None else f", {config.data.limit} training images"
    yield "data", config.data.name + limit
    if summary is None:
        yield "result", f"not finished: {run.epochs[-1]} of {config.epochs} epochs"
    else:
        chosen = _PROTOCOL.get(summary["protocol"], summary["protocol"])
        scores = summary["scores"]
        yield (
            "test accuracy",
            f"top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} % on {scores['images']} test images, "
            f"after epoch {summary['epoch']} of {summary['epochs']} ({chosen})",
        )
        if summary["epoch"] != summary["epochs"]:
            yield "after the last epoch", f"top-1 {summary['last']['top1']:.2f} %"
    if costs is not None:
        yield from _sizes(costs)
    if summary is not None:
        yield "training time", f"{summary['seconds']:.0f} s on {summary['machine']} ({summary['device']})"
        yield "versions", f"spotkd {summary['spotkd']}, PyTorch {summary['torch']}, Python {summary['python']}"
    yield "seed", str(config.seed)


def _sizes(costs: dict[str, Cost]) -> Iterator[tuple[str, str]]:
    small, large = costs["student"], costs.get("teacher")
    of = "" if large is None else f", teacher's {_number(large.parameters)}"
    yield "parameters", f"{_number(small.parameters)}{of}"
    of = "" if large is None else f", teacher's {_number(large.flops)}"
    yield "FLOPs per image", f"{_number(small.flops)}{of} (multiplications and additions of a forward pass)"
    if large is not None:
        yield (
            "compression",
            f"teacher to student {large.parameters / small.parameters:.1f} : 1 in parameters, "
            f"{large.flops / small.flops:.1f} : 1 in FLOPs",
        )


def _number(value: float) -> str:
    """``1.23 M``"""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _listed(names: Sequence[str] | str) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def side_by_side(sections: Sequence[Section]) -> dict[str, Any]:
    """Header and rows of the first table."""
    rows = []
    for section in sections:
        run, summary, facts = section.run, section.run.summary, dict(section.facts)
        rows.append(
            [
                run.name,
                facts.get("pair", facts.get("network", "")),
                run.distils.distiller if run.distils else "-",
                run.distils.strategy if run.distils else "-",
                "-" if summary is None else f"{summary['scores']['top1']:.2f}",
                "not finished" if summary is None else f"{summary['epoch']} ({summary['protocol']})",
                "-" if summary is None else f"{summary['last']['top1']:.2f}",
                facts.get("parameters", "-").partition(",")[0],
                facts.get("FLOPs per image", "-").partition(" (")[0].partition(",")[0],
            ]
        )
    head = ["run", "networks", "what", "where", "test top-1 (%)", "of epoch", "last epoch's", "parameters", "FLOPs"]
    return {"table_head": head, "table_rows": rows}


def render(**content: Any) -> str:
    """The page; every text in it is escaped, and no script but its own runs."""
    environment = Environment(
        loader=PackageLoader("spotkd.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(Drawing=Drawing, WIDTH=WIDTH, HEIGHT=HEIGHT)
    environment.filters["six"] = lambda value: "" if value is None else f"{value:.6g}"
    environment.filters["signed"] = lambda value: "-" if math.isnan(value) else f"{round(float(value), 2) + 0.0:+.2f}"
    here = files("spotkd.report")
    script = here.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        **content, version=__version__, script=Markup(script), style=Markup(style), digest=digest
    )
