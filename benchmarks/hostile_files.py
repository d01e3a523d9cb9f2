"""Hostile and damaged files, made from random numbers: what ``attack.py`` does to a run before it is looked at."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CODE = "open('exploded', 'w').close()\ndef build(*_): open('exploded', 'w').close()\nclass Thing: pass\n"
NAMES = ("python:evil.build", "python:evil.Thing", "python:evil.build", "python:evil.Thing",
         "python:antigravity.fly", "python:os.getcwd", "python:os.system",
         "torchvision:evil", "timm:hf-hub:evil/evil", "hf:evil/evil", "hf:./evil", "cifar100", "tiny-imagenet",
         "imagenet", "folder:/dev", "folder:/proc/self", "folder:~", "../evil", "/dev/zero", "evil.build")  # fmt: skip
WORDS = ("", "\x1b[2J", "$(touch exploded)", "a" * 10_000, "../../x", "/dev/zero", "\ud800", "\0", "-1", "nan", "é")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 62,
    1 << 70,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"a": 1},
)
TEXTS = ("config.yaml", "metrics.csv", "decisions.csv", "summary.json")
CHECKPOINTS, WEIGHTS = ("last.ckpt", "previous.ckpt"), "student.safetensors"
FILES = (*TEXTS, *CHECKPOINTS, WEIGHTS)


def any_value(dice: random.Random) -> Any:
    return dice.choice((*VALUES, *NAMES, *WORDS))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ([*path, key], *leaves(inner, (*path, key)))]  # type: ignore[misc]


def replace_somewhere(value: Any, new: Any, dice: random.Random) -> None:
    """Another value in some place, or none."""
    *outer, key = dice.choice(leaves(value) or [("a",)])
    for part in outer:
        value = value[part]
    if dice.random() < 0.2:
        del value[key]
    elif dice.random() < 0.1 and isinstance(value, dict):
        value[dice.choice((*WORDS, "class_path", 3))] = new
    else:
        value[key] = new


# Damage of any file


def flip(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 5, 50))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def tear(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content))]


def repeat(content: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(content))
    return content[:start] + content[start : start + 100] * dice.choice((2, 100, 100_000))


def damage(run: Path, dice: random.Random) -> None:
    """Some bytes of a file are others, are missing, or stand there again and again."""
    path = dice.choice([run / name for name in FILES if (run / name).exists()])
    path.write_bytes(dice.choice((flip, tear, repeat))(path.read_bytes(), dice))


def put_odd_file(run: Path, dice: random.Random) -> None:
    """A pipe, a device, a link, a folder or a hole in place of a file, or a link in place of a folder."""
    path = run / dice.choice((*FILES, ".lock", "loggers.json", "tensorboard", "csv", "prepared.ckpt", "origin.txt"))
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    kind = dice.choice(("pipe", "device", "link", "folder", "hole"))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "hole":
        with path.open("wb") as file:
            file.truncate(dice.choice((1 << 22, 1 << 30, 1 << 40)))
    else:
        path.symlink_to({"device": "/dev/zero", "link": "../outside/file"}[kind])


# Texts


def edit_config(run: Path, dice: random.Random) -> None:
    """Options of other types, names of code, of addresses and of devices."""
    path = run / "config.yaml"
    options = yaml.safe_load(path.read_text())
    for _ in range(dice.choice((1, 1, 2, 5))):
        if dice.random() < 0.5:
            section, key = dice.choice((("data", "name"), ("teacher", "name"), ("student", "name"), ("", "distiller"),
                                        ("", "strategy"), ("data", "root"), ("teacher", "checkpoint")))  # fmt: skip
            place = options.get(section) if section else options
            if isinstance(place, dict):
                place[key] = dice.choice(NAMES)
        else:
            replace_somewhere(options, any_value(dice), dice)
    if dice.random() < 0.3 and isinstance(options.get("data"), dict):
        options["data"] |= {"download": True, "mirror": "http://127.0.0.1:9/"}
    path.write_text(yaml.safe_dump(options))


def put_bomb_in_config(run: Path, dice: random.Random) -> None:
    """YAML that unfolds, nests, merges or is long."""
    count = dice.choice((100, 3_000, 200_000))
    text = dice.choice((
        "out: " + "a" * (1 << 26), "a: &a [x]\n" + "b: &a [*a, *a]\n" * count, "[" * count, "{a: " * count,
        "- " * count,
        "a: &a {" + ",".join(f"k{i}: 1" for i in range(count)) + "}\nb: {<<: [" + ",".join(["*a"] * 99) + "]}",
        "spots: [" + "a:b, " * count + "]", "? " * count, "!!python/object/apply:os.system ['touch exploded']",
        "data: {class_path: evil.Thing}", "data: ../outside/pipe", "teacher.class_path: evil.Thing", "optim: /dev/zero",
        "options: {" + ",".join(f"k{i}: 1" for i in range(count)) + "}", "\n" * count,
        "&a " * count, "%TAG ! x\n" * count,
    ))  # fmt: skip
    whole = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(dice.choice((text, f"{whole}\n{text}\n")))


def edit_summary(run: Path, dice: random.Random) -> None:
    path = run / "summary.json"
    content = json.loads(path.read_text())
    replace_somewhere(content, any_value(dice), dice)
    path.write_text(dice.choice((json.dumps(content), "[" * 100_000, "9" * 5000, "{}", "null", '{"a":' * 9999)))


def edit_table(run: Path, dice: random.Random) -> None:
    """Cells of other kinds, rows and columns too few or too many."""
    path = run / dice.choice(("metrics.csv", "decisions.csv"))
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for _ in range(dice.choice((1, 1, 3))):
        row = dice.choice(rows)
        place = dice.randrange(len(row)) if row else 0
        new = dice.choice(
            ("", "nan", "inf", "-inf", "1e308", "1e999", "-1", "9" * 5000, "\x1b[2J", '"', "x", "1.5", "\0")
        )
        kind = dice.choice(("cell", "cell", "fewer", "more", "rows", "columns"))
        if kind == "cell" and row:
            row[place] = new
        elif kind == "fewer":
            del row[place:]
        elif kind == "more":
            row.append(new)
        elif kind == "rows":
            rows += rows[1:] * dice.choice((1, 1000))
        else:
            for each in rows:
                each += each * dice.choice((1, 1000))
    path.write_text("\n".join(map(",".join, rows)) + dice.choice(("\n", "", "\r\n")))


# Checkpoints and weights


def seal(content: bytes) -> bytes:
    """With the checksum that anybody can compute."""
    return content + b"\nspotkd sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def put_pickle(content: bytes, pickled: bytes) -> bytes:
    """A file of ``torch.save`` with another pickle in it."""
    packed = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return packed.getvalue()


def bombs(dice: random.Random) -> bytes:
    """Pickles that run a program, or would compute or allocate for ever."""
    endless = b")q\0" + b"h\0h\0\x86q\0" * dice.choice((5, 60))
    many = b"(" + b"N" * 30_000 + b"tq\1"
    return dice.choice((
        pickle.dumps(Bomb(), 2), pickle.dumps({"a": Bomb()}, 4), b"\x80\x02}" + endless + b"Ns.",
        b"\x80\x02(" + endless + b"Nd.", b"\x80\x04(" + endless + b"\x91.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x02" + many + b"0ctorch\nfloat32\nh\1R" * 20_000 + b".",
        b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x02cevil\nbuild\n)R.", b"cos\nsystem\n(S'touch exploded'\ntR.",
        b"\x80\x02" + b"\x8b" + struct.pack("<i", 1 << 20) + b"\1" * (1 << 20) + b"q\0}" + b"h\0Ns" * 100_000 + b".",
    ))  # fmt: skip


def put_bomb(run: Path, dice: random.Random) -> None:
    """A hostile pickle in place of that of a checkpoint, with a right checksum."""
    path = run / dice.choice(CHECKPOINTS)
    content = path.read_bytes()[:-79]
    pickled = bombs(dice)
    path.write_bytes(seal(dice.choice((pickled, put_pickle(content, pickled), put_pickle(content, pickled)))))
    if dice.random() < 0.7:
        (run / "last.ckpt").write_bytes(path.read_bytes())


def edit_state(run: Path, dice: random.Random) -> None:
    """Other values in a checkpoint, which has a right checksum all the same."""
    path = run / "last.ckpt"
    state = torch.load(BytesIO(path.read_bytes()[:-79]), weights_only=True)
    if dice.random() < 0.3:
        name = dice.choice(("../outside/written", str(run.parent / "outside" / "written"), "config.yaml", ".lock", "x"))
        state["tables"][name] = "x"
    for _ in range(dice.choice((0, 1, 3))):
        new = dice.choice((any_value(dice), torch.zeros(3), torch.full((2, 2), float("nan"))))
        replace_somewhere(state, new, dice)
    buffer = BytesIO()
    torch.save(state, buffer)
    path.write_bytes(seal(buffer.getvalue()))


def edit_weights(run: Path, dice: random.Random) -> None:
    """Other notes beside the weights, or other weights."""
    path = run / WEIGHTS
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        notes = json.loads(file.metadata()["spotkd"])
    for _ in range(dice.choice((1, 1, 3))):
        replace_somewhere(notes, any_value(dice), dice)
    if dice.random() < 0.3:
        notes["data_options"] = {"download": True, "mirror": "http://127.0.0.1:9/", "root": "../outside/new"}
        notes["data"] = dice.choice(NAMES)
    if dice.random() < 0.3:
        name = dice.choice(list(tensors))
        tensors[name] = dice.choice((torch.zeros(1 << 20), torch.full_like(tensors[name], 1, dtype=torch.float64) / 0))
    save_file(tensors, path, {"spotkd": dice.choice((json.dumps(notes), json.dumps(notes), "[" * 9999, "x", "[]"))})
    if dice.random() < 0.2:
        path.write_bytes(struct.pack("<Q", dice.choice((0, 1 << 40, 1 << 63))) + path.read_bytes()[8:])


# Pictures


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def put_picture(run: Path, dice: random.Random) -> None:
    """A hostile picture among those that are classified."""
    folder = run.parent / "pictures"
    path = folder / dice.choice(("x.png", "\x1b[2J.png", "$(touch exploded).jpg", os.fsdecode(b"\xff.png"), "-x.gif"))
    kind = dice.choice(("shape", "claim", "damage", "odd", "program"))
    if kind == "odd":
        os.mkfifo(path) if dice.random() < 0.5 else path.symlink_to("/dev/zero")
        return
    genuine = next(folder.iterdir()).read_bytes()
    width, height = dice.choice(((6000, 1), (1, 6000), (100_000, 1), (9_000, 9_000), (1, 1)))
    if kind == "shape":
        path.write_bytes(png(width, height, (b"\0" + bytes(3 * width)) * height))
    elif kind == "claim":
        path.write_bytes(png(dice.choice((50_000, 1 << 30)), 50_000, bytes(99)))
    elif kind == "damage":
        path.write_bytes(dice.choice((flip, tear, repeat))(genuine, dice))
    else:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n(exploded) (w) file closefile\n%%EOF\n")


TRAINING = "--data folder:set --data.image_size 16 --data.workers 0 --epochs 2 --batch_size 8 --quiet --logger csv"
NETWORKS = "--teacher resnet8 --teacher.checkpoint teacher --student resnet8"
DISTILLING = f"{NETWORKS} --strategy adaptive --min_teacher_top1 0 {TRAINING}"
LOOKING = (
    "report {run}", "report {run} --figures figures", "inspect {run}", "distill --resume {run} --quiet",
    "distill {options} --resume auto --out {run}",
)  # fmt: skip
USING = (
    "evaluate {run}", "predict {run} pictures", "export {run} --format safetensors --out student.safetensors",
    "predict {run}/student.safetensors pictures --csv p.csv", "evaluate {run}/student.safetensors --data folder:set",
)  # fmt: skip
COMMANDS = (*LOOKING, *USING)
ATTACKS: tuple[tuple[Callable[[Path, random.Random], None], tuple[str, ...]], ...] = (
    (damage, COMMANDS), (put_odd_file, COMMANDS), (edit_config, COMMANDS), (edit_config, LOOKING),
    (put_bomb_in_config, LOOKING), (edit_summary, LOOKING), (edit_table, LOOKING), (put_bomb, LOOKING),
    (edit_state, LOOKING), (edit_weights, USING), (put_picture, USING[1:2]),
)  # fmt: skip
