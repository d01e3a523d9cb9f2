"""Numbers as people read them."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO


def format_duration(seconds: float) -> str:
    """``3 days``, ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_signed(value: float) -> str:
    """``+1.25``, ``-0.50``, never ``-0.00``; ``-`` for nan."""
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"


def format_count(value: float) -> str:
    """``1.23 M``: three decimal units, k, M and G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def join_words(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def fold(text: str, stream: TextIO | None = None) -> str:
    """A line for a stream (standard output): a terminal's edge cuts no word of it; in a pipe it stays one line."""
    if not (stream or sys.stdout).isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 20)
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)
