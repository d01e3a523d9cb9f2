"""The study of rules for a distiller's weight: what was stopped is made again, and only like is compared with like."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROW = ("emoji10", 1, "at", "lower", 1.0, 60, "onecycle", 0.1, 50.0, 50.0, 1.0)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import balance

    return balance


def chosen(folder: Path, **changes: object) -> Namespace:
    values: dict[str, object] = {
        "sets": ["emoji10"],
        "distillers": ["at", "sp"],
        "rules": ["none", "lower:1"],
        "seeds": 1,
    }
    values |= {"schedule": "onecycle", "lr": 0.1, "epochs": None, "out": folder}
    return Namespace(**values | changes)


def write(folder: Path, rows: Sequence[Sequence[object]], teacher: bool = True) -> None:
    with (folder / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    if teacher:
        (folder / "teacher-emoji10.pt").touch()


def test_every_cell_without_a_row_is_made(tmp_path: Path, study: ModuleType) -> None:
    every = study.missing_cells(chosen(tmp_path))
    assert every == study.cells(chosen(tmp_path))
    teacher = ("emoji10", 0, "", "teacher", 0.0, *ROW[5:])
    write(tmp_path, [teacher, ROW])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "emoji10-1-sp-lower-1.0-onecycle-0.1").touch()  # a worker was stopped in it
    left = study.missing_cells(chosen(tmp_path))
    assert left == [cell for cell in every if cell not in {study.Cell(*teacher[:5]), study.Cell(*ROW[:5])}]
    assert study.Cell("emoji10", 1, "sp", "lower", 1.0) in left


def test_students_of_another_setting_or_teacher_do_not_mix(tmp_path: Path, study: ModuleType) -> None:
    write(tmp_path, [ROW])
    with pytest.raises(SystemExit, match=r"holds emoji10 under \(60, 'onecycle', 0.1\)"):
        study.missing_cells(chosen(tmp_path, epochs=20))
    (tmp_path / "teacher-emoji10.pt").unlink()
    with pytest.raises(SystemExit, match=r"teacher-emoji10\.pt is not there"):
        study.missing_cells(chosen(tmp_path))


def test_differences_are_between_students_of_one_seed(study: ModuleType) -> None:
    from balance_table import COLUMNS, Study

    def row(seed: int, distiller: str, rule: str, val: float) -> dict[str, str]:
        values = ("emoji10", seed, distiller, rule, 1.0, 60, "onecycle", 0.1, val, 0.0, 1.0)
        return dict(zip(COLUMNS, map(str, values), strict=True))

    rows = [row(1, "kd", "none", 40), row(2, "kd", "none", 50), row(1, "at", "none", 41), row(2, "at", "lower", 53)]
    found = Study([*rows, row(1, "at", "lower", 44)], "val")
    (name,) = found.sets
    assert found.differences(name, ("at", "lower:1"), ("kd", "none:1")) == [4, 3]
    assert found.against(name, "lower:1", None) == [[3]], "the published weight has one seed alone"
