"""Every command under a recorder of what it opens, connects to and imports: ``python -m tests.recorded_commands``.

A hook of Python's can never be taken away again, so this is a process of its own. It prints, for each command, the
files that it read and wrote, what it connected to, and the modules of the working directory that it imported.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from spotkd.cli import main

from .data.formats import write_folder

CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.truncate")
DATA = "--data folder:set --data.image_size 16 --data.workers 0"
RUN = f"{DATA} --epochs 1 --batch_size 8 --quiet --min_teacher_top1 0 --logger csv"
PAIR = "--teacher resnet8 --teacher.checkpoint teacher --student resnet8"
TRIED = "--strategy trial --data.val_share 0.3 --epochs 11 --min_teacher_top1 0"
COMMANDS = {
    "train": "--model python:mine.build " + RUN.replace("--min_teacher_top1 0 ", "") + " --out own",
    "distill": f"{PAIR} {RUN} --out run",
    "evaluate": "run",
    "export": "run --format safetensors --out made/student.safetensors",
    "predict": "run set/train/ant --csv made/predictions.csv",
    "profile": "resnet8 resnet8 --distillers none --rounds 1 --csv made/profile.csv --json made/profile.json",
    "inspect": "run",
    "trial": "apart/tried --csv made/effects.csv",
    "report": "run --figures made/figures",
    "bench": "plan.yaml --dry-run",
    "search": "--teacher resnet8 --teacher.checkpoint teacher --student resnet8 --runs 1 --data.val_share 0.5 "
    + RUN.replace("--quiet ", "")
    + " --distillers kd --strategies always --out made/search",
    "demo": "--faces 1 --teacher_epochs 1 --epochs 1 --out demo",
}
MINE = "from spotkd import create_model\ndef build(classes): return create_model('resnet8', classes)\n"
PLAN = "title: a\ndata: [glyph94]\npairs: [resnet8-resnet8]\ndistillers: [kd]\noptions: {epochs: 1}\n"


class Recorder:
    """What happened since :meth:`start`."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {}
        self.on = False
        package = str(Path(main.__code__.co_filename).parents[1])
        libraries = (sys.prefix, sys.base_prefix, str(Path(__file__).parent), package)
        self._ignored = (*libraries, *map(os.path.realpath, libraries), "/proc", "/sys", "/dev", "/etc", "/usr", "/lib")
        sys.addaudithook(self._hook)

    def _note(self, kind: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            full = str(Path(os.fsdecode(path)).absolute())
            if (
                not full.startswith(self._ignored)
                and "matplotlib" not in full
                and Path(full).stem.partition(".")[0] != "mine"
            ):
                self.seen[kind].append(full)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in CONNECTS:
            self.seen["connected"].append(f"{event} {arguments[1:2]}")
        elif event == "os.mkdir" and Path(arguments[0]).exists():
            pass  # nothing happens
        elif event in CHANGES:
            self._note("wrote", arguments[-1] if event == "os.symlink" else arguments[0])
        elif event == "open":
            path, mode, flags = arguments
            writes = set(str(mode or "")) & set("wax+") or int(flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self._note("wrote" if writes else "read", path)

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[str]]]:
        self.seen = {"read": [], "wrote": [], "connected": [], "imported": []}
        before, self.on = set(sys.modules), True
        try:
            yield self.seen
        finally:
            self.on = False
            fresh = {name: str(getattr(module, "__file__", "")) for name, module in list(sys.modules.items())}
            here = str(Path.cwd())
            self.seen["imported"] += [
                name for name, file in fresh.items() if file.startswith(here) and name not in before
            ]


def record_all() -> dict[str, dict[str, list[str]]]:
    """What every command did, in the working directory."""
    write_folder(Path("set"), count=4)
    Path("mine.py").write_text(MINE)
    Path("plan.yaml").write_text(PLAN)
    Path("made").mkdir()
    recorder, found = Recorder(), {}
    with redirect_stdout(StringIO()):
        assert main(f"train --model resnet8 {DATA} --epochs 1 --batch_size 8 --quiet --out teacher".split()) == 0
        assert main(f"distill {PAIR} {DATA} {TRIED} --batch_size 8 --quiet --out apart/tried".split()) == 0
        for command, words in COMMANDS.items():
            with recorder.recording() as seen:
                assert main([command, *words.split()]) == 0, command
            found[command] = {kind: sorted(set(names)) for kind, names in seen.items()}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(record_all()))
