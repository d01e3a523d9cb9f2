"""A plan's tables as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..templates import render_template
from .tables import Table

_MOST_LINES = 40  # of a table, which cannot break across pages


@dataclass(frozen=True)
class Page:
    """As much of a table as fits on a page of paper.

    Attributes:
        number: of the table's pages, from 1.
        label: of the table's first page, without ``tab:``.
        caption: of the table.
        column_space: a length.
        head: rows of names.
        sections: rows that stand together.
    """

    number: int
    label: str
    caption: str
    column_space: str
    head: list[list[str]]
    sections: list[list[list[str]]]


def latex_tables(tables: dict[str, list[Table]], name: str, command: str) -> str:
    """All tables, by data set, as a file for ``\\input``.

    Args:
        tables: by data set.
        name: the plan's; it begins the labels.
        command: what makes the tables; a comment.
    """
    pages = [page for data, of_data in tables.items() for table in of_data for page in _pages(table, data, name)]
    return render_template("report.tex", command=command, pages=pages)


def _pages(table: Table, data: str, name: str) -> Iterator[Page]:
    """The table on as many pages as needed; a section stays together."""
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{name}-{data}-{table.title}").strip("-").lower()
    caption = " ".join([f"{data}. {table.title}. {table.caption}", *table.remarks])
    column_space = "6pt" if len(table.head[0]) <= 4 else "2.5pt"  # five pairs fit the page of the article class
    for number, sections in enumerate(_split_sections(table), 1):
        yield Page(number, label, caption, column_space, table.head, sections)


def _split_sections(table: Table) -> list[list[list[list[str]]]]:
    """The sections of each page."""
    pages: list[list[list[list[str]]]] = [[]]
    count = 0  # lines of the last page, the space between sections counted as one
    for section in table.sections:
        lines = [line for row in section for line in _printed_lines(row)]
        if pages[-1] and count + len(lines) > _MOST_LINES:
            pages.append([])
            count = 0
        count += len(lines) + bool(pages[-1])
        pages[-1].append(lines)
    return pages


def _printed_lines(row: list[str]) -> list[list[str]]:
    """A row as it is printed: in wide tables the intervals stand below their means."""
    parts = [cell.partition(" [") for cell in row]
    below = [bracket.strip() + rest for _, bracket, rest in parts]
    return [[first for first, _, _ in parts], below] if len(row) > 3 and any(below) else [row]
