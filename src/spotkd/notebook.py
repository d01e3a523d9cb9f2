"""What a notebook shows of an object: a small HTML table in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table with a title; all that it holds is shown as text, whatever it is.

    Args:
        title: stands above it.
        rows: their cells.
        head: names of the columns; empty for none.
    """
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if head else ""
    cells = (f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead>{top}</thead><tbody>{''.join(cells)}</tbody></table>"


def pair_rows(
    left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]], pairs: Iterable[tuple[int, int]]
) -> list[tuple[str, ...]]:
    """Rows of two lists side by side, in which the members of each pair are opposite each other, an arrow between."""
    rows: list[tuple[str, ...]] = []
    i = j = 0
    for mine, theirs in pairs:
        for _ in range(max(mine - i, theirs - j)):
            rows.append((*(left[i] if i < mine else ("", "")), "", *(right[j] if j < theirs else ("", ""))))
            i, j = min(i + 1, mine), min(j + 1, theirs)
        rows.append((*left[mine], "←", *right[theirs]))
        i, j = mine + 1, theirs + 1
    return rows


def format_shape(shape: Sequence[int]) -> str:
    """``64 x 8 x 8``."""
    return " x ".join(map(str, shape))
