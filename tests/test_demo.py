"""The demo, at a fraction of its size."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotkd.cli import main
from spotkd.runs.folder import RunFolder

from .conftest import few_glyphs, instead_of_glyph94


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    instead_of_glyph94(few_glyphs(376, 940), monkeypatch)
    out = tmp_path / "demo"
    for again in ([], ["--overwrite", "true"]):
        assert main(["demo", "--faces", "4", "--epochs", "1", "--teacher_epochs", "1", "--out", str(out), *again]) == 0
    rows = [line for line in (out / "table.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 5
    assert {path.name for path in out.glob("*.png")} == {"accuracy.png", "shares.png", "decisions.png"}
    assert main(["demo", "--faces", "4", "--out", str(out)]) == 2  # not over the first unasked
    shares = RunFolder(out / "sakd").metrics
    assert any(0.02 < values[-1] < 0.98 for name, values in shares.items() if name.startswith("share_"))
    printed = capsys.readouterr().out
    for run in ("teacher", "alone", "kd", "at", "sakd"):
        top1 = RunFolder(out / run).metrics["test_top1"][-1]
        assert f"{top1:.2f}" in printed
        assert any(f" {top1:.2f} " in row for row in rows)
    assert "One run each" in printed
