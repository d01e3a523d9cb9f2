"""The templates of what spotkd writes: the page of runs, the tables of a plan, the model card.

In ``*.html.jinja`` all values are escaped; the others name their escaper at each value that comes from outside: ``md``
for text in a line of Markdown, ``code`` between backticks, ``tex`` for LaTeX. ``collapse`` makes any white space one
space. LaTeX is full of braces and percent signs, so its templates are written with ``<% %>`` and ``<< >>``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..escaping import escape_code_span, escape_latex, escape_markdown
from ..formatting import format_signed

_LATEX_MARKS: dict[str, Any] = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}


@cache
def _environment(kind: str) -> Environment:
    """Of templates whose results end in ``.html``, ``.md`` or ``.tex``."""
    environment = Environment(
        loader=PackageLoader("spotkd.templates", ""),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=kind != "html",
        **(_LATEX_MARKS if kind == "tex" else {}),
    )
    environment.filters |= {
        "md": escape_markdown,
        "code": escape_code_span,
        "tex": escape_latex,
        "collapse": lambda text: " ".join(text.split()),
        "signed": lambda value: format_signed(float(value)),
        "six": lambda value: "" if value is None else f"{value:.6g}",
    }
    return environment


def render_template(name: str, /, **values: object) -> str:
    """The text of a template with these values, all of which it must be given.

    Args:
        name: the template's file without ``.jinja``, such as ``report.md``.
        values: by the names that the template uses.
    """
    return _environment(name.rpartition(".")[2]).get_template(f"{name}.jinja").render(**values)


def read_asset(name: str) -> str:
    """The text of a file beside the templates that is put into a page as it is: a script, a style sheet."""
    return files("spotkd.templates").joinpath(name).read_text(encoding="utf-8")
