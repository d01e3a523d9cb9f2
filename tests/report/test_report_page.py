"""The page tells what the runs' files tell, and nothing from outside becomes more than text."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from spotkd import SpotkdError
from spotkd.cli import main, read
from spotkd.data import load_glyph94
from spotkd.models import create_model
from spotkd.options import ReportOptions, with_values
from spotkd.report import find_runs, report_runs
from spotkd.report.charts import Drawing, LineChart, evenly_spaced
from spotkd.report.compare import compare
from spotkd.report.costs import network_cost
from spotkd.report.run_record import read_record
from spotkd.runs.folder import RunFolder

from ..hostile_runs import CLASSES, RUNS, copied

ROOT = Path(__file__).parents[2]
SPOTS = ["layer1", "layer2", "layer3", "logits"]


@pytest.fixture(scope="module")
def runs(hostile_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("report") / "runs" / "demo"
    with copied(hostile_runs, folder):
        yield {name: folder / name for name in RUNS}


@pytest.fixture(scope="module")
def page(runs: dict[str, Path]) -> str:
    folder = runs["sakd"].parent
    assert main(["report", str(folder), "--figures", str(folder / "figures"), "--trust"]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """The tags of a page, the tables of its figures, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._key, self._cell = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "figure":
            self._key = dict(attributes).get("data-key") or ""
        if tag == "tr":
            self.tables.setdefault(self._key, []).append([])
        if tag in ("td", "th"):
            self._cell = True
            self.tables[self._key][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[self._key][-1][-1] += data


def test_shares_are_those_of_the_metrics(runs: dict[str, Path], page: str) -> None:
    head, *rows = Reader(page).tables["sakd-shares"]
    assert head == ["epoch", *SPOTS]
    metrics = RunFolder(runs["sakd"]).metrics
    assert [[float(cell) for cell in row] for row in rows] == [
        [epoch, *(metrics[f"share_{spot}"][i] for spot in SPOTS)] for i, epoch in enumerate(metrics["epoch"])
    ]


def test_words_from_outside_stay_words(page: str) -> None:
    reader = Reader(page)
    assert all(name in reader.text for name in CLASSES)
    assert len([tag for tag, _ in reader.tags if tag == "script"]) == 1
    assert not [a for _, attributes in reader.tags for a in attributes if a.startswith("on")]
    sources = [attributes["src"] or "" for tag, attributes in reader.tags if tag == "img"]
    assert len(sources) == 2 * len(SPOTS) * 2 * len(CLASSES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"


def test_the_command_repeats_the_run(runs: dict[str, Path], page: str) -> None:
    for folder in runs.values():
        run = read_record(folder, "x")
        assert run.command in Reader(page).text
        program, command, *arguments = shlex.split(run.command)
        again = read(command, arguments)
        assert program == "spotkd"
        assert again.out == f"{folder}-again"
        assert with_values(again, {"out": run.options.out}) == run.options


@pytest.mark.slow
def test_the_commands_of_the_documentation_run(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that show the demo's runs, on runs of the same names."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/inspect-and-report.md")]
    lines = re.findall(r"^ *spotkd (.*runs/demo/?.*)$", "\n".join(pages), flags=re.MULTILINE)
    assert len(lines) == 6
    monkeypatch.chdir(runs["sakd"].parents[2])
    for line in lines:
        assert main(shlex.split(line)) == 0, line
    made = ("tables/inspect-test.csv", "runs/demo/report.html", "kd-and-sakd.html", "figures/accuracy.png")
    assert all(Path(name).is_file() for name in made)


def test_every_figure_is_drawn_for_papers(runs: dict[str, Path], page: str) -> None:
    folder = runs["sakd"].parent / "figures"
    keys = {a["data-key"] for tag, a in Reader(page).tags if tag == "figure" and a.get("data-key")}
    assert {path.stem for path in folder.glob("*.png")} == {path.stem for path in folder.glob("*.svg")} == keys
    assert len(keys) == 3 + 3 + 3 + 7  # together; teacher; KD (constant shares); SAKD with weights and two heat maps
    for path in folder.glob("*.png"):
        assert imread(path)[..., :3].std() > 0.05, f"{path.name} is blank"


def test_a_page_is_the_same_every_time(runs: dict[str, Path], page: str, tmp_path: Path) -> None:
    options = ReportOptions([str(runs["sakd"].parent)], out=str(tmp_path / "again.html"), trust=True)
    list(report_runs(find_runs(options.what), options))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_what_is_missing_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    """A run that was broken off, its teacher's weights gone: the page shows what is left."""
    shutil.copytree(runs["sakd"], tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "run" / name).unlink()
    assert main(["report", str(tmp_path / "run"), "--trust"]) == 0
    text = Reader((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "not finished: 3 of 3 epochs" in text
    assert "No decisions: " in text
    assert "last.ckpt: no such file" in text


def test_one_run_is_judged_by_what_lies_beside_it(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in RUNS:
        shutil.copytree(runs[name], tmp_path / name)
    arguments = ["report", str(tmp_path / "sakd"), "--out", str(tmp_path / "page.html"), "--trust"]
    assert main(arguments) == 0
    text = Reader((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "sakd (at, adaptive) is " in text
    assert "plain KD (kd, in the same folder): " in text
    assert "--distiller at" in text
    assert "sakd-always" in text, "the closest control is missing"
    (tmp_path / "kd" / "metrics.csv").write_text("nonsense")
    (tmp_path / "teacher" / "config.yaml").unlink()
    assert main(arguments) == 0
    text = Reader((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "sakd (at, adaptive) cannot be judged" in text
    assert "No control: " in text


def test_mistakes_are_one_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    shutil.copy(runs["kd"] / "config.yaml", tmp_path / "begun")
    for arguments, message in (
        ([str(runs["kd"]), "nowhere"], "nowhere: no run there; name folders of runs, or one plan"),
        ([str(tmp_path / "empty")], "no run there"),
        ([str(tmp_path / "begun")], "metrics.csv: cannot be read"),
        (["nosuchplan"], "nosuchplan"),
        (["glyph94-small", "--figures", "f"], "figures has no effect on the plan glyph94-small"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_comparison_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    old = np.array([0, 1, 1, 1, 0, 0, 2, 0])
    new = np.array([0, 0, 0, 1, 1, 2, 0, 0])
    found = compare(("old", old), ("new", new), labels, ("a", "b", "c"))
    assert (found.both, found.only_before, found.only_after, found.neither) == (2, 1, 3, 2)
    assert found.images == 8
    assert found.chance == pytest.approx(2 * (4 + 1) / 16)  # of four flips of a coin, one or none on one side
    assert [(c.true, c.guess, c.before, c.after) for c in found.fewer] == [("a", "b", 2, 0), ("b", "a", 2, 0)]
    assert [(c.true, c.guess, c.before, c.after) for c in found.more] == [("b", "c", 0, 1), ("c", "a", 1, 2)]


def test_costs_are_those_of_the_networks() -> None:
    """FLOPs of resnet8 by hand: two a product, in its convolutions and its classifier."""
    data = load_glyph94()
    found = network_cost("resnet8", data)
    assert found.parameters == sum(p.numel() for p in create_model("resnet8", 94).parameters())
    area, products = 32 * 32, 3 * 16 * 9 * 32 * 32
    for width_in, width, shrink in ((16, 16, 1), (16, 32, 4), (32, 64, 4)):
        area //= shrink
        products += area * 9 * (width_in * width + width * width)
        products += area * width_in * width if width_in != width else 0
    assert found.flops == 2 * (products + 64 * 94)


def test_a_chart_of_one_epoch_and_of_gaps() -> None:
    one = Drawing(LineChart("k", "t", "u", [1], {"a": [5.0]}))
    assert len(one.curves[0].marks) == 1
    gap = Drawing(LineChart("k", "t", "u", [1, 2, 3, 4], {"a": [0.0, None, float("nan"), 1.0]}, share=True))
    assert gap.curves[0].path.count("M") == 2
    assert [tick.text for tick in gap.y_ticks] == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert evenly_spaced(240, 40)[0] == 0
    assert evenly_spaced(240, 40)[-1] == 239


def test_a_plan_is_no_run(tmp_path: Path) -> None:
    assert find_runs(["glyph94-small"]) == []
    with pytest.raises(SpotkdError, match="no run there"):
        find_runs([str(tmp_path)])
