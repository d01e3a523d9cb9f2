"""Check spotkd with every Python that it supports: ``python tools/check_versions.py [--limit SECONDS]``.

The supported versions are those of pyproject.toml. For each of them, on this machine or not, README's install lines
must resolve with constraints.txt. Into each Python that is here the package is installed, first without PyTorch: its
code compiles and `spotkd --help` answers. Then comes PyTorch, and tools/smoke.py trains, distils and evaluates.

What could not be checked is printed: a Python that is missing, a PyTorch that could not be fetched in time (on Linux it
carries CUDA for most Pythons, three gigabytes). Downloads and environments are kept in ~/.cache/spotkd-ci, so that the
next run takes seconds and continues where this one ran out of time. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spotkd-ci"
LIMIT = 110.0  # seconds for everything
SMOKE = 20.0  # of them kept for a smoke test when a download is given the rest
SPACE = 16 << 30  # bytes that must be free before a PyTorch with CUDA is fetched and unpacked
HEAVY = re.compile(r"(torch|lightning-fabric|triton|nvidia-[\w-]+|cuda-[\w-]+)==")  # PyTorch, and what goes with it


class CheckError(Exception):
    """Something that was checked does not work."""


class TimeUpError(Exception):
    """No time was left for it."""


@dataclass
class Version:
    """A supported version of Python and what has been found out about it.

    Attributes:
        name: 3.10, 3.11 and so on.
        python: the interpreter; None where this machine has none.
        requirements: what README's install line brings, one pinned package a line.
        checked: what worked.
        missed: what was not checked, and why.
        error: what failed.
    """

    name: str
    python: Path | None
    requirements: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    missed: str = ""
    error: str = ""

    @property
    def done(self) -> bool:
        return bool(self.missed or self.error)

    def __str__(self) -> str:
        found = [", ".join(self.checked)] if self.checked else []
        found += [f"NOT CHECKED: {self.missed}"] if self.missed else []
        found += [f"FAILED: {self.error}"] if self.error else []
        return f"Python {self.name}: {'; '.join(found)}"


def constrained(name: str) -> str:
    """The version of a package in constraints.txt."""
    found = re.search(rf"^{name}==([^;\s]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, f"constraints.txt does not pin {name}"
    return found[1]


class Checker:
    """Runs the checks, each within the time that is left.

    Everything is kept in one folder for each version of PyTorch; those of other versions are removed.

    Args:
        limit: seconds for all that follows.
    """

    def __init__(self, limit: float) -> None:
        self._end = time.monotonic() + limit
        self.folder = CACHE / f"torch-{constrained('torch')}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for other in CACHE.iterdir():
            if other != self.folder:
                shutil.rmtree(other)
        shutil.rmtree(self.folder / "wheel", ignore_errors=True)  # of an earlier run
        self._uv = self.folder / f"uv-{constrained('uv')}"
        self._environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "UV_CACHE_DIR": str(self.folder / "downloads"),
            "UV_PYTHON_DOWNLOADS": "never",
        }
        if folders := os.environ.get("PIP_FIND_LINKS"):  # a machine's own wheels
            self._environment.setdefault("UV_FIND_LINKS", ",".join(folders.split()))

    def run(self, *command: str | Path, spare: float = 0) -> str:
        """What a command prints.

        Args:
            command: program and arguments.
            spare: seconds that must be left when it ends.

        Raises:
            CheckError: its exit status is not 0.
            TimeUpError: it did not end in time.
        """
        seconds = self._end - time.monotonic() - spare
        if seconds <= 0:
            raise TimeUpError
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=seconds)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)  # its children too, which would hold the pipe open
                if isinstance(error, subprocess.TimeoutExpired):
                    raise TimeUpError from error
                raise
        if process.returncode:
            raise CheckError(f"{' '.join(map(str, command))}\n{printed}")
        return printed

    def uv(self, *arguments: str | Path, spare: float = 0) -> str:
        """Run uv, which resolves for Pythons that are not here, and unpacks a download only once; see :meth:`run`."""
        return self.run(self._uv / "bin" / "uv", *arguments, spare=spare)

    def prepare(self, _: Version) -> None:
        """Install uv and build the package, once for all versions."""
        if any((self.folder / "wheel").glob("*.whl")):
            return
        if not (self._uv / "bin" / "uv").exists():
            self.run(sys.executable, "-m", "venv", self._uv)
            self.run(self._uv / "bin" / "python", "-m", "pip", "install", "--quiet", f"uv=={constrained('uv')}")
        self.uv("build", "--quiet", "--wheel", "--out-dir", self.folder / "wheel")

    def resolve(self, version: Version) -> None:
        """README's install lines on the first release of the version: they must not contradict themselves."""
        options = ["--quiet", "--no-header", "--no-annotate", "--python-version", f"{version.name}.0"]
        command: list[str | Path] = ["pip", "compile", *options, "--constraint", "constraints.txt", "pyproject.toml"]
        self.uv(*command, "--all-extras")
        version.requirements = self.uv(*command).splitlines()
        version.checked.append("install lines resolve")
        if version.python is None:
            version.missed = "the rest, this Python is not on this machine"

    def install_light(self, version: Version) -> None:
        """The package and what it needs besides PyTorch: enough to compile it and to ask for help."""
        assert version.python is not None
        folder = self.folder / f"python{version.name}"
        self.uv("venv", "--quiet", "--allow-existing", "--python", version.python, folder)
        light = [requirement for requirement in version.requirements if not HEAVY.match(requirement)]
        (wheel,) = (self.folder / "wheel").glob("*.whl")
        install: list[str | Path] = ["pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python"]
        self.uv(*install, *light)
        self.uv(*install, "--reinstall", wheel)
        (package,) = folder.glob("lib/*/site-packages/spotkd")
        self.run(folder / "bin" / "python", "-m", "compileall", "-q", "-f", package)
        self.run(folder / "bin" / "spotkd", "--help")
        version.checked.append("the package installs and compiles, --help answers")

    def train(self, version: Version) -> None:
        """Install PyTorch, if there is time and room for it, and run the smoke test."""
        folder = self.folder / f"python{version.name}"
        (wheel,) = (self.folder / "wheel").glob("*.whl")
        installed = any(folder.glob(f"lib/*/site-packages/torch-{constrained('torch')}*.dist-info"))
        if not installed and (free := shutil.disk_usage(folder).free) < SPACE:
            version.missed = f"training, PyTorch needs up to {SPACE >> 30} GB of disk and {free >> 30} are free"
            return
        install: list[str | Path] = ["pip", "install", "--quiet", "--python", folder / "bin" / "python"]
        try:
            self.uv(*install, "--constraint", "constraints.txt", wheel, spare=SMOKE)
        except TimeUpError:
            version.missed = "training, PyTorch could not be installed in time"
            return
        printed = self.run(folder / "bin" / "python", "tools/smoke.py").splitlines()
        version.checked.append(f"{printed[0]} trains, distils and evaluates")


def find_python(name: str) -> Path | None:
    """An interpreter of the version on this machine: this one, pyenv's, or one on the path."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates: list[str | Path | None] = [
        sys.executable,
        *sorted(pyenv.glob(f"{name}.*/bin/python")),
        shutil.which(f"python{name}"),
    ]
    for program in candidates:  # what pyenv puts on the path is no interpreter until one is chosen
        question = "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"
        if program and subprocess.run([program, "-c", question], capture_output=True, text=True).stdout.strip() == name:
            return Path(program)
    return None


def attempt(check: Callable[[Version], None], version: Version) -> None:
    """Run a check and note in the version how long it took, or why it did not end well."""
    start, known = time.monotonic(), len(version.checked)
    try:
        check(version)
        if len(version.checked) > known:
            version.checked[-1] += f" ({time.monotonic() - start:.0f} s)"
    except TimeUpError:
        version.missed = "the rest, the time was up"  # also where PyTorch is there and the smoke test took too long
    except CheckError as error:
        version.error = str(error)


def main() -> int:
    """Check all versions and print a line on each; exit status 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything (default %(default).0f)")
    limit, start = parser.parse_args().limit, time.monotonic()
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    versions = [Version(name, find_python(name)) for name in promised]
    checker = Checker(limit)
    # Resolving waits for the network, so all versions do it at once; then the cheap check of all before the dear one.
    checks = ((checker.prepare, 1), (checker.resolve, 4), (checker.install_light, 1), (checker.train, 1))
    for check, at_once in checks:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(partial(attempt, check), [version for version in versions if not version.done]))
    print(*versions, sep="\n")
    print(f"{len(versions)} versions in {time.monotonic() - start:.0f} s; downloads are kept in {checker.folder}")
    return int(any(version.error for version in versions))


if __name__ == "__main__":
    sys.exit(main())
