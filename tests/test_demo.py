"""The demo, at a fraction of its size."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spotkd.cli import main
from spotkd.demo import answer, run_demo, table
from spotkd.options import DemoOptions
from spotkd.runs.folder import RunFolder

from .conftest import few_glyphs, instead_of_glyph94

ROOT = Path(__file__).parents[1]


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
    assert "Did the teacher help? " in printed
    assert f" report {out}\n" in printed


def build_readme() -> Any:
    """tools/build_readme.py as a module."""
    spec = importlib.util.spec_from_file_location("build_readme", ROOT / "tools" / "build_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_order(results: dict[str, Any]) -> None:
    """Over five seeds the smallest margins were 2.7 (teacher, AT), 3.2 (AT, KD), 8.9 (KD, alone) points."""
    teacher, alone, kd, at, sakd = (run["top1"] for run in results["runs"])
    assert teacher > at > kd > alone + 3
    assert teacher > sakd > kd
    assert results["runs"][3]["gain"][1] > 8


def test_the_page_shows_the_recorded_demo() -> None:
    """The table, seconds and all, comes from the recorded file: ``make readme`` writes both."""
    builder = build_readme()
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert builder.PLACE.search(page)
    assert builder.with_results(page) == page
    results = json.loads(builder.RESULTS.read_text(encoding="utf-8"))
    assert results["seed"] == DemoOptions().seed
    assert_order(results)


@pytest.mark.parametrize(
    ("gain", "words"), [((2.0, 1.0, 3.0), "Yes:"), ((0.5, -1.0, 2.0), "Not shown:"), ((-2.0, -3.0, -1.0), "No:")]
)
def test_the_answer_follows_the_interval(gain: tuple[float, float, float], words: str) -> None:
    run = {"run": "student", "top1": 50.0, "seconds": 1.0, "shares": {}}
    results = {"seed": 1, "images": 100, "runs": [run, run, run | {"gain": gain}, run | {"gain": gain}]}
    assert answer(results).startswith(f"Did the teacher help? {words} ")
    assert [row[2] == "-" for row in table(results)[1:]] == [True, True, False, False]


@pytest.mark.slow
def test_the_demo_shows_teacher_above_distilled_above_alone(tmp_path: Path) -> None:
    run_demo(DemoOptions(out=str(tmp_path / "demo")), Console(quiet=True))
    assert_order(json.loads((tmp_path / "demo" / "results.json").read_text(encoding="utf-8")))
