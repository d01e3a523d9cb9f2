"""Text from outside, such as class names and file names, made harmless where it is shown: one escaper per format."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import TypeVar, overload

__all__ = [
    "escape_code_span",
    "escape_csv",
    "escape_latex",
    "escape_lines",
    "escape_markdown",
    "escape_shell",
    "escape_terminal",
]

T = TypeVar("T")

_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for the beginning of a formula
_MARKDOWN = re.compile(
    r"[\\`*{}\[\]<>#|~$&]"  # markup wherever it stands
    r"|(?<![a-z0-9])_|_(?![a-z0-9])"  # emphasis, which does not begin or end inside a word: wrn_40_2
    r"|:(?=/)|@(?=\S)|(?<=\S)@|(?<=www)\.",  # https://example.org, me@example.org, www.example.org
    re.IGNORECASE,
)
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        **dict.fromkeys("\n\r\t\x0b\x0c", " "),
    }
)


def escape_terminal(text: str) -> str:
    """For a terminal: on one line, with control characters written as escapes (``\\x1b``)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def escape_lines(text: str) -> str:
    """For a terminal, line by line."""
    return "\n".join(map(escape_terminal, text.split("\n")))


def escape_shell(words: Iterable[str]) -> str:
    """A command to copy: every word quoted for a shell where it needs that, and none with control characters.

    Quotes are not enough for those: a terminal may obey them while a command is pasted.
    """
    return shlex.join(map(escape_terminal, words))


@overload
def escape_csv(value: str) -> str: ...
@overload
def escape_csv(value: T) -> T: ...
def escape_csv(value: object) -> object:
    """For a cell of a CSV file; anything but text stays as it is.

    Control characters become escapes, as on a terminal. A spreadsheet would compute a formula, so an apostrophe goes
    before one; a lone ``=`` is none.
    """
    if not isinstance(value, str):
        return value
    text = escape_terminal(value)
    return f"'{text}" if len(text) > 1 and text.startswith(_FORMULA) else text


def escape_markdown(text: str) -> str:
    """For Markdown, inside a line: nothing in it is markup, HTML or a link.

    Characters are escaped only where they would mean something, so that names such as wrn_40_2 can be read in the
    source as well.
    """
    return _MARKDOWN.sub(r"\\\g<0>", escape_terminal(text))


def escape_code_span(text: str) -> str:
    """For Markdown between backticks, where only they mean anything: one line, a backtick becomes an apostrophe."""
    return "".join(filter(str.isprintable, " ".join(text.split()).replace("`", "'")))


def escape_latex(text: str) -> str:
    """For LaTeX; a minus before a number becomes a minus sign."""
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_LATEX))
