"""Words from outside, such as class names and the names of files, made harmless where they are shown."""

from __future__ import annotations

import re

from .errors import shown

__all__ = ["cell", "markdown", "shown"]

_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for the beginning of a formula
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&:@]|(?<=www)\.)", re.IGNORECASE)


def cell(text: str) -> str:
    """For a CSV file: a spreadsheet would run a formula, so an apostrophe goes before one. A lone ``=`` is none."""
    text = shown(text)
    return f"'{text}" if len(text) > 1 and text.startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """For Markdown, inside a line: with nothing in it that is markup, HTML or a link."""
    return _MARKDOWN.sub(r"\\\1", shown(text))
