"""Whatever comes in, something clean comes out: a configuration, a data set, weights, or an error of one line.

The same cases every time; HYPOTHESIS_PROFILE=long draws others, twenty times as many.
"""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from spotkd import SpotkdError, create_model
from spotkd.cli.arguments import parser_of, read
from spotkd.cli.commands import COMMANDS
from spotkd.data import DataSpec, load_data
from spotkd.errors import one_line
from spotkd.experiments.plan import Plan
from spotkd.models.weights import read_metadata, read_state_dict, save_weights
from spotkd.options import EvaluateOptions, TrainOptions, read_options
from spotkd.untrusted.images import decode_image, ignore_warnings, read_image_size
from spotkd.untrusted.torch_files import load_tensors

from .data.formats import random_picture, write_cifar10, write_cifar100, write_folder, write_tiny_imagenet

pytestmark = pytest.mark.slow

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("ci", derandomize=True, **COMMON)  # type: ignore[arg-type]  # of several types
settings.register_profile("long", max_examples=2000, **COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def cases(number: int) -> Callable[[Any], Any]:
    """So many cases, and twenty times as many in the long profile."""
    return settings(max_examples=number * (20 if LONG else 1))


def clean(what: Callable[[], object]) -> object:
    """What comes of it, None if it was refused; any other exception fails the test."""
    try:
        return what()
    except (SpotkdError, ArgumentError, OSError) as error:  # what the command line tells on one line
        said = one_line(error)
    assert said.isprintable()
    return None


# Configurations

NAMES = sorted({name for command in COMMANDS for name in parser_of(command).get_defaults().keys() if name != "config"})  # noqa: SIM118  # a namespace
WORDS = sorted({part for name in NAMES for part in name.split(".")})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.dates(),
    st.sampled_from(
        ["auto", "scaled", "-", "=", "1e400", ".nan", "~", "[", "{", "a: b", "x.yaml", "!!x", "*a", "&a b"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | SCALARS, inner, max_size=4),
)
SECTIONS = st.dictionaries(
    st.sampled_from(WORDS), VALUES | st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5), max_size=5
)


def dumped(value: object) -> bytes:
    """As YAML, as far as that has a way to say it."""
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, TypeError):
        return repr(value).encode("utf-8", "replace")


DOCUMENTS = st.one_of(
    SECTIONS.map(dumped),
    VALUES.map(dumped),
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in a folder of its own."""
    return tmp_path_factory.mktemp("fuzz") / "file.yaml"


@cases(450)
@given(content=DOCUMENTS, kind=st.sampled_from([TrainOptions, Plan, EvaluateOptions]))
@example(content=b'out: "\\0"\n', kind=TrainOptions)
@example(content=b"\xff\xfe\x00", kind=TrainOptions)
@example(content=b"epochs: " + b"9" * 5000, kind=TrainOptions)
def test_files_of_options(file: Path, content: bytes, kind: type) -> None:
    file.write_bytes(content)
    config = clean(lambda: read_options(kind, file))
    assert config is None or type(config) is kind


@cases(350)
@given(content=DOCUMENTS, command=st.sampled_from(sorted(COMMANDS)))
def test_files_on_the_command_line(file: Path, content: bytes, command: str) -> None:
    file.write_bytes(content)
    config = clean(lambda: exits(lambda: read(command, ["--config", str(file)])))
    assert config is None or type(config) is COMMANDS[command][0]


ARGUMENTS = st.one_of(
    st.sampled_from(NAMES).map(lambda name: f"--{name}"),
    st.sampled_from(["--config", "--recipe", "--print_config", "--", "-", "--options.x", "--nothing"]),
    st.tuples(st.sampled_from(NAMES), VALUES).map(lambda pair: f"--{pair[0]}={pair[1]}"),
    SCALARS.map(str),
    DOCUMENTS.map(lambda content: content.decode("utf-8", "surrogateescape")),
)


@cases(350)
@given(command=st.sampled_from(sorted(COMMANDS)), arguments=st.lists(ARGUMENTS, max_size=4))
def test_arguments(
    command: str, arguments: list[str], file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    config = clean(lambda: exits(lambda: read(command, [argument.replace("\0", "") for argument in arguments])))
    assert config is None or type(config) is COMMANDS[command][0]
    capsys.readouterr()


def exits(what: Callable[[], object]) -> object:
    """``--help`` and ``--print_config`` end the program, and well."""
    try:
        return what()
    except SystemExit as end:
        code = end.code
    assert not code
    return None


# Files of data and weights


class Damage:
    """Bytes that are cut off, and some that are others."""

    def __init__(self, keep: float, flips: list[tuple[float, int]], whole: bytes | None) -> None:
        self.keep, self.flips, self.whole = keep, flips, whole

    def __repr__(self) -> str:
        return f"Damage({self.keep}, {self.flips}, {self.whole!r})"

    def __call__(self, content: bytes) -> bytes:
        if self.whole is not None:
            return self.whole
        damaged = bytearray(content[: round(len(content) * self.keep)])
        for place, mask in self.flips:
            if damaged:
                damaged[round(place * (len(damaged) - 1))] ^= mask
        return bytes(damaged)


PLACE = st.floats(0, 1) | st.floats(0, 0.02) | st.floats(0.98, 1)
DAMAGE = st.builds(
    Damage,
    st.just(1.0) | PLACE,
    st.lists(st.tuples(PLACE, st.integers(1, 255)), max_size=6),
    st.none() | st.none() | st.none() | st.binary(max_size=100),
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data sets in all formats, and weights."""
    root = tmp_path_factory.mktemp("originals")
    write_cifar10(root, rows=2)
    write_cifar100(root, train=3, test=2)
    write_tiny_imagenet(root / "folder")
    write_tiny_imagenet(root / "zip", as_zip=True, train=1, val=2)
    write_folder(root / "pictures", classes=("ant", "bee"), count=2)
    model = create_model("resnet8", 3)
    save_weights(model, root / "x.safetensors", {"model": "resnet8", "data": "glyph94", "classes": ["a", "b", "c"]})
    torch.save({"model": model.state_dict()}, root / "x.pt")
    torch.save({"model": model.state_dict()}, root / "legacy.pt", _use_new_zipfile_serialization=False)
    return root


def load(name: str, root: Path) -> float:
    """Read all of a data set."""
    data = load_data(DataSpec(name, str(root)))
    total = 0.0
    for split in (data.train, data.test):
        assert split.labels is not None
        assert 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(data.classes)
        images: Tensor = split.images  # type: ignore[attr-defined]  # these sets are small, and in memory
        assert images.dtype == torch.uint8
        assert len(images) == len(split)
        total += float(images.float().mean())
    return total


FILES = {
    "cifar10": ["cifar-10-batches-py/data_batch_3", "cifar-10-batches-py/batches.meta"],
    "cifar100": ["cifar-100-python/train", "cifar-100-python/meta"],
    "zip": ["zip/tiny-imagenet-200.zip"],
    "folder": [f"folder/tiny-imagenet-200/{name}" for name in ("wnids.txt", "words.txt", "val/val_annotations.txt")],
    "pictures": ["pictures/train/ant/000.png"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names])
def test_data_sets(kind: str, name: str, originals: Path) -> None:
    place = {"cifar10": originals, "cifar100": originals}.get(kind, originals / kind)
    call = {"zip": "tiny-imagenet", "folder": "tiny-imagenet", "pictures": f"folder:{place}"}.get(kind, kind)
    kept = place / "tiny-imagenet-200.safetensors"
    kept.unlink(missing_ok=True)
    original = (originals / name).read_bytes()
    assert load(call, place) > 0

    @cases(60)
    @given(damage=DAMAGE)
    def check(damage: Damage) -> None:
        kept.unlink(missing_ok=True)
        (originals / name).write_bytes(damage(original))
        clean(lambda: load(call, place))

    try:
        check()
    finally:
        (originals / name).write_bytes(original)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "legacy.pt"])
def test_weights(name: str, originals: Path, tmp_path: Path) -> None:
    original = (originals / name).read_bytes()
    path = tmp_path / name

    @cases(150)
    @given(damage=DAMAGE)
    def check(damage: Damage) -> None:
        path.write_bytes(damage(original))
        clean(lambda: read_metadata(path))
        if path.suffix == ".pt":
            clean(lambda: load_tensors(path))
        state = clean(lambda: read_state_dict(path).tensors)
        assert state is None or all(isinstance(value, Tensor) for value in state.values())  # type: ignore[attr-defined]

    check()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"])
def test_pictures(kind: str) -> None:
    import numpy as np

    original = random_picture(np.random.default_rng(1), 20, 24, kind=kind)

    @cases(60)
    @given(damage=DAMAGE)
    def check(damage: Damage) -> None:
        with ignore_warnings():
            content = damage(original)
            clean(lambda: read_image_size("x", content))
            picture = clean(lambda: decode_image("x", content))
            assert picture is None or picture.mode == "RGB"  # type: ignore[attr-defined]

    check()
