"""Folders and files made by strangers: looking at them executes, writes and fetches nothing, and comes to an end."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import shutil
import socket
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from spotkd import SpotkdError, create_model, load_dataset
from spotkd.cli import main
from spotkd.data.lazy import cut_ends, decode_and_transform, make_transform
from spotkd.data.preprocessing import Preprocessing
from spotkd.escaping import escape_terminal
from spotkd.models import save_weights
from spotkd.models.weights import read_metadata
from spotkd.options import DataOptions, DistillOptions, ModelOptions, TrainOptions, read_options
from spotkd.report.run_record import read_record
from spotkd.runs.checkpoint import FORMAT, write_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.runs.origin import is_own, note_origin
from spotkd.runs.writer import RunWriter
from spotkd.training import distill, train
from spotkd.untrusted import images
from spotkd.untrusted.files import MAX_TEXT_BYTES, read_text
from spotkd.untrusted.images import decode_and_use
from spotkd.untrusted.names import looking
from spotkd.untrusted.pickles import read_pickle
from spotkd.untrusted.torch_files import load_tensors
from spotkd.untrusted.yaml_files import read_yaml

from . import vision  # noqa: F401  # torchvision, also where it is broken
from .data.formats import write_folder

pytestmark = pytest.mark.usefixtures("untrained_teachers")


@pytest.fixture(scope="module")
def strangers_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished distillation on a few pictures, of which no option names code. Copy it."""
    place = tmp_path_factory.mktemp("stranger")
    write_folder(place / "set", count=4)
    common = {
        "data": DataOptions(f"folder:{place / 'set'}", image_size=16, workers=0),
        "epochs": 1, "batch_size": 8, "quiet": True, "precision": "32", "logger": "none",
    }  # fmt: skip
    train(TrainOptions(**common, out=str(place / "teacher"), model=ModelOptions("resnet8")))  # type: ignore[arg-type]
    networks = {"teacher": ModelOptions("resnet8", str(place / "teacher")), "student": ModelOptions("resnet8")}
    own = {"out": str(place / "run"), "distiller": "at", "strategy": "adaptive", "min_teacher_top1": 0}
    distill(DistillOptions(**common, **networks, **own))  # type: ignore[arg-type]
    return place / "run"


STATE = {"format": FORMAT, "phase": "training", "epoch": 1, "step": 0, "tables": {}, "config": {}, "method": {}}


def seal(content: bytes) -> bytes:
    """A checkpoint with the checksum that anybody can compute."""
    return content + b"\nspotkd sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"


# Names from files


@pytest.mark.parametrize(
    "tables",
    [
        {"../outside.csv": "x"},
        {"/tmp/spotkd-outside.csv": "x"},
        {"config.yaml": "epochs: 1\n"},
        {"student.safetensors": "x"},
        {"metrics.csv": 5},
        {"metrics.csv": ["x"]},
        {3: "x"},
        ["metrics.csv"],
    ],
    ids=str,
)
def test_names_of_tables_are_no_paths(tables: object, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("teacher: {name: resnet8}\n")
    write_checkpoint(folder / "last.ckpt", STATE | {"tables": tables})
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SpotkdError, match=r"last\.ckpt: (refused, it holds a table|not a checkpoint of a training)"):
        RunWriter(folder, {}, "distill", resumes=True)
    assert sorted({path.name for path in folder.iterdir()} - {".lock"}) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not Path("/tmp/spotkd-outside.csv").exists()


# Bombs


def torch_file(pickled: bytes) -> bytes:
    """A file of ``torch.save`` with another pickle in it."""
    buffer, packed = BytesIO(), BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return packed.getvalue()


ENDLESS = b")" + b"q\0" + b"".join(b"h\0h\0\x86q\0" for _ in range(60))  # a tuple twice in a tuple, and so on
MANY = b"(" + b"N" * 30_000 + b"t"  # a long tuple
OPERATIONS = {
    "a key": b"\x80\x02}" + ENDLESS + b"Ns.",
    "one of several keys": b"\x80\x02}(" + ENDLESS + b"Nu.",
    "a key of a dictionary made at once": b"\x80\x02(" + ENDLESS + b"Nd.",
    "in a set": b"\x80\x04\x8f(" + ENDLESS + b"\x90.",
    "in a frozen set": b"\x80\x04(" + ENDLESS + b"\x91.",
    "in a set by a call": b"\x80\x02cbuiltins\nset\n](" + ENDLESS + b"e\x85R.",
    "in an ordered dictionary": b"\x80\x02ccollections\nOrderedDict\n](](" + ENDLESS + b"Neee\x85R.",
    "a storage's key": b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\n" + ENDLESS + b"X\x03\0\0\0cpuK\x01tQ.",
    "calls of one long tuple": b"\x80\x02" + MANY + b"q\1" + b"0ctorch\nfloat32\nh\1R" * 3_000 + b".",
    "states of one long tuple": b"\x80\x02" + MANY + b"q\1" + b"0ccollections\nOrderedDict\n)Rh\1b" * 3_000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "a long number as keys": b"\x80\x02\x8b\0\0\1\0" + b"\1" * (1 << 16) + b"q\0" + b"}" + b"h\0Ns" * 50_000 + b".",
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "lists in lists")) for kind in OPERATIONS]
)
def test_pickles_that_compute_for_ever(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(torch_file(OPERATIONS[kind]))
    with pytest.raises(SpotkdError, match=r"x\.pt: (refused|damaged)"):
        load_tensors(path)
    path.write_bytes(OPERATIONS[kind])
    with pytest.raises(SpotkdError, match=r"x\.pt: (refused|damaged)"):
        read_pickle(path)


def test_keys_of_genuine_files_are_taken(tmp_path: Path) -> None:
    content = {"a": {0: torch.ones(2), (1, "x"): [None]}, "b": {1.5, None, b"y"}, True: {}}
    torch.save(content, tmp_path / "x.pt")
    assert load_tensors(tmp_path / "x.pt")["a"][1, "x"] == [None]  # type: ignore[index]
    (tmp_path / "batch").write_bytes(pickle.dumps({"labels": [1], (1, 2): b"z"}))
    assert read_pickle(tmp_path / "batch") == {"labels": [1], "(1, 2)": b"z"}


YAML_BOMBS = {
    "a scalar of 50 MB": "out: " + "a" * (50 << 20),
    "lines without end": "\n" * (50 << 20),
    "a long list": "spots: [" + "a:b," * 9_000 + "]",
    "merges": "a: &a {" + ",".join(f"k{i}: 1" for i in range(99)) + "}\nb: {<<: [" + ",".join(["*a"] * 300) + "]}",
    "depth": "a: " + "{a: " * 3_000,
    "many keys": "options: {" + ",".join(f"k{i}: 1" for i in range(50_000)) + "}",
}


@pytest.mark.parametrize("kind", YAML_BOMBS)
def test_yaml_is_bounded_before_it_is_parsed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAML_BOMBS[kind])
    for read in (read_yaml, lambda path: read_options(DistillOptions, path)):
        with pytest.raises(SpotkdError, match=r"config\.yaml: .*(are the most|more than)"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        "data: {class_path: evil_module.X}",
        "data.class_path: evil_module.X",
        "class_path: evil_module.X",
        "teacher: {name: {class_path: evil_module.X}}",
        "data: FILE",
        "optim: {__path__: FILE}",
    ],
)
def test_the_parser_of_options_imports_and_opens_nothing(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil_module.py").write_text("open('exploded', 'w')\nclass X: pass\n")
    os.mkfifo("other.yaml")
    Path("run").mkdir()
    Path("run/config.yaml").write_text(content.replace("FILE", "other.yaml"))
    with pytest.raises(SpotkdError, match=r"config\.yaml"):
        read_options(DistillOptions, "run/config.yaml")
    for command in (["report", "run"], ["inspect", "run"], ["distill", "--resume", "run"], ["evaluate", "run"]):
        assert main(command) == 2
    assert main(["train", "--config", "run/config.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 5
    assert not Path("exploded").exists()


# Odd files in place of those of a run


def replace_by_pipe(path: Path) -> None:
    os.mkfifo(path)


def replace_by_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def replace_by_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere")


def replace_by_folder(path: Path) -> None:
    path.mkdir()


def replace_by_hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


RUN_FILES = ("config.yaml", "metrics.csv", "decisions.csv", "summary.json", "last.ckpt", "student.safetensors", ".lock")


@pytest.mark.parametrize(
    "replace", [replace_by_pipe, replace_by_device, replace_by_link, replace_by_folder, replace_by_hole]
)
@pytest.mark.parametrize("name", RUN_FILES)
def test_odd_files_in_place_of_those_of_a_run(
    name: str, replace: Callable[[Path], None], strangers_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(strangers_run, run)
    elsewhere.write_text("as it was")
    (run / name).unlink(missing_ok=True)
    replace(run / name)
    for command in (
        ["report", str(run)],
        ["inspect", str(run)],
        ["evaluate", str(run)],
        ["distill", "--resume", str(run)],
    ):
        if command[0] == "distill" and name in ("student.safetensors",):
            continue  # of a finished run it is not looked at
        status = main(command)
        said = capsys.readouterr().err
        assert status == 0 or said.count("\n") == 1, said
    assert elsewhere.read_text() == "as it was"


@pytest.mark.parametrize("name", ["tensorboard", "csv", "tensorboard/deep/er"])
def test_folders_of_loggers_lead_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpotkdError, match=rf"{name}: a link"):
        RunWriter(tmp_path / "run", {}, "train")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_texts_are_bounded(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    with pytest.raises(SpotkdError, match="32 MB are the most"):
        read_text(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(SpotkdError, match="no UTF-8 text"):
        read_text(tmp_path / "x")


# Code, the network and folders


CODE = """
open("exploded", "w").close()
from spotkd.distillers import Distiller
from spotkd.routing.strategies import Strategy
class Late(Strategy):
    learns = False
def build(classes):
    raise RuntimeError
"""
NAMED = {  # options of a run, and with which words of the command line they are followed
    "strategy": "python:evil.Late",
    "distiller": "python:evil.build",
    "data.name": "python:evil.build",
    "student.name": "python:evil.build",
    "teacher.name": "python:evil.build",
    "data.name of the standard library": "python:antigravity.fly",
    "student.name of a giant": "torchvision:vit_h_14",
}


def edit(run: Path, option: str, value: object) -> None:
    """Another value of an option in a run's ``config.yaml``."""
    options = yaml.safe_load((run / "config.yaml").read_text())
    *sections, key = option.split()[0].split(".")
    place = options
    for section in sections:
        place = place[section]
    place[key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(options))


@pytest.fixture
def here(strangers_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a stranger's run, ``run``, and a module ``evil``."""
    shutil.copytree(strangers_run, tmp_path / "run")
    (tmp_path / "evil.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("option", NAMED)
def test_looking_follows_no_name_of_code(option: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = NAMED[option]
    edit(here / "run", option, name)
    edit(here / "run", "data.image_size", None)  # data by code take none
    sys.modules.pop("antigravity", None)
    assert main(["report", "run"]) == 0
    said = capsys.readouterr().out
    assert f"{name}: a file names this code or address; to follow it, say --trust true\n" in said
    assert name in Path("run/report.html").read_text()
    assert main(["inspect", "run"]) == 2
    assert f"{name}: a file names" in capsys.readouterr().err
    assert main(["evaluate", "run"]) == 0  # the weights note their own names
    assert main(["distill", "--resume", "run"]) == 2
    assert f"run: its options name {name}, and you have not made it" in capsys.readouterr().err
    assert not Path("exploded").exists()
    assert not {"evil", "antigravity"} & set(sys.modules)


def test_code_is_run_where_a_person_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(here / "run", "strategy", "python:evil.Late")
    try:
        assert main(["report", "run", "--trust"]) == 0
        assert Path("exploded").exists()
        assert "a file names" not in capsys.readouterr().out
    finally:
        sys.modules.pop("evil", None)


def test_a_plan_is_reported_without_its_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(
        "title: a\ndata: [glyph94]\npairs: [resnet8-resnet8]\ndistillers: [at]\nstrategies: [python:evil.Late]\n"
    )
    assert main(["report", "plan.yaml"]) == 2
    assert "python:evil.Late: a file names this code" in capsys.readouterr().err
    assert not Path("exploded").exists()


def test_own_runs_are_resumed_with_their_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever made a run on this machine resumes it; a copy with other names in it is a stranger's."""
    own = {"strategy": "python:mine.Rare"}
    folder = here / "own"
    folder.mkdir()
    note_origin(folder, own)
    assert is_own(folder, own)
    assert not is_own(folder, {"strategy": "python:mine.Rare", "distiller": "python:evil.build"})
    note_origin(here / "run", own)
    edit(here / "run", "strategy", "python:evil.Late")
    assert main(["distill", "--resume", "run"]) == 2
    assert "you have not made it on this machine" in capsys.readouterr().err
    main(["distill", "--resume", "run", "--strategy", "python:evil.Late"])
    assert "you have not made it" not in capsys.readouterr().err
    key = Path(os.environ["XDG_CONFIG_HOME"], "spotkd", "key")
    assert key.stat().st_mode & 0o777 == 0o600
    key.unlink()
    assert not is_own(folder, own)
    sys.modules.pop("evil", None)


DATA = {
    "hf:somebody/set": "hf:somebody/set: a file names this code or address",
    "hf:./set": "hf:./set: a file names this code or address",
    "cifar100": "cifar100: no ",
    "tiny-imagenet": "tiny-imagenet: no ",
    "imagenet": "imagenet: no ",
}


@pytest.mark.parametrize("name", DATA)
def test_looking_fetches_nothing_and_makes_no_folders(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for option, value in (
        ("data.name", name), ("data.root", str(here / "new" / "er")), ("data.download", True),
        ("data.mirror", "http://127.0.0.1:9/"),
    ):  # fmt: skip
        edit(here / "run", option, value)
    edit(here / "run", "data.image_size", None)
    assert main(["report", "run"]) == 0
    assert DATA[name] in Path("run/report.html").read_text()
    assert main(["inspect", "run"]) == 2
    assert DATA[name] in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["evil.py", "run"]


def test_weights_note_no_downloads(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = here / "x.safetensors"
    noted = {"data": "cifar100", "data_options": {"download": True, "mirror": "http://127.0.0.1:9/", "root": "new"}}
    save_weights(create_model("resnet8", 100), weights, noted | {"model": "resnet8"})
    monkeypatch.setattr("spotkd.data.download.fetch", None)
    assert main(["evaluate", str(weights), "--root", str(here / "new")]) == 2
    assert not (here / "new").exists()


def test_what_is_packed_stays_packed_while_something_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"x")
    with looking(), pytest.raises(SpotkdError, match="not unpacked yet, and looking at a run writes nothing"):
        load_dataset("cifar100", root=str(tmp_path))


# Pictures, words, damage


@pytest.mark.parametrize("shape", [(6000, 1), (1, 6000), (100_000, 10)])
def test_long_pictures_take_no_gigabytes(shape: tuple[int, int], tmp_path: Path, little_memory: None) -> None:
    Image.new("RGB", shape, (200, 100, 50)).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    photographs = Preprocessing((224, 224), (0.5,), (0.5,), resize="margin")
    grey = Preprocessing((16, 16), (0.5,), (0.5,), "grey")
    for preprocessing, size in ((photographs, (3, 224, 224)), (grey, (1, 16, 16))):
        pixels = decode_and_use("x.png", content, preprocessing.to_pixels)
        assert pixels.shape == size
        assert 80 < pixels.float().mean() < 140
    transform = make_transform(224, training=False, flip=False)
    assert decode_and_transform(("x.png", content), transform, 0, 0).shape == (3, 224, 224)


def test_ordinary_pictures_are_not_cut() -> None:
    for shape in ((3, 100, 20_000), (3, 20_000, 100), (3, 224, 224)):
        picture = torch.zeros(shape, dtype=torch.uint8)
        assert cut_ends(picture, 256).shape == shape
    assert cut_ends(torch.arange(6000).view(1, 1, 6000), 256)[0, 0, 0] == (6000 - 256) // 2


def test_threads_take_turns_at_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_LARGE_PIXELS", 10)
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    inside: list[int] = []

    def use(_: object) -> int:
        inside.append(1)
        time.sleep(0.01)
        return len(inside) - inside.pop()

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: decode_and_use("x", file.getvalue(), use), range(8))) == {0}


WORDS = (
    "$(touch exploded)",
    "; touch exploded",
    "`touch exploded`",
    "a\nb",
    "\x1b[2J\x1b]0;x\x07",
    "--overwrite",
    "\u202ex",
)


@pytest.mark.parametrize("word", WORDS)
def test_the_command_that_repeats_a_run_is_only_that(word: str, here: Path) -> None:
    edit(here / "run", "options", {word: 1, "b": word})
    edit(here / "run", "data.root", word)
    command = read_record(Path("run"), word).command
    assert command.isprintable()
    words = shlex.split(command)
    assert words[:2] == ["spotkd", "distill"]
    shown = escape_terminal(word)
    assert f"--data.root={shown}" in words or words[words.index("--data.root") + 1] == shown
    assert f"--options.{shown}" in words


@pytest.mark.parametrize("word", WORDS)
def test_commands_in_messages_can_be_copied(word: str, tmp_path: Path) -> None:
    with RunWriter(tmp_path / word, {}, "train") as run:
        command = run.resume_command()
    assert command.isprintable()
    assert shlex.split(command) == ["spotkd", "train", "--resume", escape_terminal(str(tmp_path / word))]


@pytest.mark.slow
def test_no_control_characters_reach_the_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x9b\u202e"
    metadata = read_metadata("run")
    save_weights(create_model("resnet8", 3), "run/student.safetensors", metadata | {"classes": [evil, "b", "c"]})
    summary = json.loads(Path("run/summary.json").read_text())
    Path("run/summary.json").write_text(json.dumps(summary | {"protocol": evil, "shares": {evil: 1.0}}))
    picture = here / f"{evil}.png"
    Image.new("RGB", (16, 16)).save(picture)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for command in (
            ["predict", "run", str(picture), "--top", "3"],
            ["report", "run", "--figures", "figures"],
            ["distill", "--resume", "run"],
            ["inspect", f"run{evil}"],
            ["export", "run", "--format", "safetensors", "--out", f"{evil}.safetensors"],
        ):
            main(command)
            shown = warnings.formatwarning(Warning(f"Glyph 27 ({evil}) is missing"), Warning, "x.py", 1, "")
            said = capsys.readouterr()
            text = (said.out + said.err + shown).replace("\n", "")
            assert text.isprintable(), ascii(text)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set", count=4)
    for split in ("train", "val"):
        ant = tmp_path / "set" / split / "ant"
        if ant.exists():
            first = min(ant.iterdir())
            first.rename(ant / os.fsdecode(b"\xff.png"))
            ant.rename(ant.with_name(os.fsdecode(b"ant \xff")))
    common = ["--data", "folder:set", "--data.image_size", "16", "--epochs", "1", "--quiet", "--logger", "none"]
    assert main(["train", "--model", "resnet8", *common, "--out", "teacher"]) == 0
    teacher = [
        "--teacher",
        "resnet8",
        "--teacher.checkpoint",
        "teacher",
        "--min_teacher_top1",
        "0",
        "--strategy",
        "adaptive",
    ]
    assert main(["distill", *teacher, *common, "--out", "run"]) == 0
    for command in (
        ["inspect", "run"],
        ["report", "run", "--figures", "figures"],
        ["evaluate", "run"],
        ["predict", "run", "set"],
    ):
        assert main(command) == 0, capsys.readouterr().err
    assert "ant \\udcff" in Path("run/inspect-train.csv").read_text()
    assert "ant \\udcff" in Path("run/report.html").read_text()


def torn(text: str) -> str:
    return text[: text.rstrip().rindex("\n") + 8]


@pytest.mark.parametrize("name", ["metrics.csv", "decisions.csv"])
def test_a_torn_row_is_left_out(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "run" / name
    text = path.read_text()
    path.write_text(text + torn(text)[-7:])
    whole = RunFolder("run").metrics
    assert main(["report", "run"]) == 0
    assert f"{name}: its last row is torn, and left out" in Path("run/report.html").read_text()
    assert RunFolder("run").remarks == [f"{name}: its last row is torn, and left out"]
    path.write_text(text)
    assert RunFolder("run").metrics == whole
    assert RunFolder("run").remarks == []
