"""Files made by strangers: each is refused on one line that names it, and does nothing else.

The refusals run with half a gigabyte of memory to spare, so that none of them can come after an allocation that a file
asked for, and in a folder that must be afterwards as it was.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from spotkd import SpotkdError, create_model
from spotkd.cli import main
from spotkd.models import save_weights
from spotkd.options import read_options
from spotkd.untrusted.archives import unpack_archive
from spotkd.untrusted.images import decode_image, ignore_warnings, read_image_size
from spotkd.untrusted.yaml_files import read_yaml

from .data.formats import write_cifar10, write_folder, write_tiny_imagenet

pytestmark = pytest.mark.usefixtures("untrained_teachers")

CANARY = "exploded"


class Bomb:
    """What a pickle can do: call anything."""

    def __init__(self, call: Callable[..., object] = os.mkdir, *arguments: object) -> None:
        self.call, self.arguments = call, arguments or (CANARY,)

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def torch_zip(replace: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    """A file of ``torch.save`` with one tensor of 16 numbers, and other contents of its parts."""
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(16)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w", compress) as target:
        for name in source.namelist():
            target.writestr(name, replace.get(name.partition("/")[2], source.read(name)))
    return packed.getvalue()


def pickled_tensor(numbers: int, shape: int) -> bytes:
    """The pickle of ``{"a": tensor}`` with other claims about its storage and its shape."""
    with io.BytesIO() as file:
        torch.save({"a": torch.zeros(16)}, file)
        with zipfile.ZipFile(file) as package:
            (name,) = (name for name in package.namelist() if name.endswith("data.pkl"))
            content = package.read(name)

    def integer(value: int) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    claimed = content.replace(b"K\x10tq\x07Q", integer(numbers) + b"tq\x07Q").replace(
        b"K\x10\x85", integer(shape) + b"\x85"
    )
    assert numbers == shape == 16 or claimed != content
    return claimed


def legacy(content: bytes) -> bytes:
    """A file as torch wrote it before 1.6: pickles one after the other, then the storages."""
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + content + pickle.dumps(["0"], 2) + struct.pack("<q", 16) + bytes(64)


def safetensors(header: object, body: int = 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(body)


def tensor(start: int, stop: int, *shape: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def noting(**metadata: object) -> bytes:
    return safetensors({"__metadata__": {"spotkd": json.dumps(metadata)}, "a": tensor(0, 64, 16)})


TERA = 1 << 40
CHECKPOINTS: dict[str, tuple[str, bytes, str]] = {  # name, content, and what is said of it
    "bomb": (".pt", torch_zip({"data.pkl": pickle.dumps(Bomb(), 2)}), "refused, it holds more than tensors"),
    "bomb by eval": (".pth", torch_zip({"data.pkl": pickle.dumps(Bomb(eval, "1"), 2)}), "refused, it holds more"),
    "legacy bomb": (".pth", legacy(pickle.dumps({"model": Bomb()}, 2)), "refused, it holds more than tensors"),
    "bomb in place of the magic number": (".ckpt", pickle.dumps(Bomb()), "refused, it holds more than tensors"),
    "memory by bytearray": (
        ".pt",
        legacy(pickle.dumps(Bomb(bytearray, TERA), 2)),
        "refused, it holds more than tensors",
    ),
    "memory by a constructor": (".pt", legacy(b"\x80\x02ctorch\nTensor\nJ\0\0\0\x10\x85R."), "names 'torch.Tensor'"),
    "memory by a long string": (".pt", b"\x80\x04\x8e" + struct.pack("<Q", TERA) + b"x.", "ends too early"),
    "memory by a bytearray of protocol 5": (".pt", b"\x80\x05\x96" + struct.pack("<Q", TERA) + b"x.", "damaged"),
    "memory by a memo": (".pt", legacy(b"\x80\x02Nr\xff\xff\xff\x7f."), "damaged or not a checkpoint"),
    "a storage too large": (
        ".pt",
        torch_zip({"data.pkl": pickled_tensor(TERA, TERA)}),
        f"claims {4 * TERA} bytes and has 64",
    ),
    "a tensor too large": (
        ".pt",
        torch_zip({"data.pkl": pickled_tensor(16, TERA)}),
        "claims more than its storage of 16",
    ),
    "a legacy storage too large": (".pt", legacy(pickled_tensor(TERA, TERA)), f"tensors claim {4 * TERA} bytes"),
    "a legacy tensor too large": (".pt", legacy(pickled_tensor(16, TERA)), "claims more than its storage of 16"),
    "a zip bomb": (".pt", torch_zip({"data/0": bytes(1 << 30)}, zipfile.ZIP_DEFLATED), "refused, it is compressed"),
    "a zip of something else": (".pt", b"PK\x03\x04" + bytes(99), "damaged or not a checkpoint"),
    "nothing": (".pt", b"", "damaged or not a checkpoint"),
    "header of a terabyte": (".safetensors", safetensors({}, length=TERA), "not a readable safetensors file"),
    "tensor of a terabyte": (
        ".safetensors",
        safetensors({"a": tensor(0, TERA, TERA // 4)}),
        "not a readable safetensors",
    ),
    "shape beyond numbers": (".safetensors", safetensors({"a": tensor(0, 64, 1 << 62, 1 << 62)}), "overflow"),
    "overlapping": (".safetensors", safetensors({"a": tensor(0, 64, 16), "b": tensor(0, 64, 16)}), "invalid offset"),
    "a hole": (".safetensors", safetensors({"a": tensor(0, 16, 4), "b": tensor(32, 64, 8)}), "invalid offset"),
    "negative": (".safetensors", safetensors({"a": tensor(0, -16, -4)}), "not a readable safetensors file"),
    "unknown type": (
        ".safetensors",
        safetensors({"a": tensor(0, 64, 16, dtype="PY")}),
        "not a readable safetensors file",
    ),
    "more than told": (".safetensors", safetensors({"a": tensor(0, 16, 4)}), "not a readable safetensors file"),
    "deep header": (".safetensors", safetensors(b"[" * 100_000), "not a readable safetensors file"),
    "notes a number of classes": (".safetensors", noting(classes=5), "it notes a int as its classes"),
    "notes classes without names": (".safetensors", noting(classes=[[]] * 94), "not all of its classes are names"),
    "notes a list of data": (".safetensors", noting(data=["glyph94"]), "it notes a list as its data"),
    "notes a model": (".safetensors", noting(model={"a": 1}), "it notes a dict as its model"),
    "notes options": (".safetensors", noting(data_options=[1]), "its data_options is a list"),
    "notes a limit": (".safetensors", noting(data_options={"limit": "1"}), "it notes a str as its limit"),
    "notes true": (".safetensors", noting(data_options={"image_size": True}), "it notes a bool as its image_size"),
    "notes a list": (
        ".safetensors",
        safetensors({"__metadata__": {"spotkd": "[]"}, "a": tensor(0, 64, 16)}),
        "its metadata is a list",
    ),
    "deep notes": (
        ".safetensors",
        safetensors({"__metadata__": {"spotkd": "[" * 100_000}, "a": tensor(0, 64, 16)}),
        "not a readable safetensors file",
    ),
}
PLACES = {
    "teacher": ["distill", "--teacher", "resnet8", "--teacher.checkpoint", "FILE"],
    "student": ["distill", "--teacher", "resnet8", "--teacher.checkpoint", "GOOD", "--student.checkpoint", "FILE"],
    "model": ["train", "--model", "resnet8", "--model.checkpoint", "FILE"],
    "preparation": [
        *("distill", "--teacher", "resnet8", "--teacher.checkpoint", "GOOD", "--data.limit", "94"),
        *("--distiller", "ft", "--preparation.checkpoint", "FILE", "--quiet"),
    ],
    "evaluate": ["evaluate", "FILE", "--model", "resnet8", "--data", "glyph94"],
}


FEW = ("bomb", "legacy bomb", "a legacy storage too large", "a zip bomb", "header of a terabyte")
KINDS = {"evaluate": CHECKPOINTS}  # all of them; the other places read by the same function


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("good") / "weights.safetensors"
    save_weights(create_model("resnet8", 94), path, {"model": "resnet8", "data": "glyph94"})
    main(["evaluate", str(path), "--batch-size", "0"])  # what is imported late is imported now
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What is said when a command is refused, which is one line."""
    assert main(list(command)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("spotkd: ")
    assert said.err.count("\n") == 1
    assert said.err[:-1].isprintable()
    assert "Traceback" not in said.out + said.err
    assert "alloc" not in said.err.lower()
    assert "memory" not in said.err.lower()
    return said.err


@pytest.mark.parametrize(("place", "kind"), [(place, kind) for place in PLACES for kind in KINDS.get(place, FEW)])
def test_checkpoints(
    kind: str,
    place: str,
    good: str,
    few_faces: None,
    little_memory: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suffix, content, message = CHECKPOINTS[kind]
    if place == "preparation":  # prepared.ckpt is a sealed file of torch.save, whatever it is called
        content += b"\nspotkd sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"
        message = "damaged" if suffix == ".safetensors" else message
    monkeypatch.chdir(tmp_path)
    file = f"x y{suffix}"
    Path(file).write_bytes(content)
    said = refused(capsys, *({"FILE": file, "GOOD": good}.get(part, part) for part in PLACES[place]))
    assert said.startswith(f"spotkd: {file}: ")
    assert message in said
    assert not Path(CANARY).exists()


def test_the_bombs_are_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever unpickles these files makes the folder, so that its absence above says something."""
    monkeypatch.chdir(tmp_path)
    Path("x.pt").write_bytes(CHECKPOINTS["bomb"][1])
    with suppress(Exception):  # what comes after does not matter
        torch.load("x.pt", weights_only=False)["a"]
    assert Path(CANARY).exists()


def test_types_of_weights(tmp_path: Path) -> None:
    model = create_model("resnet8", 10)
    state = model.state_dict()
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()}, tmp_path / "a.pt"
    )
    create_model("resnet8", 10, tmp_path / "a.pt")  # another precision is none of the mistakes
    torch.save(state | {"fc.weight": state["fc.weight"].long()}, tmp_path / "b.pt")
    with pytest.raises(SpotkdError, match=r"has another type for fc\.weight torch\.int64 instead of torch\.float32"):
        create_model("resnet8", 10, tmp_path / "b.pt")


LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML: dict[str, tuple[str | bytes, str]] = {
    "an object": ("out: !!python/object/apply:os.mkdir [exploded]\n", "python/object/apply:os.mkdir"),
    "a name": ("out: !!python/name:os.mkdir\n", "python/name:os.mkdir asks for more than plain values"),
    "a tag of its own": ("out: !thing {}\n", "the YAML tag !thing"),
    "bytes": ("out: !!binary aGVsbG8=\n", "binary asks for more"),
    "a billion laughs": (LAUGHS, "more than 2000 values"),
    "laughs in a section": ("optim:\n  " + LAUGHS.replace("\n", "\n  "), "more than 2000 values"),
    "itself": ("options: &a {b: *a}\n", "the YAML alias *a stands for nothing before it"),
    "depth": ("optim: " + "[" * 50_000 + "]" * 50_000, "more than 20 lists or sections inside one another"),
    "depth by lines": ("".join(" " * n + "a:\n" for n in range(200)), "more than 20 lists or sections"),
    "length": ("optim: {milestones: [" + "1," * 20_000 + "]}", "more than 2000 values"),
    "a long number": ("epochs: " + "9" * 5000, "integer string conversion"),
    "no text": (b"\xff\xfe\xfd", "can't decode byte"),
    "the end of a name": ('out: "a\\0b"\n', "it holds a character that is no UTF-8 text"),
    "half a character": ('out: "\\uD800"\n', ""),
    "control characters": ('model: {name: "\\e[2J"}\n', "\\x1b[2J"),
}


@pytest.mark.parametrize("command", ["train", "bench", "report", "recipe"])
@pytest.mark.parametrize("kind", YAML)
def test_configurations(
    kind: str,
    command: str,
    little_memory: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, message = YAML[kind]
    monkeypatch.chdir(tmp_path)
    Path("c d.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    commands = {
        "train": ["train", "--config", "c d.yaml"],
        "bench": ["bench", "c d.yaml"],
        "report": ["report", "c d.yaml"],
        "recipe": ["train", "--recipe", "cifar100/single/resnet20", "--config=c d.yaml"],
    }
    said = refused(capsys, *commands[command])
    if command in ("train", "recipe"):
        assert message in said
    if kind not in ("the end of a name", "control characters", "a long number") or command in ("bench", "report"):
        assert "c d.yaml" in said
    assert [path.name for path in tmp_path.iterdir()] == ["c d.yaml"]


def test_a_plan_with_aliases_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


# Archives and pictures


def picture(width: int, height: int) -> bytes:
    """A PNG that claims a size; its content does not come up to it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(exploded) (w) file closefile\n%%EOF\n"
PICTURES = {
    "a bomb for Pillow": (picture(50_000, 50_000), "more than 100 million pixels"),
    "a smaller bomb": (picture(11_000, 10_000), "more than 100 million pixels"),
    "truncated": (picture(16, 16), "damaged"),
    "PostScript": (EPS, "damaged or not a picture"),
    "no picture": (b"GIF89a", "damaged or not a picture"),
    "nothing": (b"", "damaged or not a picture"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(kind: str, little_memory: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = PICTURES[kind]
    write_folder(tmp_path / "set", count=2)
    bad = tmp_path / "set" / "train" / "ant" / "000.png"
    bad.write_bytes(content)
    said = refused(capsys, "train", "--data", f"folder:{tmp_path / 'set'}", "--out", str(tmp_path / "run"))
    assert f"{bad}: " in said
    assert message in said
    assert not (tmp_path / "run").exists()
    if "bomb" in kind:
        for look in (decode_image, read_image_size):
            with ignore_warnings(), pytest.raises(SpotkdError, match="more than 100 million pixels"):
                look("x", content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_among_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "set", count=2)
    bad = tmp_path / "set" / "train" / "ant" / "000.png"
    bad.unlink()
    os.mkfifo(bad)
    assert "not a plain file" in refused(capsys, "train", "--data", f"folder:{tmp_path / 'set'}")
    bad.unlink()
    bad.symlink_to("/dev/zero")
    assert "not a plain file" in refused(capsys, "train", "--data", f"folder:{tmp_path / 'set'}")


@pytest.mark.slow
def test_a_bomb_in_the_zip_of_tiny_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_imagenet(tmp_path, as_zip=True)
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip") as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in contents.items():
            new.writestr(name, bytes(300 << 20) if name.endswith("n01443537_1.JPEG") else content)
    said = refused(capsys, "train", "--data", "tiny-imagenet", "--data.root", str(tmp_path))
    assert "n01443537_1.JPEG: damaged (it unfolds to 300 MB)" in said


def test_a_bomb_among_the_pickles_of_cifar(
    little_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    for content, message in (
        (pickle.dumps({"data": Bomb()}), "refused, it would execute"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "a NoneType in place of a dictionary"),
        (b"\x80\x05\x96" + struct.pack("<Q", TERA) + b"x.", "ends too early"),
        (b"\x80\x04\x8e" + struct.pack("<Q", TERA) + b"x.", "ends too early"),
    ):
        file.write_bytes(content)
        said = refused(capsys, "train", "--data", "cifar10", "--data.root", str(tmp_path))
        assert str(file) in said
        assert message in said
    assert not Path(CANARY).exists()


def test_archives_put_there_by_somebody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in them: their checksum is looked at before they are opened."""
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("../../outside")
        tar.addfile(info, io.BytesIO())
    said = refused(capsys, "train", "--data", "cifar10", "--data.root", str(root))
    assert "cifar-10-python.tar.gz: has md5" in said
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_archives_that_unfold_without_end(name: str, tmp_path: Path) -> None:
    """Links, devices and names outside the folder are in tests/data/test_download.py."""
    size = 80 << 20
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as package:
            package.writestr("top/a", bytes(size))
    else:
        with tarfile.open(tmp_path / name, "w:gz", compresslevel=1) as tar:
            info = tarfile.TarInfo("top/a")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    with pytest.raises(SpotkdError, match=rf"{name}: refused, it would unfold to more than 64 MB"):
        unpack_archive(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_claim_of_a_terabyte_in_a_tar(tmp_path: Path) -> None:
    info = tarfile.TarInfo("top/a")
    info.size = TERA
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(SpotkdError, match="would unfold to more than"):
        unpack_archive(tmp_path / "x.tar", tmp_path / "out")


# Names of files and folders

PLACE_NAMES = [
    "with space",
    "Größe 大小 \N{SNOWMAN}",
    "link",
    "'quoted' \"twice\"",
    "[red]x[/red]",
    "-dash",
    "a=b",
    "{x}",
    "x.yaml.d",
]


@pytest.mark.parametrize("name", PLACE_NAMES)
def test_paths_of_all_kinds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / name
    if name == "link":
        (tmp_path / "behind").mkdir()
        place.symlink_to("behind")
    write_folder(place / "pictures & more", count=3)
    monkeypatch.chdir(tmp_path)
    data = ["--data", f"folder:{name}/pictures & more", "--data.image_size", "16", "--epochs", "1", "--quiet"]
    teacher, student = f"{name}/teacher run", f"{name}/student run"
    assert main(["train", "--model", "resnet8", *data, f"--out={teacher}"]) == 0, capsys.readouterr().err
    options = [
        "--teacher",
        "resnet8",
        f"--teacher.checkpoint={teacher}",
        *data,
        f"--out={student}",
        "--distiller",
        "kd",
    ]
    assert main(["distill", *options]) == 0, capsys.readouterr().err
    for checkpoint in (student, f"./{student}/student.safetensors"):
        command = ["evaluate", checkpoint] if not checkpoint.startswith("-") else ["evaluate", f"./{checkpoint}"]
        assert main(command) == 0, capsys.readouterr().err
    repeated = ["distill", "--config", f"./{student}/config.yaml", "--out", f"./{name}/again"]
    assert main(repeated) == 0, capsys.readouterr().err


def test_a_name_that_is_no_text(
    few_faces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"not \xff text")
    options = ["--data.limit", "94", "--epochs", "1", "--quiet", "--batch-size", "94"]
    assert "no UTF-8 text" in refused(capsys, "train", "--model", "resnet8", *options, "--out", name)
    assert "no UTF-8 text" in refused(capsys, "evaluate", name)


def test_a_run_folder_of_a_stranger(tmp_path: Path) -> None:
    """A run folder made by a stranger: its configuration goes the same way."""
    from spotkd.options import TrainOptions

    (tmp_path / "config.yaml").write_text("out: !!python/object/apply:os.mkdir [exploded]\n")
    for read in (lambda path: read_options(TrainOptions, path), read_yaml):
        with pytest.raises(SpotkdError, match=r"config\.yaml: the YAML tag"):
            read(tmp_path / "config.yaml")
