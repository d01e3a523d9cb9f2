"""docs/deploy.md works as it is printed, from the first command to the last."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from spotkd import DATASETS, Dataset, load_glyph94
from spotkd.cli import main
from spotkd.data import DataSpec
from spotkd.deploy import hub
from spotkd.deploy.hub import HubPage

from ..conftest import in_memory

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8").replace("\\\n", " ")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.removeprefix("spotkd ")
    for language, block in BLOCKS
    for line in block.splitlines()
    if not language and line.startswith("spotkd ")
]
FEWER = ["--quiet", "--data.limit", "188"]
QUICKER = {"profile": ["--batch-size", "2", "--rounds", "1"], "train": FEWER, "distill": FEWER}


@pytest.mark.slow
def test_the_page_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_glyph94()
    small = dataclasses.replace(data, test=data.test.subset(torch.arange(94)))

    def glyph94(config: DataSpec) -> Dataset:
        """glyph94 with few test images."""
        return small

    sent: list[tuple[list[str], str]] = []

    def send(page: HubPage, repo: str, private: bool) -> str:
        sent.append((page.files, repo))
        return f"https://example.org/{repo}"

    monkeypatch.setitem(DATASETS._entries, "glyph94", glyph94)
    monkeypatch.setattr(hub, "_send", send)
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    images = in_memory(small.test).images
    for path, image in (("picture.png", images[33]), ("pictures/a.png", images[1]), ("pictures/b.jpg", images[2])):
        Image.fromarray(image[0].numpy()).save(path)
    assert len(COMMANDS) >= 12
    answers: dict[str, str] = {}
    for line in COMMANDS:
        command, *arguments = shlex.split(line)
        assert main([command, *arguments, *QUICKER.get(command, [])]) == 0, capsys.readouterr().err
        answers[line] = capsys.readouterr().out
    assert [repo for _, repo in sent] == ["USER/NAME"]
    assert Path("classes.csv").is_file()
    (code,) = re.findall(r"<!-- elsewhere -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "deploy.md", "exec"), {})
    printed = capsys.readouterr().out.rstrip("\n")
    assert answers["predict runs/sakd picture.png"].startswith(f"picture.png: {printed} ")
    assert answers["predict runs/sakd/student.pt2 picture.png --trust"] == answers["predict runs/sakd picture.png"]
