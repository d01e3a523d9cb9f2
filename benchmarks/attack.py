"""Hostile run folders and files, made from a seed, against every command that looks at a run or resumes one.

Each command runs in a process of its own with a limit of ten seconds and of two gigabytes, under a recorder of what it
opens for writing, imports, connects to and starts. Counted are executions, writes outside, fetches, hangs, commands
that took too much memory, and tracebacks; every one is printed with what was done to the folder.

    python benchmarks/attack.py --commands 1000 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
import yaml

import spotkd.analysis
import spotkd.deploy
import spotkd.experiments
import spotkd.report  # noqa: F401  # every command starts with these imported
from spotkd.cli import main
from spotkd.data import DATASETS, Dataset, ImageSet
from spotkd.errors import Stopped
from spotkd.runs import layout
from spotkd.runs.checkpoint import read_checkpoint, write_checkpoint
from spotkd.runs.writer import RunWriter

SECONDS, BYTES = 10, 2 << 30
TRAP = "attack_trap"  # a module in the working directory that says so when it is imported
CODE = [f"python:{TRAP}.make", "python:os.abort", "python:antigravity.x", "python:shutil.rmtree", "timm:vit_giant_x"]
TEXTS = ["\x1b[31mred\x07", "$(touch pwned)", "'; rm -rf x; '", "<script>x</script>", "\ud800", "../../x", "a" * 20_000]
VALUES: list[Any] = [None, True, -1, 0, 2**63, 1e308, float("nan"), float("inf"), [], {}, [[[[1]]]], "", *TEXTS]


def make_data() -> Dataset:
    """A hundred small images of five classes, two of them with names that mean harm."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 5
    images = torch.randint(0, 50, (100, 1, 16, 16), generator=generator) + 40 * labels.view(-1, 1, 1, 1)
    split = ImageSet(images.to(torch.uint8), labels)
    return Dataset("attacked", split, split, ("\x1b[2J", "=cmd()", "c", "d", "e"), (0.3,), (0.3,), padding=1)


def make_runs(place: Path) -> None:
    """A teacher, plain distillation, a finished SAKD run and one that was stopped inside its second epoch."""
    common = ["--data", "attacked", "--epochs", "2", "--batch-size", "32", "--quiet", "true", "--precision", "32"]
    main(["train", *common, "--model", "resnet8", "--out", str(place / "teacher")])
    pair = ["--teacher", "resnet8", "--teacher.checkpoint", str(place / "teacher"), "--student", "resnet8"]
    pair += ["--min_teacher_top1", "0"]
    main(["distill", *common, *pair, "--distiller", "kd", "--out", str(place / "kd")])
    main(["distill", *common, *pair, "--strategy", "adaptive", "--out", str(place / "sakd")])
    plain, left = RunWriter.after_step, [6]

    def after_step(self: RunWriter, state: Callable[[], Any]) -> None:
        left[0] -= 1
        plain(self, state)
        if not left[0]:
            self.checkpoint(state())
            raise Stopped("here")

    RunWriter.after_step = after_step  # type: ignore[method-assign]
    main(["distill", *common, *pair, "--strategy", "adaptive", "--out", str(place / "stopped")])
    RunWriter.after_step = plain  # type: ignore[method-assign]


# ----------------------------------------------------------------------------------------------------- what is done


def edit_config(run: Path, dice: random.Random) -> str:
    """One option is another; sometimes it names code, data from elsewhere or a place on the disk."""
    path = run / layout.CONFIG
    content = yaml.safe_load(path.read_text())
    sections = [content, *(value for value in content.values() if isinstance(value, dict))]
    kind = dice.randrange(4)
    value: Any
    if kind == 0:
        name, value = dice.choice(["strategy", "distiller", "data", "student", "teacher"]), dice.choice(CODE)
        if isinstance(content.get(name), dict):
            content[name]["name"] = value
        else:
            content[name] = value
    elif kind == 1:
        name, value = "data", dice.choice(["folder:/", "hf:x/y", "cifar100", "imagenet", "tiny-imagenet"])
        content["data"] |= {"name": value, "download": True, "root": dice.choice(["/", "made", "/dev"])}
    else:
        section = dice.choice(sections)
        name, value = dice.choice([*section, "unknown", dice.choice(TEXTS)]), dice.choice(VALUES)
        section[name] = value
    path.write_text(yaml.safe_dump(content), "utf-8", "surrogatepass")
    return f"{name} is {str(value)[:40]!r}"


def write_yaml_bomb(run: Path, dice: random.Random) -> str:
    bombs = {
        "aliases": "a: &a [x,x]\n"
        + "".join(
            f"b{i}: &b{i} [*{'a' if not i else f'b{i - 1}'}" + f",*{'a' if not i else f'b{i - 1}'}]\n"
            for i in range(40)
        ),
        "merges": "a: &a {x: 1}\n"
        + "".join(
            f"b{i}: &b{i} {{<<: [*{'a' if not i else f'b{i - 1}'},*{'a' if not i else f'b{i - 1}'}]}}\n"
            for i in range(40)
        ),
        "depth": "[" * 100_000,
        "scalar": "seed: " + "1" * (50 << 20),
        "sexagesimal": "seed: 1" + ":1" * 400_000,
        "keys": "\n".join(f"k{i}: 1" for i in range(300_000)),
        "tag": "seed: !!python/object/apply:os.system ['touch pwned']",
        "complex key": "? [" + "[" * 15 + "]" * 15 + "]\n: 1",
        "digits": "seed: " + "9" * 9_000,
        "bytes": "\udcff\udcfe",
    }
    name = dice.choice(list(bombs))
    (run / layout.CONFIG).write_text(bombs[name], "utf-8", "surrogateescape")
    return name


def replace_file(run: Path, dice: random.Random) -> str:
    """A pipe, a link, a folder or nothing in place of a file."""
    name = dice.choice([*layout.FILES, layout.LOCK, *layout.FOLDERS])
    path, kind = run / name, dice.choice(["pipe", "link to zero", "link outside", "dangling link", "folder", "nothing"])
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        outside = {"link to zero": "/dev/zero", "link outside": "../../outside", "dangling link": "../../made"}
        path.symlink_to(outside[kind])
    return f"{name}: {kind}"


def damage_file(run: Path, dice: random.Random) -> str:
    """Cut, flipped bits, random bytes, or another file's content."""
    files = sorted(path for path in run.iterdir() if path.is_file() and path.name != layout.LOCK)
    path = dice.choice(files)
    content, kind = bytearray(path.read_bytes()), dice.choice(["cut", "bits", "random", "empty", "another's"])
    if kind == "cut":
        del content[dice.randrange(len(content) + 1) :]
    elif kind == "bits":
        for _ in range(dice.randint(1, 20)):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    elif kind == "random":
        content = bytearray(dice.randbytes(dice.randrange(3_000)))
    elif kind == "empty":
        content = bytearray()
    else:
        content = bytearray(dice.choice(files).read_bytes())
    path.write_bytes(content)
    return f"{path.name}: {kind}"


def damage_table(run: Path, dice: random.Random) -> str:
    path = run / dice.choice([layout.METRICS, layout.DECISIONS])
    if not path.exists():
        return "nothing"
    lines = path.read_text().splitlines()
    cell = dice.choice(["nan", "inf", "-1", "1e999", "9" * 5_000, "x", "", "\x1b[2J", '"', "0.5,0.5"])
    row = dice.randrange(len(lines))
    cells = lines[row].split(",")
    cells[dice.randrange(len(cells))] = cell
    lines[row] = ",".join(cells)
    path.write_text("\n".join(lines) + dice.choice(["\n", "", "\n1,"]))
    return f"{path.name}: {cell[:20]!r} in line {row + 1}"


def damage_summary(run: Path, dice: random.Random) -> str:
    path = run / layout.SUMMARY
    if not path.exists():
        return "nothing"
    content = json.loads(path.read_text())
    section = dice.choice([content, content["scores"], content["last"], content["shares"]])
    key = dice.choice([*section, "unknown"]) if section else "unknown"
    section[key] = dice.choice(VALUES)
    text = json.dumps(content) if dice.random() < 0.9 else "[" * 100_000
    path.write_text(text, "utf-8", "surrogatepass")
    return f"summary: {key} is {str(section[key])[:40]!r}"


class _Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def forge_checkpoint(run: Path, dice: random.Random) -> str:
    """A checkpoint with a right checksum and wrong content."""
    if not (run / layout.LAST).exists():
        return "nothing"
    state = read_checkpoint(run / layout.LAST)
    changes: dict[str, Callable[[], object]] = {
        "path": lambda: state.update(tables={dice.choice(["../../made", "/tmp/attack-made", "config.yaml"]): "x"}),
        "table": lambda: state.update(tables={layout.METRICS: dice.choice(VALUES)}),
        "section": lambda: state.update({dice.choice(list(state)): dice.choice(VALUES)}),
        "config": lambda: state["config"].update({dice.choice(list(state["config"])): dice.choice(VALUES)}),
        "code": lambda: state.update(extra=_Call()),
        "method": lambda: state["method"].update({dice.choice(list(state["method"])): torch.zeros(3)}),
    }
    name = dice.choice([*changes, "nested key"])
    if name == "nested key":  # 2**40 tuples to hash, of a few hundred bytes
        pickled = b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s."
        path = run / layout.LAST
        with zipfile.ZipFile(path, "w") as package:
            package.writestr("archive/data.pkl", pickled)
            package.writestr("archive/version", "3\n")
        content = path.read_bytes()
        path.write_bytes(content + f"\nspotkd sha256 {hashlib.sha256(content).hexdigest()}\n".encode())
        (run / layout.PREVIOUS).unlink(missing_ok=True)
        return "checkpoint: nested key"
    changes[name]()
    for file in (layout.LAST, layout.PREVIOUS):
        write_checkpoint(run / file, state)
    return f"checkpoint: {name}"


def forge_weights(run: Path, dice: random.Random) -> str:
    """Weights whose notes are others, or a pickle in their place."""
    path = next((run / name for name in (layout.STUDENT, layout.MODEL) if (run / name).exists()), None)
    if path is None:
        return "nothing"
    if dice.random() < 0.3:
        path.write_bytes(pickle.dumps(_Call()))
        return "weights: a pickle"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    notes = json.loads(header["__metadata__"]["spotkd"])
    key = dice.choice(list(notes))
    notes[key] = dice.choice([*VALUES, *CODE, "folder:/", "hf:x/y", "cifar100"])
    header["__metadata__"]["spotkd"] = json.dumps(notes)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    return f"weights: {key} is {str(notes[key])[:40]!r}"


ATTACKS = [
    edit_config, edit_config, write_yaml_bomb, replace_file, damage_file, damage_table, damage_summary,
    forge_checkpoint, forge_weights,
]  # fmt: skip


def make_picture(path: Path, dice: random.Random) -> str:
    """A picture that unfolds, or none."""

    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        rows = zlib.compress(bytes(min((width // 8 + 1) * height, 40 << 20)), 9)
        head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    kinds: dict[str, Callable[[], object]] = {
        "6000x1": lambda: path.write_bytes(png(6000, 1)),
        "90000x900": lambda: path.write_bytes(png(90_000, 900)),
        "20000x20000": lambda: path.write_bytes(png(20_000, 20_000)),
        "cut": lambda: path.write_bytes(png(64, 64)[: dice.randrange(100)]),
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("/dev/zero"),
        "random": lambda: path.write_bytes(dice.randbytes(500)),
    }
    name = dice.choice(list(kinds))
    kinds[name]()
    return f"picture: {name}"


# ----------------------------------------------------------------------------------------------------- what happens


def choose_command(case: Path, dice: random.Random) -> tuple[list[str], Path]:
    run = case / dice.choice(["sakd", "sakd", "kd", "stopped", "teacher"])
    weights = dice.choice([run, run / layout.STUDENT])
    commands = {
        "report": ["report", str(dice.choice([case, run])), "--out", str(case / "page.html")],
        "figures": ["report", str(run), "--out", str(case / "page.html"), "--figures", str(case / "figures")],
        "inspect": ["inspect", str(run), "--out", str(case / "tables")],
        "evaluate": ["evaluate", str(weights)],
        "export": ["export", str(weights), "--format", "safetensors", "--out", str(case / "out.safetensors")],
        "predict": ["predict", str(weights), str(case / "pictures"), "--csv", str(case / "classes.csv")],
        "resume": ["train" if run.name == "teacher" else "distill", "--resume", str(run)],
    }
    return commands[dice.choice(list(commands))], run


class Outcome(TypedDict):
    """What a command did."""

    status: int
    events: list[str]
    text: str
    seconds: float
    megabytes: float


def run_command(arguments: list[str], case: Path) -> Outcome:
    """Run a command in a child of this process, which has everything imported, under a recorder."""
    events, output = case.parent / "events", case.parent / "output"
    events.write_text("")
    started = time.monotonic()
    child = os.fork()
    if not child:
        _be_child(arguments, case, events, output)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - started > SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.01)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "status": os.waitstatus_to_exitcode(status),
        "events": sorted(set(events.read_text(errors="replace").splitlines())),
        "text": output.read_text(errors="replace"),
        "seconds": time.monotonic() - started,
        "megabytes": max(usage.ru_maxrss - before, 0) / 1024,
    }


def _be_child(arguments: list[str], case: Path, events: Path, output: Path) -> None:
    log = os.open(events, os.O_WRONLY | os.O_APPEND)
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    inside = (str(case), "/dev/null", "/proc/self", str(Path.home() / ".cache"))

    def note(what: str, value: object) -> None:
        os.write(log, f"{what} {value!r}\n".encode())

    def audit(event: str, values: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(values[0], str | bytes) and isinstance(values[2], int):
            path = os.path.realpath(os.fsdecode(values[0]))
            if values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not path.startswith(inside):
                note("write", path)
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"):
            path = os.path.realpath(os.fsdecode(values[0])) if isinstance(values[0], str | bytes) else str(case)
            if not path.startswith(inside):
                note("write", f"{event} {path}")
        elif event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
            note("fetch", event)
        elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn") or (
            event == "import" and str(values[0]).partition(".")[0] in (TRAP, "antigravity")
        ):
            note("execution", values[0])

    os.chdir(case)
    sys.path.insert(0, str(case))
    sys.addaudithook(audit)
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def judge(found: Outcome, case: Path) -> list[str]:
    """What went wrong."""
    wrong = [f"{event}" for event in found["events"]]
    wrong += ["execution: pwned"] if any((place / "pwned").exists() for place in (case, case.parent)) else []
    wrong += ["hang"] if found["status"] == -signal.SIGKILL else []
    wrong += [f"memory: {found['megabytes']:.0f} MB"] if found["megabytes"] > BYTES >> 20 else []
    if "Traceback (most recent call last)" in found["text"] or found["status"] not in (0, 1, 2, 75, -signal.SIGKILL):
        wrong.append(f"traceback: {' '.join(found['text'].split())[-300:]}")
    wrong += ["terminal"] if any(ord(letter) < 32 and letter not in "\n\r\t" for letter in found["text"]) else []
    return wrong


def attack(commands: int, seed: int, place: Path) -> Counter[str]:
    """Run so many commands and print whatever went wrong."""
    made, case = place / "made", place / "case"
    made.mkdir(parents=True)
    DATASETS._entries["attacked"] = lambda _: make_data()
    make_runs(made)
    (place / "outside").write_text("outside\n")
    counted: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    for number in range(commands):
        dice = random.Random(f"{seed} {number}")
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(made, case)
        (case / f"{TRAP}.py").write_text("def make(*_, **__): ...\n")
        (case / "pictures").mkdir()
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        from PIL import Image

        Image.fromarray(pixels).save(case / "pictures" / "a.png")
        arguments, run = choose_command(case, dice)
        done = [dice.choice(ATTACKS)(run, dice)]
        if arguments[0] == "predict":
            done.append(make_picture(case / "pictures" / "b.png", dice))
        digest = hashlib.sha256((place / "outside").read_bytes()).hexdigest()
        found = run_command(arguments, case)
        wrong = judge(found, case)
        if hashlib.sha256((place / "outside").read_bytes()).hexdigest() != digest:
            wrong.append("write: outside")
        statuses[found["status"]] += 1
        counted.update({entry.partition(":")[0].partition(" ")[0] for entry in wrong})
        if wrong:
            print(f"{number}: {' '.join(arguments[:2])}: {'; '.join(done)}: {'; '.join(wrong)[:700]}", flush=True)
    print(f"{commands} commands, exit statuses {dict(sorted(statuses.items()))}")
    return counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        os.environ["XDG_CONFIG_HOME"] = f"{folder}/config"
        total = attack(chosen.commands, chosen.seed, Path(folder) / "place")
    for kind in ("execution", "write", "fetch", "hang", "memory", "traceback", "terminal"):
        print(f"{kind}: {total[kind]}")
    sys.exit(bool(total))
