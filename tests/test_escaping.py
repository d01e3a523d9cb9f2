"""Text from outside does nothing where it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from spotkd.escaping import escape_code_span, escape_csv, escape_latex, escape_markdown, escape_terminal


def test_a_terminal_is_not_steered() -> None:
    assert escape_terminal("\x1b[2Ja\nb\u202e\udcff é") == "\\x1b[2Ja\\nb\\u202e\\udcff é"


def test_a_spreadsheet_runs_no_formula() -> None:
    words = ["=1+1", "+cmd", "-2", "@x", "\tx", "=", "-", "plain", "a=b"]
    assert [escape_csv(word) for word in words] == ["'=1+1", "'+cmd", "'-2", "'@x", "\\tx", "=", "-", "plain", "a=b"]
    for text in ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)"):
        assert escape_csv(text) == f"'{text}"
    # A formula behind white space, which some spreadsheets skip: the white space is no longer any.
    assert [escape_csv(text) for text in ("\t=1", "\n=1", "\r=1")] == ["\\t=1", "\\n=1", "\\r=1"]


def test_numbers_stay_numbers_in_a_spreadsheet() -> None:
    for value in (-1.5, 3, None, "at", "python:a.B", ""):
        assert escape_csv(value) == value


def cell_text(text: str) -> str:
    """What a Markdown reader shows for the escaped text in a table's cell, which must be text and nothing else."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(f"| a |\n|---|\n| x {escape_markdown(text)} y |\n")
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 2  # the table's two cells and no more
    children = inline[1].children or []
    assert {token.type for token in children} <= {"text", "text_special"}
    return "".join(token.content for token in children).removeprefix("x ").removesuffix(" y")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[a](javascript:x)",
        "![a](b)",
        "`code` *strong* __strong__ ~~gone~~",
        "_strong_ a_ _b a_b_ __init__ snake_case_ _a_b",
        "a | b",
        "&lt; &amp;",
        "https://example.org www.example.org WWW.example.org me@example.org",
        "\\",
        "# no heading\n\n- no list",
    ],
)
def test_markdown_shows_the_words_themselves(text: str) -> None:
    assert cell_text(text) == escape_terminal(text)
    assert "https:" not in escape_markdown(text)
    assert "www." not in escape_markdown(text).lower()


@given(st.text(st.sampled_from("ab1_*`~[]()<>!&;:/@#|$\\{} .-\n\x1bé"), max_size=24))
def test_markdown_shows_any_words_themselves(text: str) -> None:
    assert cell_text(text) == escape_terminal(text)


def test_names_can_be_read_in_the_source_of_markdown() -> None:
    for name in (
        "wrn_40_2 81.25 ± 0.10",
        "MobileNetV2_0_5",
        "python:my.own_Mine",
        "a title: with a colon",
        "CPU @ 2.2GHz",
    ):
        assert escape_markdown(name) == name


def test_code_between_backticks_stays_there() -> None:
    assert escape_code_span("not finite: `loss`\n\x1b[2J") == "not finite: 'loss' [2J"


def test_latex_escapes() -> None:
    assert escape_latex("wrn_40_2") == r"wrn\_40\_2"
    assert escape_latex("-0.20 [-1.00, +0.60]") == "$-$0.20 [$-$1.00, +0.60]"
    assert escape_latex("resnet20-8 and a-1") == "resnet20-8 and a-1"
    assert escape_latex("a\\b ~^ {x} 5% ±") == r"a\textbackslash{}b \textasciitilde{}\textasciicircum{} \{x\} 5\% $\pm$"
