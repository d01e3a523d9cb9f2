"""Every table of the benchmarks has its command and its data file, and their page is drawn from these."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from spotkd import MODELS

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load_script(name: str) -> Any:
    """A script of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


networks, regenerate = load_script("networks"), load_script("regenerate")
REGISTRY = regenerate.read_registry()
COMMANDS = [table["command"] for table in REGISTRY["tables"].values()]
COMMANDS += [command for _, made in REGISTRY["files"] for command in made]


def test_the_page_is_what_is_drawn() -> None:
    page = (FOLDER / "results" / "README.md").read_text(encoding="utf-8")
    assert page == regenerate.draw(REGISTRY), "python benchmarks/regenerate.py --draw"


def test_tables_survive_a_round_trip() -> None:
    for name in REGISTRY["tables"]:
        rows = regenerate.read_rows(regenerate.table_path(name))
        assert {len(row) for row in rows} == {len(rows[0])}, name
        assert regenerate.parse_table(f"before\n\n{regenerate.format_table(rows)}\nafter | all\n") == rows
    with pytest.raises(SystemExit, match="printed no table"):
        regenerate.parse_table("| a |\nno table")


def test_no_data_file_is_left_over() -> None:
    assert {path.stem for path in (FOLDER / "results" / "tables").iterdir()} == set(REGISTRY["tables"])
    for name, _ in REGISTRY["files"]:
        assert (FOLDER / "results" / name).is_file(), name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_every_script_that_prints_a_table_has_a_command(path: Path) -> None:
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    uses = {"balance_table.py": "balance.py", "study_page.py": "study.py", "regenerate.py": None}
    script = uses.get(path.name, path.name)
    if script is not None and any("|---|" in text for text in texts):
        assert any(f"benchmarks/{script}" in command for command in COMMANDS), path.name


@pytest.mark.process
def test_a_command_is_run_and_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regenerate, "RESULTS", tmp_path)
    (tmp_path / "tables").mkdir()
    script = tmp_path / "script.py"
    script.write_text("import os; print('| a | b |\\n|---|---|\\n| 1 |', os.environ['OMP_NUM_THREADS'], '|')")
    table: dict[str, Any] = {"title": "One", "command": f"python {script}", "threads": 1, "measured": "never"}
    registry = {"tables": {"one": table, "two": dict(table)}, "files": []}
    (tmp_path / "tables.yaml").write_text(
        "tables:\n" + "".join(f"  {name}:\n    title: One\n    measured: never\n" for name in registry["tables"])
    )
    regenerate.run("two", table)
    assert (tmp_path / "tables" / "two.csv").read_text() == "a,b\n1,1\n"
    found = regenerate.read_registry()["tables"]
    assert found["one"]["measured"] == "never"
    assert "torch" in found["two"]["measured"]
    script.write_text("print('| a |\\n|---|\\n| 1 |'); raise SystemExit(3)")
    with pytest.raises(SystemExit, match="ended with status 3; nothing is noted"):
        regenerate.run("two", table)
    assert (tmp_path / "tables" / "two.csv").read_text() == "a,b\n1,1\n"


def test_the_page_of_networks_is_what_was_measured() -> None:
    rows = networks.read_rows(FOLDER / "results" / "networks.csv")
    page = (FOLDER.parent / "docs" / "networks.md").read_text(encoding="utf-8")
    assert page == networks.page(rows), "python benchmarks/networks.py --out FILE --page docs/networks.md"
    assert set(MODELS) <= rows.keys()
    for name in ("resnet8", "ShuffleNetV1"):
        assert {key: str(value) for key, value in networks.measure(name, 100, 32).items()} == rows[name]
