"""What lasts is shown: a bar in a terminal, a line now and then elsewhere, and nothing of what is over at once."""

from __future__ import annotations

import io

import pytest

from spotkd import waiting


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "lines"), [(0.001, 0), (0.5, 1), (3.0, 5)])
def test_a_pipe_gets_lines_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, lines: int
) -> None:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    found = []
    for item in waiting.shown(range(100), "runs/a\x1b: batches", 100):
        found.append(item)
        clock.now += seconds
    assert found == list(range(100))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == lines
    assert "\x1b" not in err
    if lines:
        assert ": batches: 5 of 100, about 0:48 left" in err or ": batches: 1 of 100, about 4:57 left" in err


def test_a_terminal_gets_a_bar_that_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert list(waiting.shown("abc", "runs/a: batches", 3)) == ["a", "b", "c"]
    assert "runs/a: batches" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_items_may_count_for_several(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    for _ in waiting.shown([64, 64, 36], "decoding", 164, weigh=int):
        clock.now += 4
    assert capsys.readouterr().err == "decoding: 64 of 164, about 0:06 left\n"
