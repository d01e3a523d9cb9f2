"""The table in docs/security.md is what the commands do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from spotkd.cli.commands import COMMANDS

from . import recorded_commands

ROOT = Path(__file__).parents[1]
PLACES = {  # what the table's capitals stand for in `recorded_commands`, by command where that differs
    "RUN": "run", "RUN of train": "own", "RUN of trial": "apart/tried", "TEACHER": "teacher", "DATA": "set",
    "OUT": "made", "OUT of demo": "demo", "PICTURES": "set", "PLAN": "plan.yaml", "KEY": "settings", "BESIDE": "own/",
}  # fmt: skip


def read_table() -> dict[str, list[str]]:
    """The cells of each command's row."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    return {cells[0].strip("`"): cells[1:] for cells in rows if len(cells) == 5}


def test_every_command_has_a_row() -> None:
    assert set(read_table()) == set(COMMANDS) == set(recorded_commands.COMMANDS)


@pytest.mark.slow
@pytest.mark.process
def test_commands_do_what_the_table_says(tmp_path: Path) -> None:
    pytest.importorskip("optuna")  # which search needs
    settings = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "settings")}
    source = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "tests.recorded_commands"], cwd=tmp_path, check=False, capture_output=True, text=True,
        env=os.environ | settings | {"PYTHONPATH": source, "MPLCONFIGDIR": str(tmp_path / "matplotlib")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for command, (reads, writes, runs, _) in read_table().items():
        seen = found[command]
        assert not seen["connected"]
        assert seen["imported"] == (["mine"] if command == "train" else [])
        assert "command line" in runs or command not in ("train", "bench")
        written, read = place_patterns(writes, command, tmp_path), place_patterns(reads, command, tmp_path)
        strange = [f"{command} writes {path}" for path in seen["wrote"] if not is_among(path, written)]
        strange += [
            f"{command} reads {path}"
            for path in seen["read"]
            if not Path(path).is_dir() and not is_among(path, [*read, *written])
        ]
        assert not strange
        if command not in ("bench", "evaluate"):
            assert seen["wrote"], f"nothing of {command} was recorded"


def place_patterns(cell: str, command: str, here: Path) -> list[str]:
    """Patterns of the paths that a cell of the table allows."""
    tokens = re.findall(r"`([A-Z]+)(/[^`]*)?`", cell)
    return [f"{here}/{PLACES.get(f'{name} of {command}', PLACES[name])}{rest or '*'}" for name, rest in tokens]


def is_among(path: str, patterns: list[str]) -> bool:
    """Whether a path is allowed, or is the temporary name of one that is."""
    place = Path(path)
    name = place.name.rpartition(".")[0].lstrip(".")
    kept = place.with_name(name) if place.name.startswith(".") and name else place
    return any(fnmatch(str(one), pattern) for one in (place, kept) for pattern in patterns)


@pytest.mark.slow
@pytest.mark.process
def test_attacks_come_to_nothing() -> None:
    """A few of the thousand commands of benchmarks/attack.py, of another seed than its result in the docs."""
    attack = [sys.executable, str(ROOT / "benchmarks" / "attack.py"), "--commands", "25", "--seed", "2"]
    done = subprocess.run(attack, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 0 | 0 | 0 | 0 | 0 | 0 | 0 |" in done.stdout  # executions, writes outside, fetches, hangs ...
