"""What a stranger's run names is not opened: no code, no network or data set from outside, no download."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from spotkd import SpotkdError
from spotkd.cli import main
from spotkd.registry import import_name, known_names_only
from spotkd.runs import layout
from spotkd.runs.trust import is_signed, key_file, sign

from .hostile_runs import copied

FIRED = "fired"
MODULE = f"""
from pathlib import Path
Path(__file__).with_name("{FIRED}").write_text("imported")
def make(*_, **__): raise RuntimeError("called")
class Policy: pass
"""


@pytest.fixture
def runs(hostile_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs of somebody else, in a working directory with a module that must never be imported."""
    with copied(hostile_runs, tmp_path):
        for run in tmp_path.glob(f"*/{layout.SIGNATURE}"):
            run.unlink()
        (tmp_path / "trap.py").write_text(MODULE)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        yield tmp_path
        sys.modules.pop("trap", None)


def rewrite(run: Path, name: str, value: str) -> None:
    content = yaml.safe_load((run / layout.CONFIG).read_text())
    section, dot, key = name.partition(".")
    if dot:
        content[section][key] = value
    else:
        content[name] = value
    (run / layout.CONFIG).write_text(yaml.safe_dump(content))


NAMES = ["strategy", "distiller", "data.name", "student.name", "teacher.name"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["python:trap.make", "python:os.abort", "python:shutil.rmtree"])
def test_looking_imports_nothing(name: str, value: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(runs / "sakd", name, value)
    assert main(["report", "sakd"]) == 0
    page = (runs / "sakd" / "report.html").read_text()
    if name != "distiller":
        assert "named by a file that others may have written: to open it, say --trust" in page
    assert main(["inspect", "sakd"]) == 2
    assert "say --trust" in capsys.readouterr().err
    assert not (runs / FIRED).exists()


@pytest.mark.parametrize("name", NAMES)
def test_resuming_follows_no_name_of_a_file(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(runs / "sakd", name, "python:trap.make")
    assert main(["distill", "--resume", "sakd"]) == 2
    key = name.removesuffix(".name")
    assert "was made elsewhere, or edited, and names python:" in capsys.readouterr().err
    data = [] if name == "data.name" else ["--data", "python:hostile_images.make"]
    assert main(["distill", "--resume", "sakd", *data]) == 2
    assert f"names python:trap.make; to open it, say --{key} python:trap.make too" in capsys.readouterr().err
    assert not (runs / FIRED).exists()
    with suppress(RuntimeError):  # named by the user: it is followed
        main(["distill", "--resume", "sakd", *data, f"--{key}", "python:trap.make"])
    assert (runs / FIRED).exists()


@pytest.mark.parametrize("value", ["folder:/", "hf:somebody/pictures", "timm:vit_giant_patch14_224"])
def test_looking_opens_nothing_from_outside(
    value: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection"))
    rewrite(runs / "sakd", "student.name" if value.startswith("timm") else "data.name", value)
    assert main(["report", "sakd"]) == 0
    assert main(["inspect", "sakd"]) == 2
    assert "is named by a file that others may have written: to open it, say --trust" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_looking_never_downloads(name: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotkd.data.download.urlopen", lambda *_, **__: pytest.fail("a download"))
    for key, value in (("name", name), ("root", "elsewhere"), ("download", True), ("mirror", "http://127.0.0.1:9/")):
        content = yaml.safe_load((runs / "sakd" / layout.CONFIG).read_text())
        content["data"][key] = value
        (runs / "sakd" / layout.CONFIG).write_text(yaml.safe_dump(content))
    assert main(["report", "sakd"]) == 0
    assert main(["inspect", "sakd"]) == 2
    assert main(["evaluate", "sakd"]) == 2
    assert not (runs / "elsewhere").exists()


def test_a_run_of_ones_own_needs_no_trust(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sign(runs / "sakd")
    assert main(["inspect", "sakd"]) == 0
    rewrite(runs / "sakd", "seed", "7")  # an edited file is nobody's
    assert main(["inspect", "sakd"]) == 2
    assert "say --trust" in capsys.readouterr().err
    assert main(["inspect", "sakd", "--trust"]) == 0


def test_a_signature_belongs_to_a_user_and_a_configuration(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(runs / "sakd")
    assert is_signed(runs / "sakd")
    shutil.copy(runs / "sakd" / layout.SIGNATURE, runs / "kd")
    assert not is_signed(runs / "kd")
    assert key_file().stat().st_mode & 0o777 == 0o600
    key_file().chmod(0o644)  # others may have read it
    assert not is_signed(runs / "sakd")
    key_file().chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    assert not is_signed(runs / "sakd")


def test_nothing_is_imported_inside(runs: Path) -> None:
    with known_names_only(), pytest.raises(SpotkdError, match=r"python:trap\.Policy is named by a file"):
        import_name("trap.Policy")
    assert not (runs / FIRED).exists()
    assert import_name("trap.Policy") is not None
