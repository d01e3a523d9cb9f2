"""The default command makes a student that is better than one without a teacher, on a user's own pictures.

The tutorial's networks and commands as they stand there, on pictures of letters of 24 typefaces each; three seeds.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from spotkd.cli import main
from spotkd.data import load_data, load_glyph94
from spotkd.report.compare import compare, predict_labels
from spotkd.report.verdict import paired_interval
from spotkd.runs.folder import RunFolder
from spotkd.training.build import data_spec

from ..conftest import in_memory

ROOT = Path(__file__).parents[2]
FACES, SEEDS = {"train": 24, "val": 72}, (1, 2, 3)  # typefaces of each letter


def write_letters(root: Path) -> None:
    """The 52 Latin letters in a folder each, training and validation pictures of other typefaces."""
    data = load_glyph94()
    for split, name in ((in_memory(data.train), "train"), (in_memory(data.test), "val")):
        for label, letter in enumerate(data.classes):
            if letter.isalpha():
                folder = root / name / f"{'capital' if letter.isupper() else 'small'}-{letter.lower()}"
                folder.mkdir(parents=True)
                for number, index in enumerate(torch.nonzero(split.labels == label).flatten()[: FACES[name]].tolist()):
                    Image.fromarray(split.images[index, 0].numpy()).save(folder / f"{number:03}.png")


@pytest.mark.slow
def test_the_tutorials_student_is_better_than_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"^spotkd (.*)$", page.replace("\\\n", " "), re.MULTILINE)
    big, alone, student = (
        next(command for command in commands if f"--out runs/{name}" in command) for name in ("big", "alone", "student")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(code)
    write_letters(tmp_path / "pictures")

    def run(command: str, seed: int) -> None:
        words = shlex.split(command)
        words[-1] += f"-{seed}"
        words = [word if word != "runs/big" else "runs/big-1" for word in words]
        assert main([*words, "--seed", str(seed)]) == 0

    run(big, 1)
    for seed in SEEDS:
        run(alone, seed)
        run(student, seed)
        said = capsys.readouterr().out
        assert f"the student alone (runs/alone-{seed}): +" in said, said[-1500:]
    data = load_data(data_spec(RunFolder("runs/student-1").options.data))
    kinds = {
        kind: [predict_labels("python:mine.small", Path(f"runs/{kind}-{seed}"), data) for seed in SEEDS]
        for kind in ("alone", "student")
    }
    labels, before = (torch.cat([torch.from_numpy(found[part]) for found in kinds["alone"]]).numpy() for part in (0, 1))
    after = torch.cat([torch.from_numpy(found[1]) for found in kinds["student"]]).numpy()
    _, low, _ = paired_interval(compare(("alone", before), ("student", after), labels, data.classes))
    assert low > 1.0, "points better than alone, at the lower end of the interval over three seeds"
    sys.modules.pop("mine")
