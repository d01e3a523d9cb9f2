"""The README's loop runs as printed, and its commands are commands."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from spotkd.cli import read
from spotkd.cli.lists import LISTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_loop_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (loop,) = re.findall(r"<!-- loop -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(loop, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("Losses(total ")
    assert "spots layer1, layer2, layer3, logits" in printed


def test_a_network_of_ones_own_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"<!-- own -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("('0', '1', '2', ")


@pytest.mark.slow
def test_the_quick_start_runs_as_printed() -> None:
    (loop,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(loop, "index.md", "exec"), space)
    assert math.isfinite(space["losses"].total.item())


PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("commands.md", "recipes.md", "experiments.md", "reliability.md", "deploy.md")),
    *(ROOT / "docs" / name for name in ("index.md", "tutorial.md", "faq.md")),
    *(ROOT / "docs" / name for name in ("several-devices.md", "inspect-and-report.md", "data/README.md")),
]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES).replace("\\\n", " ")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)  # those of Python, too: they pair
FENCED = [block for language, block in BLOCKS if not language]
INDENTED = re.findall(r"^ {4}(.*)", TEXT, flags=re.MULTILINE)
SHOWN = re.findall(r"^spotkd (.*)$", "\n".join(FENCED + INDENTED), flags=re.MULTILINE)
COMMANDS = [line for line in SHOWN if "[" not in line]  # the one with brackets shows the defaults


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, *arguments = shlex.split(line)
    monkeypatch.chdir(tmp_path)
    if "--resume" in arguments:  # takes the options of a run, so there must be one
        folder = tmp_path / arguments[arguments.index("--resume") + 1]
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("teacher: {name: resnet20}\n" if command == "distill" else "{}\n")
    if command in LISTS:
        assert arguments[:1] == ["show"] if command == "recipes" and arguments else not arguments
        arguments, command = arguments[2:], "distill"
    read(command, arguments)


def test_commands_were_found() -> None:
    assert len(COMMANDS) >= 6


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
