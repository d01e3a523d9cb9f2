"""Modules import only from modules below them; options stop at the door; only runs/ reads and writes runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "spotkd"
LAYERS = [  # from the ground up; modules on one layer do not know each other
    {"cores", "deprecation", "escaping", "formatting", "notebook", "distributed", "statistics", "published"},
    {"errors", "templates"},
    {"untrusted"},
    {"registry", "files", "precision", "stages", "options"},
    {"adapters", "committee", "teacher_cache", "staging", "folding", "losses", "balance", "config"},
    {"models", "data", "distillers", "runtime"},
    {"routing", "runs"},
    {"spots", "teacher_student"},
    {"preparation"},
    {"routed_method"},
    {"method", "recipes"},
    {"compiling", "recording"},
    {"training"},
    {"analysis", "profiling"},
    {"experiments", "report"},
    {"demo", "deploy", "search"},
    {"cli"},
    {"__main__"},
]
MATHEMATICS = {
    *("distillers", "routing", "adapters", "committee", "stages", "method", "losses", "spots"),
    *("teacher_student", "preparation", "routed_method", "teacher_cache"),
}
LAYER = {module: level for level, modules in enumerate(LAYERS) for module in modules}
MOST_LINES, LONGEST_FUNCTION = 350, 60
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def modules_used_by(path: Path) -> set[str]:
    package = ["spotkd", *path.relative_to(SOURCE).parent.parts]
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            modules |= {target[1]} if len(target) > 1 else {alias.name for alias in node.names}
    return modules - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_import_only_from_below(path: Path) -> None:
    module = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert module in LAYER, f"{module} has no layer: add it to LAYERS and to docs/design.md"
    for used in modules_used_by(path) - {module}:
        assert LAYER[used] < LAYER[module], f"{module} imports from {used}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_mathematics_knows_no_files_and_no_devices(path: Path) -> None:
    module = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if module in MATHEMATICS:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("cuda", "open(", "pathlib", "..options", "print(") if word in text]


@pytest.mark.parametrize("path", sorted((SOURCE / "data").glob("*.py")), ids=lambda path: path.name)
def test_data_know_no_options(path: Path) -> None:
    assert not modules_used_by(path) & {"config", "options"}


@pytest.mark.parametrize("path", sorted((SOURCE / "untrusted").glob("*.py")), ids=lambda path: path.name)
def test_the_module_of_untrusted_bytes_knows_no_other(path: Path) -> None:
    assert modules_used_by(path) <= {"errors", "untrusted"}


READERS = re.compile(r"""
    \bpickle\.(load|Unpickler|_Unpickler)|torch\.load\(|zipfile\.|tarfile\.|mmap\.|safe_open\(|load_file\(|
    Image\.open\(|\bfcntl\b
""", re.VERBOSE)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_one_module_opens_formats_that_strangers_can_abuse(path: Path) -> None:
    if path.parent.name != "untrusted":
        assert READERS.search(path.read_text(encoding="utf-8")) is None


def imported_modules(path: Path) -> set[Path]:
    """The modules of the package that importing ``path`` imports; not what is for the type checker alone."""
    package = ["spotkd", *path.relative_to(SOURCE).parent.parts]
    found: set[Path] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in checked:
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for parts in (base, *([*base, alias.name] for alias in node.names)):
                target = SOURCE.joinpath(*parts[1:])
                found |= {file for file in (target.with_suffix(".py"), target / "__init__.py") if file.is_file()}
    return found - {SOURCE / "__init__.py"}


def test_nothing_under_the_loop_imports_options() -> None:
    reached, waiting = set(), [SOURCE / "training" / "loop.py"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting += imported_modules(path) - reached - set(waiting)
    assert {SOURCE / "losses.py", SOURCE / "runs" / "writer.py"} <= reached  # it does follow imports
    assert not [str(path) for path in reached if "options" in path.relative_to(SOURCE).parts]


@pytest.mark.process
def test_the_loop_is_imported_without_options() -> None:
    code = "import sys, spotkd.training.loop; sys.exit([m for m in sys.modules if 'spotkd.options' in m] or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


RUN_FILES = re.compile(
    r"""["'](config\.yaml|metrics\.csv|decisions\.csv|summary\.json|(last|previous|damaged|prepared)\.ckpt|"""
    r"""preparation\.csv|nonfinite\.json|loggers\.json|error\.txt|log\.txt|options\.yaml|"""
    r"""(student|model|teacher)\.safetensors)["']"""
)
OPENS = re.compile(r"(layout\.[A-Z]+|run\.(path|folder)|summary\.folder).*\b(open|read_text|write_text|loads?|touch)\(")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_one_module_opens_the_files_of_a_run(path: Path) -> None:
    if path.parent.name == "runs":
        return
    text = path.read_text(encoding="utf-8")
    if path == SOURCE / "models" / "weights.py":  # which of its files holds the weights of a folder that is named
        text = text.replace('WEIGHT_FILES = ("student.safetensors", "model.safetensors")', "")
    assert RUN_FILES.search(text) is None
    assert OPENS.search(text) is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_and_no_function_is_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


# Every module outside of options/ through which the options of a run pass, from the words of a command to the run.
KNOW_OPTIONS_OF_A_RUN = {
    "cli/commands.py", "cli/arguments.py", "recipes.py", "runs/folder.py", "training/jobs.py", "training/build.py",
    "training/assemble.py", "training/caching.py", "training/launch.py", "training/worker.py",
}  # fmt: skip


def test_options_pass_through_few_modules_on_their_way_to_a_run() -> None:
    below = {path for path in FILES if "training" in path.parts or "runs" in path.parts or "cli" in path.parts}
    below |= {path for path in FILES if path.parent == SOURCE and path.name not in ("config.py", "demo.py")}
    found = {path.relative_to(SOURCE).as_posix() for path in below if "options" in modules_used_by(path)}
    assert found == KNOW_OPTIONS_OF_A_RUN
