"""Words from outside do nothing where they are shown."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from spotkd.wording import cell, markdown, shown


def test_a_terminal_is_not_steered() -> None:
    assert shown("\x1b[2Ja\nb\u202e\udcff é") == "\\x1b[2Ja\\nb\\u202e\\udcff é"


def test_a_spreadsheet_runs_no_formula() -> None:
    words = ["=1+1", "+cmd", "-2", "@x", "\tx", "=", "-", "plain", "a=b"]
    assert [cell(word) for word in words] == ["'=1+1", "'+cmd", "'-2", "'@x", "\\tx", "=", "-", "plain", "a=b"]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[a](javascript:x)",
        "![a](b)",
        "`code` *strong* __strong__ ~~gone~~",
        "a | b",
        "&lt; &amp;",
        "https://example.org www.example.org WWW.example.org me@example.org",
        "\\",
        "# no heading\n\n- no list",
    ],
)
def test_markdown_shows_the_words_themselves(text: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(f"| a |\n|---|\n| x {markdown(text)} y |\n")
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 2  # the table's two cells and no more
    children = inline[1].children or []
    assert {token.type for token in children} <= {"text", "text_special"}
    assert "".join(token.content for token in children) == f"x {shown(text)} y"
    assert "https:" not in markdown(text)
    assert "www." not in markdown(text).lower()
