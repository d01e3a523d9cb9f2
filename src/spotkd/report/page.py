"""The page with everything on some runs, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .. import __version__
from ..errors import SpotkdError
from ..files import atomic_write, check_target
from ..options import ReportOptions
from ..templates import read_asset, render_template
from .builder import ReportBuilder
from .charts import HEIGHT, WIDTH, Drawing, HeatMap, LineChart
from .figures import write_figures
from .run_record import RunRecord, read_record
from .run_summary import result_table


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
    together = [accuracy_chart(runs)]
    comparisons, remarks = builder.build_comparisons(sections)
    target = Path(options.out or Path(options.what[0]) / "report.html")
    html = render_page(
        sections=sections, together=together, comparisons=comparisons, remarks=remarks, **result_table(sections)
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
        shown: list[LineChart | HeatMap] = [*together]
        for section in sections:
            shown += [*section.charts, *section.heat_maps]
        yield f"{options.figures}: {write_figures(shown, Path(options.figures))} figures, each as PNG and SVG"


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names without the folders that all of them lie in."""
    paths = [folder.resolve() for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(common).as_posix() for path in paths]


def accuracy_chart(runs: Sequence[RunRecord]) -> LineChart:
    """All runs on one chart, by the split that was evaluated after each epoch."""
    epochs = sorted({epoch for run in runs for epoch in run.epochs})
    lines: dict[str, Sequence[float | None]] = {}
    for run in runs:
        found = dict(zip(run.epochs, run.metrics[f"{run.evaluated_split}_top1"], strict=True))
        lines[f"{run.name} ({run.evaluated_split})"] = [found.get(epoch) for epoch in epochs]
    return LineChart("accuracy", "Accuracy of each run's network by epoch", "top-1 (%)", epochs, lines)


def render_page(**content: Any) -> str:
    """The page; every text in it is escaped, and no script but its own runs."""
    script = read_asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_template(
        "page.html",
        **content,
        Drawing=Drawing,
        WIDTH=WIDTH,
        HEIGHT=HEIGHT,
        version=__version__,
        script=Markup(script),
        style=Markup(read_asset("page.css")),
        digest=digest,
    )
