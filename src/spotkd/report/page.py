"""The page with everything on some runs, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from .. import __version__
from ..errors import SpotkdError
from ..files import atomic_write, check_target
from ..options import ReportOptions
from ..templates import read_asset, render_template
from .answer import answer_question, pick_subject
from .builder import ReportBuilder
from .charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Drawing, HeatMap, LineChart
from .figures import write_figures
from .groups import ROLE_NAMES, Group, group_runs
from .intervals import IntervalChart, IntervalDrawing, interval_chart
from .run_record import read_record
from .run_summary import number_runs, result_rows, run_line, share_map


def report_runs(folders: Sequence[Path], options: ReportOptions) -> Iterator[str]:
    """Write the page and, if wanted, its figures.

    Yields:
        A line about each.

    Raises:
        SpotkdError: a folder holds no run with a finished epoch, or a file cannot be written.
    """
    check_target("out", options.out)
    runs = [read_record(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]
    builder = ReportBuilder(options)
    sections = [builder.build_section(run) for run in runs]
    groups = group_runs(sections)
    subject = pick_subject(groups)
    effects = builder.measure_effects(groups, subject)
    answer, comparison = None, None
    if subject is not None:
        answer = answer_question(subject, effects.get(subject.name, []), groups)
        closest = next(iter(effects.get(subject.name, [])), None)
        if closest is not None:
            comparison = closest.comparison or builder.compare_first(subject, closest.control)
    together = [accuracy_chart(groups)]
    shares, differences = share_map(groups), interval_chart(groups, effects)
    target = Path(options.out or Path(options.what[0]) / "report.html")
    shown = [section for group in groups for section in group.sections]
    html = render_page(
        sections=shown,
        lines=[run_line(section) for section in shown],
        numbers=number_runs(groups),
        wheres=[group.sections[0] for group in groups if group.sections[0].patterns or group.sections[0].ordinary],
        effects=any(effects.values()),
        rows=result_rows(groups, effects),
        answer=answer,
        together=together,
        shares=shares,
        differences=differences,
        comparison=comparison,
        remarks=builder.remarks,
    )
    content = html.encode("utf-8", "backslashreplace")  # names of files and classes may be no text
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as path:
            path.write_bytes(content)
    except OSError as error:
        raise SpotkdError(f"{target}: cannot be written ({error.strerror or error})") from error
    yield f"{target}: {len(runs)} run{'s' * (len(runs) > 1)}, {len(content) / 1e6:.1f} MB"
    yield from builder.unfollowed
    if options.figures is not None:
        figures: list[LineChart | HeatMap | IntervalChart] = [*together]
        figures += [chart for chart in (shares, differences) if chart is not None]
        for section in sections:
            figures += [*section.charts, *section.heat_maps]
        yield f"{options.figures}: {write_figures(figures, Path(options.figures))} figures, each as PNG and SVG"


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names without the folders that all of them lie in."""
    paths = [folder.resolve() for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(common).as_posix() for path in paths]


def accuracy_chart(groups: Sequence[Group]) -> LineChart:
    """All configurations on one chart, by the split that was evaluated after each epoch; the mean over their seeds."""
    epochs = sorted({epoch for group in groups for run in group.runs for epoch in run.epochs})
    lines: dict[str, list[float | None]] = {}
    ranges: dict[str, list[tuple[float, float] | None]] = {}
    for group in groups:
        name = f"{group.name} ({group.runs[0].evaluated_split})"
        found = [dict(zip(run.epochs, run.metrics[f"{run.evaluated_split}_top1"], strict=True)) for run in group.runs]
        values = [[one[epoch] for one in found if epoch in one] for epoch in epochs]
        lines[name] = [fmean(column) if column else None for column in values]
        if len(found) > 1:
            ranges[name] = [(min(column), max(column)) if column else None for column in values]
    return LineChart(
        "accuracy", "Accuracy by epoch", "top-1 (%)", epochs, lines, roles=[group.role for group in groups],
        ranges=ranges, note="Mean over the seeds, from the lowest to the highest." if ranges else "",
    )  # fmt: skip


def render_page(**content: Any) -> str:
    """The page; every text in it is escaped, and no script but its own runs."""
    script = read_asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_template(
        "page.html",
        **content,
        Drawing=Drawing,
        IntervalDrawing=IntervalDrawing,
        ROLE_NAMES=ROLE_NAMES,
        WIDTH=WIDTH,
        HEIGHT=HEIGHT,
        LEFT=LEFT,
        RIGHT=RIGHT,
        TOP=TOP,
        BOTTOM=BOTTOM,
        version=__version__,
        script=Markup(script),
        style=Markup(read_asset("page.css")),
        digest=digest,
    )
