"""Words from outside, such as class names and the names of files, made harmless where they are shown."""

from __future__ import annotations

import re

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~$&:@])")


def shown(text: str) -> str:
    """For a terminal: on one line, and what would steer the terminal as an escape (``\\x1b``)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def cell(text: str) -> str:
    """For a CSV file: a spreadsheet would run a formula, so an apostrophe goes before one. A lone ``=`` is none."""
    return f"'{text}" if len(text) > 1 and text.startswith(_FORMULA) else shown(text)


def markdown(text: str) -> str:
    """For Markdown: on one line, with nothing in it that is markup, HTML or a link."""
    return _MARKDOWN.sub(r"\\\1", shown(text))
