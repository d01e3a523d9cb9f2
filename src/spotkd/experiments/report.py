"""The files with a plan's tables: Markdown, LaTeX, and CSV for further computation.

They hold neither the time of a run nor how long it took, so that a repeated plan gives the same files.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import SpotkdError
from ..files import atomic_write
from .csv_tables import method_csv, result_csv
from .latex import latex_tables
from .markdown import markdown_report
from .plan import Plan
from .results import group_by_method, read_results
from .tables import DataSetTables


def write_report(plan: Plan, name: str, folder: Path, command: str) -> str:
    """Write report.md, report.csv (a row a method), runs.csv (a row a run) and report.tex into ``folder``.

    Args:
        plan: what was to be run.
        name: the plan's name.
        folder: where its runs lie.
        command: the command that runs it.

    Returns:
        The report in Markdown.

    Raises:
        SpotkdError: no run is finished, or a result cannot be read.
    """
    results, missing = read_results(plan, folder)
    if not results:
        raise SpotkdError(f"{folder}: no run of the plan {name} is finished; '{command}' runs it")
    groups = group_by_method(plan, results)
    of_data_sets = [DataSetTables(plan, data, groups) for data in plan.data]
    tables = {one.data: list(one.tables()) for one in of_data_sets if one.protocols}
    markdown = markdown_report(plan, tables, results, missing, folder, command)
    contents = {
        "report.md": markdown,
        "report.csv": method_csv(plan, groups),
        "runs.csv": result_csv(results),
        "report.tex": latex_tables(tables, name, command),
    }
    for file, content in contents.items():
        with atomic_write(folder / file) as path:
            path.write_text(content, encoding="utf-8")
    return markdown
