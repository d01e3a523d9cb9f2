"""Every layout of benchmarks/folders.py is read or answered, and nothing is left out without a word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REFUSED = {
    "val and valid",
    "test without train",
    "an empty class in train",
    "a class in val alone",
    "one class",
    "no classes",
    "nothing",
}


@pytest.mark.slow
def test_nothing_is_left_out_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import folders

    rows = folders.read_all(tmp_path)
    assert len(rows) >= 40
    assert {name for name, counts, _, _ in rows if not counts} == REFUSED
    for name, counts, rest, said in rows:
        assert rest == 0 or "left out" in said or not counts, name
        assert said or (counts and rest == 0), name
    sys.modules.pop("folders")
