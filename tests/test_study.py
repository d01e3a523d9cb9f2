"""The study of strategies under hazards: balanced prefixes, cells made once, like compared with like."""

from __future__ import annotations

import csv
import re
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from spotkd.stages import Batch


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module("study")


@pytest.fixture
def page(study: ModuleType) -> ModuleType:
    return import_module("study_page")


@pytest.fixture
def numbers(study: ModuleType) -> ModuleType:
    return import_module("study_results")


def chosen(folder: Path) -> Namespace:
    return Namespace(
        sets=["emoji10", "glyph94"], distillers=["at", "sp"], hazards=["none", "wrong:0.4"],
        strategies=["always", "trust"], seeds=2, out=folder, plan="all", teachers=2, jobs=2, minutes=1.0,
    )  # fmt: skip


def row(numbers: ModuleType, *cell: object, test: float = 50.0, **more: object) -> dict[str, str]:
    values = dict(zip(numbers.COLUMNS, cell, strict=False)) | {"epochs": 5, "val": test, "test": test} | more
    return {name: str(values.get(name, "")) for name in numbers.COLUMNS}


def test_every_block_of_cells_is_a_balanced_study(tmp_path: Path, study: ModuleType) -> None:
    every = list(study.cells(chosen(tmp_path)))
    assert len(every) == len(set(every)) == 2 * 2 + 2 * 2 * 2 * 2 * 2
    block = [cell[0:1] + cell[3:] for cell in every[2:10]]
    assert sorted(block) == sorted(product(["emoji10", "glyph94"], ["none", "wrong:0.4"], ["always", "trust"]))


def test_finished_cells_are_not_made_again(tmp_path: Path, study: ModuleType, numbers: ModuleType) -> None:
    every = study.missing_cells(chosen(tmp_path))
    done = row(numbers, *every[3])
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([numbers.COLUMNS, done.values()])
    assert study.missing_cells(chosen(tmp_path)) == [cell for cell in every if cell != every[3]]


def test_a_cell_that_needs_a_dose_waits_for_it(
    tmp_path: Path, study: ModuleType, numbers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are made in the order of the cells, but for those whose dose is another's; every cell has one."""
    options = chosen(tmp_path)
    options.strategies = ["random@trust", "always", "random@never", "trust"]
    cells, given = [cell for cell in study.cells(options) if cell.distiller][:8], {}

    def run_cell(cell: Any, _: Namespace, dose: float) -> list[Any]:
        given[cell] = dose
        return list(row(numbers, *cell, dose=0.25 + cell.seed).values())

    monkeypatch.setattr(study, "run_cell", run_cell)
    with ThreadPoolExecutor(2) as pool:
        study._train_all(cells, options, time.time() + 60, pool)
    found = [study._cell(each) for each in numbers.read_rows(tmp_path / "results.csv")]
    assert sorted(found) == sorted(cell for cell in cells if cell.strategy != "random@never")
    assert {given[cell] for cell in found} == {0.0, 1.25}
    assert all((given[cell] == 1.25) == (cell.strategy == "random@trust") for cell in found)


def test_the_plan_of_trust_has_several_teachers_of_each_set(tmp_path: Path, study: ModuleType) -> None:
    options = chosen(tmp_path)
    options.plan = "trust"
    every = list(study.cells(options))
    assert len(every) == len(set(every)) == 2 * 2 * len(study.TRUST_CELLS) * len(study.TRUST_STRATEGIES)
    assert {cell.set for cell in every} == {"emoji10@1", "emoji10@2", "glyph94@1", "glyph94@2"}
    assert all(cell.seed == 1 for cell in every[: len(every) // 2])


def test_differences_are_pooled_over_teachers(numbers: ModuleType) -> None:
    rows = [
        row(numbers, f"digits@{teacher}", seed, "kd", "none", strategy, val=50 + seed + gain * teacher, dose=1.0)
        for teacher, seed, (strategy, gain) in product((1, 2), (1, 2), (("always", 0), ("trust", 2)))
    ]
    lines = list(numbers.summary_lines(rows, "val"))
    assert "always               0 (2 teachers, n = 4)" in lines[0]
    assert "trust                +3.00 +- 12.71 (2 teachers, n = 4)" in lines[1]  # 12.706 * sqrt(2) / sqrt(2)


def test_what_is_refused_is_that_of_the_last_epoch(study: ModuleType) -> None:
    is_damaged = torch.tensor([True, False, False, True])
    watch = study.Watch(is_damaged, steps=1)
    batch = Batch(torch.zeros(4, 3, 2, 2), torch.zeros(4), torch.arange(4))
    watch.add(torch.ones(4, 2), batch)
    watch.add(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.4, 1.0]]), batch)
    dose, damaged, intact = watch.read()
    assert dose == pytest.approx((1 + 4.4 / 8) / 2)
    assert (damaged, intact) == (0.75, 0.25)


COSTS = [{"strategy": name, "cost": cost} for name, cost in (("better", "1.05"), ("dear", "2.0"), ("harmful", "1.0"))]


def rows_of_a_study(numbers: ModuleType) -> Iterator[dict[str, str]]:
    """``better`` gains 20 points under the hazard and nothing without; ``dear`` the same at twice the price."""
    for seed, distiller in product("12", ["at", "sp"]):
        luck = 3 * int(seed) + (distiller == "at")  # shared by what is compared
        for hazard, loss in (("none", 0), ("wrong:0.4", 30)):
            noise = 0.1 * (int(seed) - 1.5)
            yield row(numbers, "digits", seed, distiller, hazard, "always", test=80 + luck - loss, dose=1)
            for name in ("better", "dear"):
                test = 80 + luck - (10 if loss else 0) + noise
                yield row(numbers, "digits", seed, distiller, hazard, name, test=test, dose=0.5)
            test = 75 + luck + noise
            yield row(numbers, "digits", seed, distiller, hazard, "harmful", test=test, dose=0.1)


def test_only_students_of_the_same_seed_and_distiller_are_compared(numbers: ModuleType) -> None:
    rows = list(rows_of_a_study(numbers))
    differences = numbers.Results(rows).differences("digits", "wrong:0.4", "better")
    assert differences == pytest.approx([19.95, 19.95, 20.05, 20.05])
    effect = numbers.pool(differences)
    assert (effect.n, effect.mean) == (4, pytest.approx(20))
    assert 19.9 < effect.low < effect.high < 20.1
    assert numbers.pool([1.0, 2.0]).low is None  # too few for an interval
    assert numbers.Results(rows[1:]).differences("digits", "none", "better") == pytest.approx([-0.05, 0.05, 0.05])


def test_the_default_may_neither_harm_nor_be_dear(numbers: ModuleType) -> None:
    rows = list(rows_of_a_study(numbers))
    assert numbers.choose_default(numbers.Results(rows, COSTS)) == "better"
    assert numbers.choose_default(numbers.Results([r for r in rows if r["strategy"] != "better"], COSTS)) is None


def test_the_page_says_what_the_rows_do(page: ModuleType, numbers: ModuleType) -> None:
    text = "\n".join(page.page_lines(numbers.Results(rows_of_a_study(numbers), COSTS)))
    assert "32 students so far, on digits, with at, sp" in text
    assert "By these students: `better`." in " ".join(text.split())
    assert re.search(r"\| `dear` \| \+0\.0 \[.*\| 2\.00 \| \+20\.0 \[.*\| no \|", text)
    assert "| `better` | 1.05 |" in text
    assert re.search(r"\| `better` \| \+0\.0 \[.*\] \(n = 4\) \| \+20\.0 \[.*\] \(n = 4\) \* \|", text)
