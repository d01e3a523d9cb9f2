"""The documentation site is built without a warning; the tutorial and the notebook run from top to bottom."""

from __future__ import annotations

import os
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tools.build_site import build, for_site, notebook_page, stage

from spotkd.cli import main

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "quickstart.ipynb"
FEW_TEST_IMAGES = """
from tests.conftest import few_glyphs
from spotkd import DATASETS
DATASETS._entries["glyph94"] = lambda options: few_glyphs(376, 282)
"""


class Page(HTMLParser):
    """What a page loads by itself, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif tag == "link":
            self.loaded.append(given.get("href", ""))
        elif "src" in given:
            self.loaded.append(given["src"])


@pytest.mark.process
@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    stage(tmp_path / "docs")
    done = build(tmp_path / "docs")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tmp_path / "docs" / "site"
    pages = {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert {"index.html", "tutorial.html", "faq.html", "distillers/at.html", "reference/python.html"} < pages.keys()
    assert {"notebooks/quickstart.html", "benchmarks/index.html", "CHANGELOG.html"} < pages.keys()
    for name, page in pages.items():
        assert page.loaded, name
        for target in [*page.loaded, *(link for link in page.links if not link.startswith(("https:", "#")))]:
            file = (site / name).parent / target.partition("#")[0]
            assert file.exists(), f"{name}: {target}"
    method = (site / "reference" / "SpotKD.html").read_text(encoding="utf-8")
    assert method.count("Spot-adaptive distillation of one batch.") >= 2  # above the example, and in the docstring
    assert ":class:" not in method
    kd = (site / "distillers" / "kd.html").read_text(encoding="utf-8")
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"><mrow><mi>L</mi>' in kd
    assert [name for name in pages if "arithmatex" in (site / name).read_text(encoding="utf-8")] == []


@pytest.mark.process
@pytest.mark.slow
def test_a_dead_link_or_a_page_that_no_one_finds_stops_the_build(tmp_path: Path) -> None:
    stage(tmp_path / "docs")
    with (tmp_path / "docs" / "pages" / "faq.md").open("a") as faq:
        faq.write("\n[gone](gone.md)\n")
    (tmp_path / "docs" / "pages" / "lost.md").write_text("# Lost\n")
    done = build(tmp_path / "docs")
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "lost.md" in done.stderr


def test_links_of_the_repository_become_links_of_the_site() -> None:
    text = "[a](../../benchmarks/README.md#distillers) [b](../strategies.md) [c](https://example.org/x.md) x[0](gone)"
    assert for_site(text, "docs/distillers/README.md") == text.replace("../../benchmarks", "../benchmarks")
    assert for_site("[p](../docs/performance.md)", "benchmarks/README.md") == "[p](../performance.md)"
    assert for_site("[r](../README.md) [n](notebooks/quickstart.ipynb)", "docs/faq.md") == (
        "[r](index.md) [n](notebooks/quickstart.md)"
    )


def test_the_notebook_is_kept_whole_and_small(tmp_path: Path) -> None:
    assert NOTEBOOK.stat().st_size < 200_000
    notebook = nbformat.read(NOTEBOOK, 4)
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))  # run once, from top to bottom
    page = notebook_page(notebook, tmp_path / "quickstart")
    assert [f"quickstart/{path.name}" in page for path in sorted((tmp_path / "quickstart").iterdir())] == [True, True]


@pytest.mark.process
@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell as it is shown, but for the numbers of images and of epochs."""
    notebook = nbformat.read(NOTEBOOK, 4)
    kept = [[output["output_type"] for output in cell.get("outputs", ())] for cell in notebook["cells"]]
    source = "\n".join(cell["source"] for cell in notebook["cells"])
    for shown, ours in (("limit=2820", "limit=376"), ("epochs=4", "epochs=1"), ("epochs=3", "epochs=1")):
        assert shown in source
        for cell in notebook["cells"]:
            cell["source"] = cell["source"].replace(shown, ours)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    notebook["cells"].insert(0, nbformat.v4.new_code_cell(FEW_TEST_IMAGES))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    made = [[output["output_type"] for output in cell.get("outputs", ())] for cell in notebook["cells"]]
    assert made == [[], *kept]


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command as printed but for the number of epochs, on pictures whose classes differ in colour."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 20)):
        for number, name in enumerate(("robin", "thrush", "wren")):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for picture in range(count):
                pixels = random.integers(0, 156, (32, 32, 3)) + 99 * np.eye(3, dtype=int)[number]
                Image.fromarray(pixels.astype(np.uint8)).save(
                    tmp_path / "pictures" / split / name / f"{picture:03}.png"
                )
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    commands = re.findall(r"^spotkd (.*)$", page.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        few = ["--epochs", "5"] if command.startswith(("train", "distill")) else []
        assert main([*shlex.split(command), *few]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "runs" / "sakd" / "inspect-train.csv").read_text().count("robin/") == 60
    named = re.findall(r"val/(\w+)/\d+\.png: (\w+) ", said)
    assert len(named) == 120  # two calls of predict
    assert sum(true == found for true, found in named) > 100

    # step 4 for those who have trained their teacher elsewhere
    import mine  # type: ignore[import-not-found]

    network = mine.big(3)
    network.load_state_dict(load_file(tmp_path / "runs" / "big" / "model.safetensors"))
    torch.save(network.state_dict(), "big.pt")
    distil = next(line for line in commands if "--out runs/student" in line) + " --epochs 1"
    for printed, ours in (("runs/big", "big.pt"), ("runs/student", "runs/elsewhere")):
        distil = distil.replace(printed, ours)
    assert main(shlex.split(distil)) == 0, capsys.readouterr().err
    sys.modules.pop("mine")  # other tests have modules of that name
