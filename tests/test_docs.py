"""The pages say what the code says, and what they tell people to do works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tools.build_docs import pages

from spotkd import DISTILLERS, STRATEGIES, Batch, SpotKD, Strategy

from .conftest import IMAGE_SHAPE, TinyNet

ROOT = Path(__file__).parents[1]
SECTIONS = ("Idea", "Formula", "Constants", "Spots", "Cost", "Paper and author code")


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_pages_are_what_the_docstrings_say(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], "run: python tools/build_docs.py"


def pages_to_begin_with() -> list[Path]:
    """Tutorials, guides, explanations and the pages of the reference that are about one thing; not lists of words."""
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), SiteLoader)["nav"]
    groups = {title: pages for group in nav for title, pages in group.items()}

    def leaves(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from leaves(inner)

    chosen = [
        name for title in ("Tutorials", "How-to guides", "Reference", "Explanation") for name in leaves(groups[title])
    ]
    left = ("reference/", "distillers/", "glossary", "notebooks/")
    return [ROOT / "docs" / name for name in chosen if not name.startswith(left) or name == "distillers/README.md"]


class SiteLoader(yaml.SafeLoader):
    """Reads the site's settings, whose tags name Python functions, without them."""


SiteLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


@pytest.mark.parametrize("page", pages_to_begin_with(), ids=lambda path: path.name)
def test_a_page_begins_with_what_it_is_for_and_something_to_run(page: Path) -> None:
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line and not line.startswith("<!--")]
    assert lines[0].startswith("# ")
    assert any(line.startswith(("```", "    ")) for line in lines[1:14]), "a command or code within its first lines"
    if page.name not in ("performance.md", "several-devices.md", "recipes.md", "commands.md"):  # the command, then why
        assert not lines[1].startswith(("```", "    ", "|", "#"))


def test_no_page_is_left_over() -> None:
    names = {path.stem for path in (ROOT / "docs" / "distillers").glob("*.md")}
    assert names == {*DISTILLERS, "README"}


@pytest.mark.parametrize("name", DISTILLERS)
def test_every_distiller_says_all_that_matters(name: str) -> None:
    text = (ROOT / "docs" / "distillers" / f"{name}.md").read_text(encoding="utf-8")
    assert [section for section in SECTIONS if f"**{section}.**" not in text] == []
    formula = text.partition("**Formula.**")[2].partition("**Constants.**")[0]
    assert "```math\n" in formula, "typeset on the site and on code hosts"
    assert "\n    " not in re.sub(r"```math\n.*?```", "", formula, flags=re.DOTALL)


def test_every_strategy_is_described() -> None:
    text = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert all(f"\n## {name}\n\n" in text for name in STRATEGIES)


def test_the_strategies_shown_do_what_is_said(pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    space: dict[str, type[Strategy]] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "strategies.md", "exec"), space)
    method = SpotKD(*pair, "at", space["LateStart"](), image_shape=IMAGE_SHAPE, policy_bias=-20.0)
    for epoch, share in ((1, 1.0), (2, 1.0), (3, 0.0), (4, 0.0)):
        method.start_epoch(epoch, 4)
        losses = method(batch)
        assert losses.mask.mean().item() == share
        assert losses.route.item() > 0
    method = SpotKD(*pair, "at", space["BelieveTheSure"](), image_shape=IMAGE_SHAPE)
    sure = method.teacher(batch.images).softmax(1)[range(len(batch.labels)), batch.labels]
    torch.testing.assert_close(method(batch).mask, sure[:, None].expand(-1, 4))


@pytest.mark.slow
def test_sakd_in_five_minutes_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "five-minutes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "five-minutes.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["layer1", "layer2", "layer3", "logits"]


@pytest.mark.process
@pytest.mark.slow
def test_a_distiller_of_ones_own_in_four_steps(tmp_path: Path) -> None:
    """Follows docs/own-distiller.md in a copy of the project."""
    for folder in ("src", "tests", "tools", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    page = (ROOT / "docs" / "own-distiller.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^`([\w/.]+)`[^\n]*\n\n```python\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    for name, code in blocks:
        path = tmp_path / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        inside = "    return student, teacher\n\n\ndef extras("  # the end of through_own_layers
        path.write_text(old.replace(inside, code + inside) if inside in old else old + code, encoding="utf-8")

    def run(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/distillers/test_every_distiller.py", "-k", "channels"
    )
    assert int(re.findall(r"(\d+) passed", found)[0]) > 20
    assert "docs/distillers/channels.md" in run("tools/build_docs.py")
    assert "--options.bias true" in (tmp_path / "docs" / "distillers" / "channels.md").read_text(encoding="utf-8")
    assert "Channels: the mean of every channel." in run("-m", "spotkd.cli", "distillers")


def test_a_distiller_in_a_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[TinyNet, TinyNet], batch: Batch
) -> None:
    page = (ROOT / "docs" / "own-distiller.md").read_text(encoding="utf-8")
    code = re.findall(r"channels\.py`:\n\n```python\n(.*?)```", page, re.DOTALL)[0]
    code = code.replace("from ..", "from spotkd.").replace("from .base", "from spotkd.distillers.base")
    (tmp_path / "channels_of_mine.py").write_text(code.replace('@DISTILLERS.register("channels")\n', ""))
    monkeypatch.chdir(tmp_path)
    method = SpotKD(*pair, "python:channels_of_mine.Channels", "adaptive", image_shape=IMAGE_SHAPE)
    losses = method(batch)
    losses.total.backward()
    assert losses.distill.item() > 0
    assert torch.isfinite(losses.total)


ODD = ("the house", "to hear that it is yours", "shared code has it", "that note nothing", "the field shares")


def test_pages_are_in_plain_english() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("src/**/*.py")]
    texts = {path: " ".join(path.read_text(encoding="utf-8").split()) for path in pages}
    assert [(path.name, words) for path, text in texts.items() for words in ODD if words in text] == []
