"""Reports: statistics, pairing by seed, what the tables say and what the files hold."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spotkd import DISTILLERS, SpotkdError, create_model
from spotkd.experiments.plan import Cell, Plan, cells
from spotkd.experiments.report import write_report
from spotkd.experiments.results import paired_difference, read_results
from spotkd.experiments.tables import method_name
from spotkd.models.weights import save_weights
from spotkd.options import TrainOptions
from spotkd.published import CAUTION, published_results
from spotkd.runs.layout import MODEL
from spotkd.runs.summary import Scores, Summary
from spotkd.training.assemble import open_writer

COMMAND = "spotkd bench mine.yaml"
LAST, VAL, TEST = "last epoch", "best on validation", "best on test"
TOP1 = {"teacher": 82.0, "alone": 79.0, "always": 80.0, "random": 80.0, "adaptive": 80.5}


def planned(**changes: Any) -> Plan:
    plan = Plan("a plan", ["glyph94"], ["wrn_40_2-resnet8"], {"kd": ["always"], "at": ["always", "adaptive"]})
    return replace(plan, **changes)


def top1_of(cell: Cell) -> float:
    """Seed 2 is 0.2 better than seed 1, and so on; SAKD gains half a point everywhere, and 0.1 more with each seed."""
    seed = cell.seed or 0
    return TOP1[cell.strategy or cell.kind] + seed * (0.3 if cell.strategy == "adaptive" else 0.2)


def finish(folder: Path, cell: Cell, top1: float, protocol: str = LAST, seconds: float = 1.0) -> None:
    """Leave what a run of ``cell`` leaves when it is finished."""
    last = Scores(top1=top1 - (protocol != LAST), top5=99.0, loss=0.5, images=1000)
    summary = Summary(
        model="", scores=last._replace(top1=top1), protocol=protocol, epoch=2, last=last, epochs=3, seconds=seconds,
        shares={}, folder=folder, device="cpu, 32-true", machine="a processor",
    )  # fmt: skip
    with open_writer(folder / cell.folder, TrainOptions(overwrite=True)) as run:
        run.finish(summary)


def finish_all(
    plan: Plan,
    folder: Path,
    wanted: Callable[[Cell], bool] = lambda cell: True,
    protocol: Callable[[Cell], str] = lambda cell: LAST,
) -> str:
    for cell in filter(wanted, cells(plan)):
        finish(folder, cell, top1_of(cell), protocol(cell))
    return write_report(plan, "mine", folder, COMMAND)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def method_row(folder: Path, distiller: str, strategy: str, data: str = "glyph94") -> dict[str, str]:
    wanted = {"data": data, "distiller": distiller, "strategy": strategy}
    (row,) = [row for row in table(folder / "report.csv") if wanted.items() <= row.items()]
    return row


def test_teachers_at_chance_are_remarked(tmp_path: Path) -> None:
    plan = planned(distillers=["kd"], strategies=["always"], seeds=[1])
    finish_all(plan, tmp_path)
    (teacher,) = [cell for cell in cells(plan) if cell.kind == "teacher"]
    for top1, remarked in ((1.1, True), (50.0, False)):
        shutil.rmtree(tmp_path / teacher.folder)
        finish(tmp_path, teacher, top1)
        noted = {"classes": [str(label) for label in range(94)]}
        save_weights(create_model("resnet8", 94), tmp_path / teacher.folder / MODEL, noted)
        report = write_report(plan, "mine", tmp_path, COMMAND)
        assert ("No better on the test images than guessing: wrn_40_2." in report.replace("\\", "")) == remarked
        assert "guesses" not in table(tmp_path / "runs.csv")[0]


def test_names_of_the_field() -> None:
    strategies = ("always", "adaptive", "anti", "random", "joint", "never")
    assert [method_name("at", strategy) for strategy in strategies] == [
        "AT", "SAKD-AT", "anti-SAKD-AT", "random-AT", "joint-SAKD-AT", "never-AT",
    ]  # fmt: skip
    assert {method_name(name, "always") for name in DISTILLERS} >= {"KD", "FitNet", "CRD", "DIST", "ReviewKD", "KDSVD"}
    assert method_name("python:my.own.Mine", "python:other.LateStart") == "LateStart-Mine"  # nothing is imported


def test_the_report(tmp_path: Path) -> None:
    plan = planned(
        pairs=["wrn_40_2-resnet8", "resnet20-resnet8"],
        options={"epochs": 3, "data": {"limit": 940}},
        policy={"target_share": 0.6},
        teacher={"epochs": 5},
        note="A word of warning.",
    )
    report = finish_all(plan, tmp_path)
    assert report == (tmp_path / "report.md").read_text(encoding="utf-8")
    # One standard deviation of 0.1 over three seeds: t = 4.303 times 0.1 over the root of 3 is 0.25.
    assert report.startswith("""# a plan

A word of warning.

## glyph94

### Accuracy

Test top-1 (%) after the last epoch: mean ± standard deviation over n = 3 seeds (1, 2, 3); the teacher is one run.

| teacher            | wrn_40_2     | resnet20     |
| ------------------ | ------------ | ------------ |
| student            | resnet8      | resnet8      |
| teacher's accuracy | 82.00        | 82.00        |
| student alone      | 79.40 ± 0.20 | 79.40 ± 0.20 |
| KD                 | 80.40 ± 0.20 | 80.40 ± 0.20 |
| AT                 | 80.40 ± 0.20 | 80.40 ± 0.20 |
| SAKD-AT            | 81.10 ± 0.30 | 81.10 ± 0.30 |

### Difference to the same distiller at every spot (always)

Percentage points of test top-1 after the last epoch, paired by seed: mean [95 % interval by Student's t], n = 3 seeds.

| teacher | wrn_40_2             | resnet20             |
| ------- | -------------------- | -------------------- |
| student | resnet8              | resnet8              |
| SAKD-AT | +0.70 [+0.45, +0.95] | +0.70 [+0.45, +0.95] |

With n = 3 an interval reaches 2.5 standard deviations of the differences to either side (with n = 10: 0.7): it is \
very wide and says little.

### Difference to the student alone
""")
    assert "| KD      | +1.00 [+1.00, +1.00] |" in report
    assert "every teacher is one run" in report
    made = report[report.index("## How it was made") :]
    assert "- command: `spotkd bench mine.yaml`\n" in made
    assert "`{epochs: 3, data: {limit: 940}}`" in made
    assert "`{target_share: 0.6}`" in made
    assert "teachers: `{epochs: 5}`" in made
    assert "- hardware: a processor (cpu, 32-true)\n" in made
    assert re.search(r"- versions: spotkd \S+, PyTorch \S+, Python 3\S+\n", made)
    assert "inished" not in report
    tables = re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE)
    assert len(tables) == 3
    for lines in tables:  # aligned, for those who read it in a terminal
        assert len({tuple(match.start() for match in re.finditer(r"\|", line)) for line in lines.splitlines()}) == 1


def test_seeds_are_paired_difference(tmp_path: Path) -> None:
    plan = planned()
    missing = {
        Cell("distill", "glyph94", "wrn_40_2", "resnet8", "at", strategy, seed)
        for strategy, seed in (("always", 2), ("adaptive", 3))
    }
    report = finish_all(plan, tmp_path, lambda cell: cell not in missing)
    row = method_row(tmp_path, "at", "adaptive")
    assert (row["n"], row["planned"], row["to_always_n"], row["to_alone_n"]) == ("2", "3", "1", "2")
    assert float(row["to_always"]) == pytest.approx(0.6)  # of seed 1, the only one that both have
    assert row["to_always_low"] == row["to_always_high"] == ""
    assert "| SAKD-AT            | 80.95 ± 0.21 (2/3) |" in report
    assert "| SAKD-AT | +0.60 (1/3) |" in report
    assert "(n/3) marks where only n of the 3 seeds have both runs. A single seed has no interval" in report
    assert "**11 of 13 runs are finished**" in report
    results, absent = read_results(plan, tmp_path)
    assert set(absent) == missing
    assert [result.cell for result in results] == [cell for cell in cells(plan) if cell not in missing]


def test_what_is_compared_met_the_same_hazard(tmp_path: Path) -> None:
    plan = planned(hazards=["none", "wrong:0.4"])
    harm = {"always": 30.0, "adaptive": 10.0}
    for cell in cells(plan):
        finish(tmp_path, cell, top1_of(cell) - (harm[cell.strategy] if cell.hazard else 0.0))
    report = write_report(plan, "mine", tmp_path, COMMAND)
    rows = {row["hazard"]: row for row in table(tmp_path / "report.csv") if row["strategy"] == "adaptive"}
    assert float(rows[""]["to_always"]) == pytest.approx(0.7)
    assert float(rows["wrong:0.4"]["to_always"]) == pytest.approx(20.7)
    assert "| SAKD-AT, wrong:0.4 | 71.10" in report
    assert "| SAKD-AT            | 81.10" in report


def test_the_papers_numbers_stand_beside_ours(tmp_path: Path) -> None:
    pair = "wrn_40_2-wrn_16_2"
    report = finish_all(planned(data=["glyph94", "cifar100"], pairs=[pair]), tmp_path)
    _, _, ours = report.partition("cifar100")
    published = published_results()["cifar100", "at", "wrn_40_2", "wrn_16_2"]
    assert f"in the paper's tables: {CAUTION}." in ours
    assert f"| AT      | {published.standard:.2f}" in ours
    assert f"| SAKD-AT | {published.sakd:.2f}" in ours
    assert report.count("In the paper") == 1  # of CIFAR-100 alone


def test_one_seed_tells_nothing_of_chance(tmp_path: Path) -> None:
    report = finish_all(planned(seeds=[7]), tmp_path)
    assert "after the last epoch: one run each, seed 7; the teacher is one run." in report
    assert "| SAKD-AT            | 82.60    |" in report
    assert "paired by seed: one seed." in report
    assert "| SAKD-AT | +1.20    |" in report
    assert "A single seed has no interval: nothing tells its difference from chance." in report
    assert "±" not in report
    row = method_row(tmp_path, "at", "adaptive")
    assert (row["n"], row["std"], row["to_always_low"]) == ("1", "", "")


@pytest.mark.slow
def test_enough_seeds_need_no_caution_but_many_intervals_do(tmp_path: Path) -> None:
    report = finish_all(planned(seeds=[1, 2, 3, 4, 5]), tmp_path / "few")
    assert "says little" not in report
    assert "by chance" not in report
    distillers = {name: ["always", "random"] for name in DISTILLERS if name not in ("kd", "dkd")}
    plan = planned(pairs=["resnet20-resnet8", "resnet14-resnet8"], distillers=distillers, seeds=[1, 2])
    report = finish_all(plan, tmp_path / "many")
    assert "With n = 2 an interval reaches 9.0 standard deviations" in report
    assert (
        f"about 2 of these {2 * len(distillers)} intervals would leave out 0 by chance" in report
    )  # one for each pair


@pytest.mark.parametrize(
    ("protocol", "words"), [(VAL, "that is best on the validation images"), (TEST, "that is best on the test images")]
)
def test_another_epoch_than_the_last(tmp_path: Path, protocol: str, words: str) -> None:
    report = finish_all(planned(), tmp_path, protocol=lambda cell: protocol)
    chosen, last, *_ = report.split("\n### ")[1:]
    assert f"Test top-1 (%) at the epoch {words}: mean" in chosen
    assert "| SAKD-AT            | 81.10 ± 0.30 |" in chosen
    assert ("chooses the epoch on the test images, which flatters" in chosen) == (protocol == TEST)
    assert last.startswith("Accuracy after the last epoch\n")  # which is always shown
    assert "| SAKD-AT            | 80.10 ± 0.30 |" in last
    assert f"Percentage points of test top-1 at the epoch {words}" in report
    row = method_row(tmp_path, "at", "adaptive")
    assert row["protocol"] == protocol
    assert (float(row["mean"]), float(row["last_mean"])) == pytest.approx((81.1, 80.1))


def test_mixed_protocols_are_named_and_never_compared(tmp_path: Path) -> None:
    def protocol(cell: Cell) -> str:
        return TEST if cell.distiller == "kd" or (cell.strategy, cell.seed) == ("adaptive", 1) else LAST

    report = finish_all(planned(), tmp_path, protocol=protocol)
    assert "at the epoch that each run's own protocol chooses" in report
    assert (
        "comparable only within one. Best on test: KD, SAKD-AT (wrn_40_2-resnet8 at adaptive seed1); last epoch: "
        in (report)
    )
    assert "teacher's accuracy, student alone, AT, SAKD-AT (wrn_40_2-resnet8 at adaptive seed2, " in report
    assert "which flatters" in report
    assert "Only runs under the same protocol are compared." in report
    assert re.search(r"\| KD +\| - +\|", report)
    assert method_row(tmp_path, "kd", "always")["to_alone_n"] == ""
    assert method_row(tmp_path, "at", "adaptive")["to_always_n"] == "2"
    assert method_row(tmp_path, "at", "adaptive")["protocol"] == "best on test; last epoch"


def test_pairing_needs_seed_and_protocol(tmp_path: Path) -> None:
    finish_all(planned(), tmp_path)
    results, _ = read_results(planned(), tmp_path)
    ours = [result for result in results if result.cell.strategy == "adaptive"]
    theirs = [result for result in results if (result.cell.distiller, result.cell.strategy) == ("at", "always")]
    found = paired_difference(ours, reversed(theirs))
    assert found is not None
    assert (found.n, found.mean, found.std) == pytest.approx((3, 0.7, 0.1))
    assert paired_difference(ours, [replace(result, protocol=VAL) for result in theirs]) is None
    assert paired_difference(ours, []) is None


def test_failed_and_waiting_runs_are_listed(tmp_path: Path) -> None:
    plan = planned()
    for cell in cells(plan):
        if cell.strategy == "adaptive" and cell.seed == 1:
            (tmp_path / cell.folder).mkdir(parents=True)
            (tmp_path / cell.folder / "error.txt").write_text("epoch 1: not finite: `loss`\n")
    report = finish_all(plan, tmp_path, lambda cell: cell.strategy != "adaptive")
    listed = report[report.index("## Not finished") :].splitlines()[2:]
    assert listed == [
        "- glyph94 wrn_40_2-resnet8 at adaptive seed1: failed: `epoch 1: not finite: 'loss'`",
        "- glyph94 wrn_40_2-resnet8 at adaptive: not run yet: seed 2, 3",
    ]
    assert re.search(r"\| SAKD-AT +\| - +\|", report)
    row = method_row(tmp_path, "at", "adaptive")
    assert (row["n"], row["mean"], row["to_always"], row["protocol"]) == ("0", "", "", "")


def test_without_baselines_and_without_students_alone(tmp_path: Path) -> None:
    report = finish_all(planned(distillers={"at": ["adaptive"]}, alone=False), tmp_path / "a")
    assert "Difference" not in report
    assert "student alone" not in report
    assert "every teacher" not in report
    report = finish_all(planned(distillers=[]), tmp_path / "b")
    assert "| student alone | 79.40 ± 0.20 |" in report
    assert "teacher is one run" not in report


def test_data_sets_have_tables_of_their_own(tmp_path: Path) -> None:
    plan = planned(data=["glyph94", "cifar10", "cifar100"])
    report = finish_all(plan, tmp_path, lambda cell: cell.data != "cifar10")
    assert re.findall(r"^## (.*)", report, re.MULTILINE) == ["glyph94", "cifar100", "How it was made", "Not finished"]
    assert "- cifar10 teachers wrn_40_2: not run yet\n" in report
    assert "- cifar10 alone resnet8: not run yet: seed 1, 2, 3\n" in report
    assert report.count("| SAKD-AT            | 81.10 ± 0.30 |") == 2


def test_two_of_ones_own_by_one_name(tmp_path: Path) -> None:
    own = {"python:one.Mine": ["always"], "python:two.Mine": ["always"]}
    report = finish_all(planned(distillers=own), tmp_path)
    assert "| Mine (python:one.Mine always) |" in report
    assert "| Mine (python:two.Mine always) |" in report


def test_tables_for_computing_on(tmp_path: Path) -> None:
    plan = planned(data=["glyph94", "cifar100"])
    finish_all(plan, tmp_path)
    runs = table(tmp_path / "runs.csv")
    assert len(runs) == len(cells(plan))
    for row, cell in zip(runs, cells(plan), strict=True):
        expected = {key: "" if value is None else str(value) for key, value in asdict(cell).items()}
        assert {key: row[key] for key in expected} == expected
        assert float(row["top1"]) == float(row["last_top1"]) == top1_of(cell)
        assert (row["epoch"], row["epochs"], row["protocol"]) == ("2", "3", LAST)
    methods = table(tmp_path / "report.csv")
    assert len(methods) == len({replace(cell, seed=None) for cell in cells(plan)})
    for row in methods:
        alike = [float(run["top1"]) for run in runs if all(run[key] == row[key] for key in list(row)[:6])]
        assert int(row["n"]) == len(alike)
        assert float(row["mean"]) == pytest.approx(np.mean(alike))
        assert row["std"] == "" if len(alike) == 1 else float(row["std"]) == pytest.approx(np.std(alike, ddof=1))
    row = method_row(tmp_path, "at", "adaptive", "cifar100")
    half = 4.303 * 0.1 / math.sqrt(3)
    difference = [float(row[key]) for key in ("to_always", "to_always_low", "to_always_high")]
    assert difference == pytest.approx([0.7, 0.7 - half, 0.7 + half], abs=1e-4)
    assert method_row(tmp_path, "at", "always", "cifar100")["to_always"] == ""


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    plan, everything = planned(), cells(planned())
    for folder, order, seconds in (("one", everything, 1.0), ("two", everything[::-1], 54321.5)):
        for cell in order:
            finish(tmp_path / folder, cell, top1_of(cell), seconds=seconds)
        write_report(plan, "mine", tmp_path / folder, COMMAND)
    for file in ("report.md", "report.csv", "runs.csv", "report.tex"):
        before = (tmp_path / "one" / file).read_bytes()
        assert before == (tmp_path / "two" / file).read_bytes()
        write_report(plan, "mine", tmp_path / "one", COMMAND)
        assert before == (tmp_path / "one" / file).read_bytes()
        assert b"54321" not in before


def test_mistakes(tmp_path: Path) -> None:
    plan = planned()
    with pytest.raises(SpotkdError, match=r"no run of the plan mine is finished; 'spotkd bench mine\.yaml' runs it"):
        write_report(plan, "mine", tmp_path / "nowhere", COMMAND)
    finish_all(plan, tmp_path)
    path = tmp_path / cells(plan)[1].folder / "summary.json"
    whole = path.read_text()
    for text in (
        whole[:40],
        "",
        "[]",
        "{}",
        whole.replace('"top1"', '"top"'),
        whole.replace('"epoch": 2', '"epoch": []'),
    ):
        path.write_text(text)
        with pytest.raises(SpotkdError, match="damaged or not the summary of a run") as caught:
            write_report(plan, "mine", tmp_path, COMMAND)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def check_latex(text: str) -> None:
    """Braces and environments close, every row has as many cells as its table has columns, nothing is unescaped."""
    bare = re.sub(r"\\[&%$#_{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    environments: list[str] = []
    columns = 0
    for line in text.splitlines():
        if line.startswith("%"):
            continue
        for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", line):
            if what == "begin":
                environments.append(name)
            else:
                assert environments.pop() == name
        if r"\begin{tabular}" in line:
            columns = len(re.sub(r"@\{\}|\\begin\{tabular\}|[{}]", "", line))
        content = re.sub(r"~?\\(label|ref)\{[^}]*\}|\\[&%$#_{}]", "", line)
        assert not set("%#_^~|±") & set(content), line
        assert content.count("$") % 2 == 0
        if content.endswith(r" \\"):
            assert content.count("&") == columns - 1, line
    assert not environments


@pytest.fixture
def latex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report's LaTeX, of a plan with names that LaTeX would obey."""
    plan = planned(
        data=["glyph94", "folder:/a_b/50%&$#{}~^\\<x>"],
        pairs=["wrn_40_2-wrn_16_2", "resnet20-resnet8", "resnet14-resnet8"],
        distillers={name: ["always", "adaptive"] for name in DISTILLERS},
        seeds=[1, 2],
    )
    monkeypatch.setitem(TOP1, "adaptive", 79.0)  # some differences are negative
    finish_all(plan, tmp_path, lambda cell: (cell.distiller, cell.seed) != ("crd", 2))
    return (tmp_path / "report.tex").read_text(encoding="utf-8")


@pytest.mark.slow
def test_latex(latex: str) -> None:
    text = latex
    check_latex(text)
    assert text.startswith("% Made by: spotkd bench mine.yaml\n% Needs \\usepackage{booktabs}.\n")
    assert r"wrn\_40\_2" in text
    assert "wrn_40_2" not in text
    assert r"80.30 $\pm$ 0.14" in text
    assert r"$-$0.85" in text
    assert r"\label{tab:mine-glyph94-accuracy}" in text
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels)
    assert set(re.findall(r"\\ref\{(.*?)\}", text)) <= set(labels)
    assert max(len(part.splitlines()) for part in text.split(r"\begin{table}")) < 65  # a page holds it


@pytest.mark.process
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_is_typeset(latex: str, tmp_path: Path) -> None:
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{report}\end{document}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-draftmode", "-halt-on-error", "all"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
