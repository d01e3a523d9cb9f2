"""Every public object has a page, whose example runs and prints what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tools.build_docs import PUBLIC

import spotkd
import spotkd.training

from .conftest import few_glyphs, instead_of_glyph94

EXAMPLES = Path(__file__).parents[1] / "docs" / "reference" / "examples"
TRAINS = {"RunFolder", "Summary", "train", "distill", "resume", "restore", "evaluate_checkpoint", "fit"}
SLOW = {*TRAINS, "SpotKD", "compile_method", "evaluate", "make_optimizer", "make_fabric", "fold_batchnorm"}


def test_every_public_object_has_a_page() -> None:
    listed = [name for names in PUBLIC.values() for name in names]
    assert listed[0] == "SpotKD"
    assert sorted(listed) == sorted([*spotkd.__all__, *spotkd.training.__all__])


@pytest.mark.parametrize(
    "name",
    [pytest.param(path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in sorted(EXAMPLES.glob("*.py"))],
)
def test_examples_run_and_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if name in TRAINS:
        instead_of_glyph94(few_glyphs(94, 188), monkeypatch)
    code = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    torch.manual_seed(0)
    exec(compile(code, f"{name}.py", "exec"), {"__name__": "example"})
    said = re.findall(r"^(?: *print\(.*\)  )?# (.*)$", code, re.MULTILINE)
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert said
    assert printed[-len(said) :] == said
