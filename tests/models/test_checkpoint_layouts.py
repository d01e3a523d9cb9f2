"""Every layout of benchmarks/checkpoints.py loads, or is answered with one short line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REFUSED = {  # and the word in the answer that says what to do
    "Lightning, student and teacher": "choose one by checkpoint_key",
    "1000 classes": "replace_head",
    "without a classifier": "replace_head",
    "another network": "all 122 keys begin with `vit.encoder.`",
    "no weights": "state_dict()",
    "a whole network": "save a plain state dict",
}


@pytest.mark.slow
def test_every_layout_loads_or_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import checkpoints

    rows = checkpoints.read_all(tmp_path)
    assert len(rows) >= 40
    assert {name for name, loaded, _ in rows if not loaded} == set(REFUSED)
    for name, loaded, said in rows:
        assert len(said) <= checkpoints.MOST_LETTERS
        assert loaded or REFUSED[name] in said
    sys.modules.pop("checkpoints")
