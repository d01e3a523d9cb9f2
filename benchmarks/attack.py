"""Looks at hostile and damaged runs, a thousand times, and counts what must never happen.

    python benchmarks/attack.py --commands 1000

Every command runs in a process of its own, with ten seconds and two gigabytes; a hook of Python's records what it opens
for writing, connects to, starts and imports. With ``--results FILE`` an interrupted attack goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.data.formats import write_folder

from hostile_files import ATTACKS, CODE, COMMANDS, DISTILLING, TRAINING, edit_summary
from spotkd.cli import main

SECONDS, BYTES = 10, 2 << 30
KINDS = ("executions", "writes outside", "fetches", "hangs", "too much memory", "tracebacks", "unprintable")
STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.startfile")
CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")


def make_runs(place: Path) -> None:
    """A finished run, ``finished``, and one that was interrupted after an epoch, ``interrupted``."""
    os.chdir(place)
    write_folder(place / "set", count=4)
    assert main(f"train --model resnet8 {TRAINING} --out teacher".split()) == 0
    assert main(f"distill {DISTILLING} --out finished".split()) == 0
    shutil.copytree("finished", "interrupted")
    (place / "interrupted" / "summary.json").unlink()
    shutil.copy("interrupted/previous.ckpt", "interrupted/last.ckpt")
    with redirect_stdout(StringIO()):
        for command in COMMANDS:  # what is imported late is imported now, once for all children
            assert main(command.format(run="finished", options=DISTILLING).replace("pictures", "set").split()) == 0
    for left in ("figures", "student.safetensors", "p.csv"):
        shutil.rmtree(left) if Path(left).is_dir() else Path(left).unlink()


def make_case(made: Path, case: Path, dice: random.Random) -> list[str]:
    """A folder with a hostile run, and the command that looks at it."""
    attack, commands = dice.choice(ATTACKS)
    run = "finished" if attack is edit_summary else dice.choice(("finished", "interrupted"))
    shutil.copytree(made / run, case / "run")
    for name in ("set", "teacher"):
        (case / name).symlink_to(made / name)
    shutil.copytree(made / "set" / "train" / "ant", case / "pictures")
    (case / "outside").mkdir()
    (case / "outside" / "file").write_text("as it was")
    os.mkfifo(case / "outside" / "pipe")
    (case / "evil.py").write_text(CODE)
    attack(case / "run", dice)
    words = dice.choice(commands).format(run="run", options=DISTILLING).split()
    return [attack.__name__, *words]


def watch(case: Path, found: list[str]) -> None:
    """Record what must not happen from now on."""
    allowed = (str(case / "run"), str(case / "figures"), str(case / "student.safetensors"), str(case / "p.csv"),
               str(case / ".student"), str(case / ".export-"), str(case / ".p.csv"), "/dev/null")  # fmt: skip

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return not str(Path(os.path.abspath(os.fsdecode(path)))).startswith(allowed)  # noqa: PTH100  # links stay

    def located(arguments: tuple[Any, ...]) -> list[object]:
        """The paths of an event, those that count from an open folder too."""
        names: list[object] = [name for name in arguments[:2] if isinstance(name, str | bytes)]
        folder = next((place for place in arguments if isinstance(place, int) and 2 < place < 500), None)
        return names if folder is None else [Path(f"/proc/self/fd/{folder}").readlink() / str(name) for name in names]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            found.append(f"executions: {event} {arguments[:1]}")
        elif event in CONNECTS:
            found.append(f"fetches: {event} {arguments[1:2]}")
        elif event in CHANGES and any(map(outside, located(arguments))) and arguments[0] != ".":
            found.append(f"writes outside: {event} {arguments[:2]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writes or set(str(mode or "")) & set("wax+")) and outside(path):
                found.append(f"writes outside: open {path!r} {mode}")

    sys.addaudithook(hook)


def run_child(case: Path, words: list[str]) -> None:
    """One command, in this process; what was found goes to ``found.json``."""
    os.chdir(case)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found: list[str] = []
    output, errors, status = StringIO(), StringIO(), 1
    note = (case / "found.json").open("w")
    watch(case, found)
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            status = main(words)
        except BaseException:
            traceback.print_exc()
    found += [f"executions: imported {name}" for name in ("evil", "antigravity") if name in sys.modules]
    said = output.getvalue() + errors.getvalue()
    if "Traceback" in said or status not in (0, 2, *([1] if words[0] == "predict" else [])):
        found.append(f"tracebacks: status {status}, {errors.getvalue()[-3000:]}")
    if status == 2 and errors.getvalue().count("\n") != 1:
        found.append(f"tracebacks: not one line, {errors.getvalue()[-500:]}")
    if not said.replace("\n", "").isprintable():
        found.append(f"unprintable: {said[-500:]!r}")
    note.write(json.dumps({"found": found, "status": status, "said": errors.getvalue()[-300:]}))
    note.close()


def attack(made: Path, number: int, seed: int) -> dict[str, Any]:
    """Make one hostile run, look at it, and say what was found."""
    with tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as name:
        case = Path(name).resolve()
        attacked, *words = make_case(made, case, random.Random(f"{seed} {number}"))
        before = _names(made), (made / "finished" / "config.yaml").read_bytes()
        started, child = time.monotonic(), os.fork()
        if child == 0:
            try:
                run_child(case, words)
            finally:
                os._exit(0)
        while (ended := os.wait4(child, os.WNOHANG))[0] == 0 and time.monotonic() - started < SECONDS:
            time.sleep(0.005)
        found: list[str] = []
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            found.append("hangs: ten seconds were not enough")
        noted: dict[str, Any] = {"found": [], "status": None, "said": ""}
        if (case / "found.json").is_file() and (case / "found.json").stat().st_size:
            noted = json.loads((case / "found.json").read_text())
        elif not found:
            found.append(f"tracebacks: the process ended by {ended[1]}")
        found += noted["found"]
        if any((place / "exploded").exists() for place in (case, case / "run", case / "outside", made)):
            found.append("executions: exploded")
        file = case / "outside" / "file"
        if _names(file.parent) != ["file", "pipe"] or file.read_text() != "as it was":
            found.append("writes outside: seen")
        if before != (_names(made), (made / "finished" / "config.yaml").read_bytes()):
            found.append("writes outside: among what was made")
        if ended[0] and ended[2].ru_maxrss << 10 > BYTES:
            found.append(f"too much memory: {ended[2].ru_maxrss >> 10} MB")
        seconds = round(time.monotonic() - started, 2)
    return {"number": number, "attack": attacked, "words": words, "seconds": seconds, **noted, "found": found}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def attack_all(commands: int, seed: int, results: Path | None) -> list[dict[str, Any]]:
    """All results, those that an earlier attack left among them."""
    lines = results.read_text().splitlines() if results is not None and results.exists() else []
    known = [json.loads(line) for line in lines]
    done = {result["number"] for result in known}
    with tempfile.TemporaryDirectory(prefix="attack-made-") as name:
        made = Path(name).resolve()
        make_runs(made)
        for number in sorted(set(range(commands)) - done):
            known.append(attack(made, number, seed))
            if known[-1]["found"]:
                print(number, known[-1]["attack"], " ".join(known[-1]["words"]), *known[-1]["found"], sep="\n  ")
            if results is not None:
                with results.open("a") as file:
                    file.write(json.dumps(known[-1]) + "\n")
    return known


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", type=int, default=1000, help="commands in all")
    parser.add_argument("--seed", type=int, default=1, help="of what is hostile in them")
    parser.add_argument("--results", type=Path, help="file of results, to go on with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="attack-settings-")
    path = options.results and options.results.resolve()
    results = attack_all(options.commands, options.seed, path)
    counts = Counter(kind for kind in KINDS for result in results if any(f.startswith(kind) for f in result["found"]))
    statuses = Counter(str(result["status"]) for result in results)
    print(f"{len(results)} commands, seed {options.seed}; by status: {dict(sorted(statuses.items()))}")
    print(f"The longest took {max(result['seconds'] for result in results)} s.\n")
    print(f"| {' | '.join(KINDS)} |\n|{'---|' * len(KINDS)}\n| {' | '.join(str(counts[kind]) for kind in KINDS)} |")
    sys.exit(any(counts.values()))
