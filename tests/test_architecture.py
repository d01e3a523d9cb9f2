"""The floors of the house: a room imports only from rooms below it, and from no other package unannounced."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "spotkd"
FLOORS = [  # from the ground up; rooms on one floor do not know each other
    {"cores", "deprecation", "escaping", "formatting", "distributed", "statistics"},
    {"errors", "templates"},
    {"untrusted"},
    {"registry", "files", "precision", "stages", "options"},
    {"adapters", "teacher_cache", "staging", "folding", "losses"},
    {"models", "data", "distillers", "runtime"},
    {"routing", "runs"},
    {"spots", "teacher_student"},
    {"preparation"},
    {"method", "recipes"},
    {"compiling"},
    {"training"},
    {"analysis", "profiling"},
    {"experiments", "report"},
    {"demo", "deploy"},
    {"cli"},
    {"__main__"},
]
MATHEMATICS = {
    *("distillers", "routing", "adapters", "stages", "method", "losses", "spots"),
    *("teacher_student", "preparation", "teacher_cache"),
}
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def rooms_used_by(path: Path) -> set[str]:
    package = ["spotkd", *path.relative_to(SOURCE).parent.parts]
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            rooms |= {target[1]} if len(target) > 1 else {alias.name for alias in node.names}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_import_only_from_below(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert room in FLOOR, f"{room} has no floor: add it to FLOORS and to docs/design.md"
    for used in rooms_used_by(path) - {room}:
        assert FLOOR[used] < FLOOR[room], f"{room} imports from {used}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_mathematics_knows_no_files_and_no_devices(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in MATHEMATICS:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("cuda", "open(", "pathlib", "..config", "print(") if word in text]


@pytest.mark.parametrize("path", sorted((SOURCE / "data").glob("*.py")), ids=lambda path: path.name)
def test_data_know_no_options(path: Path) -> None:
    assert not rooms_used_by(path) & {"config", "options"}


@pytest.mark.parametrize("path", sorted((SOURCE / "untrusted").glob("*.py")), ids=lambda path: path.name)
def test_the_room_of_untrusted_bytes_knows_no_other(path: Path) -> None:
    assert rooms_used_by(path) <= {"errors", "untrusted"}


READERS = re.compile(r"""
    \bpickle\.(load|Unpickler|_Unpickler)|torch\.load\(|zipfile\.|tarfile\.|mmap\.|safe_open\(|load_file\(|
    Image\.open\(|\bfcntl\b
""", re.VERBOSE)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_one_room_opens_formats_that_strangers_can_abuse(path: Path) -> None:
    if path.parent.name != "untrusted":
        assert READERS.search(path.read_text(encoding="utf-8")) is None
