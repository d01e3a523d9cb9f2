"""The study of strategies under hazards: balanced prefixes, cells made once, like compared with like."""

from __future__ import annotations

import csv
import re
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType

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


def chosen(folder: Path) -> Namespace:
    return Namespace(
        sets=["emoji10", "glyph94"], distillers=["at", "sp"], hazards=["none", "wrong:0.4"],
        strategies=["always", "trust"], seeds=2, out=folder,
    )  # fmt: skip


def row(page: ModuleType, *cell: object, test: float = 50.0, **more: object) -> dict[str, str]:
    values = dict(zip(page.COLUMNS, cell, strict=False)) | {"epochs": 5, "val": test, "test": test} | more
    return {name: str(values.get(name, "")) for name in page.COLUMNS}


def test_every_block_of_cells_is_a_balanced_study(tmp_path: Path, study: ModuleType) -> None:
    every = list(study.cells(chosen(tmp_path)))
    assert len(every) == len(set(every)) == 2 * 2 + 2 * 2 * 2 * 2 * 2
    block = [cell[0:1] + cell[3:] for cell in every[2:10]]
    assert sorted(block) == sorted(product(["emoji10", "glyph94"], ["none", "wrong:0.4"], ["always", "trust"]))


def test_finished_cells_are_not_made_again(tmp_path: Path, study: ModuleType, page: ModuleType) -> None:
    every = study.missing_cells(chosen(tmp_path))
    done = row(page, *every[3])
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([page.COLUMNS, done.values()])
    assert study.missing_cells(chosen(tmp_path)) == [cell for cell in every if cell != every[3]]


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


def rows_of_a_study(page: ModuleType) -> Iterator[dict[str, str]]:
    """``better`` gains 20 points under the hazard and nothing without; ``dear`` the same at twice the price."""
    for seed, distiller in product("12", ["at", "sp"]):
        luck = 3 * int(seed) + (distiller == "at")  # shared by what is compared
        for hazard, loss in (("none", 0), ("wrong:0.4", 30)):
            noise = 0.1 * (int(seed) - 1.5)
            yield row(page, "digits", seed, distiller, hazard, "always", test=80 + luck - loss, dose=1)
            for name in ("better", "dear"):
                test = 80 + luck - (10 if loss else 0) + noise
                yield row(page, "digits", seed, distiller, hazard, name, test=test, dose=0.5)
            test = 75 + luck + noise
            yield row(page, "digits", seed, distiller, hazard, "harmful", test=test, dose=0.1)


def test_only_students_of_the_same_seed_and_distiller_are_compared(page: ModuleType) -> None:
    rows = list(rows_of_a_study(page))
    differences = page.Results(rows).differences("digits", "wrong:0.4", "better")
    assert differences == pytest.approx([19.95, 19.95, 20.05, 20.05])
    effect = page.pool(differences)
    assert (effect.n, effect.mean) == (4, pytest.approx(20))
    assert 19.9 < effect.low < effect.high < 20.1
    assert page.pool([1.0, 2.0]).low is None  # too few for an interval
    assert page.Results(rows[1:]).differences("digits", "none", "better") == pytest.approx([-0.05, 0.05, 0.05])


def test_the_default_may_neither_harm_nor_be_dear(page: ModuleType) -> None:
    rows = list(rows_of_a_study(page))
    assert page.choose_default(page.Results(rows, COSTS)) == "better"
    assert page.choose_default(page.Results([r for r in rows if r["strategy"] != "better"], COSTS)) is None


def test_the_page_says_what_the_rows_do(page: ModuleType) -> None:
    text = "\n".join(page.page_lines(page.Results(rows_of_a_study(page), COSTS)))
    assert "32 students so far, on digits, with at, sp" in text
    assert "By these students: `better`, on clean data +0.0 [" in " ".join(text.split())
    assert "| `better` | 1.05 |" in text
    assert re.search(r"\| `better` \| \+0\.0 \[.*\] \(n = 4\) \| \+20\.0 \[.*\] \(n = 4\) \* \|", text)
