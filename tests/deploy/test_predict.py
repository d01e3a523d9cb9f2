"""Pictures are classified as the evaluation does it, by a student in any format."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spotkd import Dataset, Loader, SpotkdError, create_model, load_dataset, load_glyph94
from spotkd.cli import main
from spotkd.data import LazySet, make_preprocessing
from spotkd.data.image_files import FolderImages
from spotkd.deploy import load_student, open_student
from spotkd.deploy.metadata import check_metadata
from spotkd.deploy.predict import _load_pixels
from spotkd.models import save_weights
from spotkd.untrusted.images import decode_image

from .. import vision  # noqa: F401
from ..conftest import in_memory, randomise_statistics


def save_run(folder: Path, data: Dataset) -> Path:
    """What a finished run leaves, of a network with random weights."""
    torch.manual_seed(1)
    network = create_model("resnet8", len(data.classes)).eval()
    randomise_statistics(network)
    batch = next(iter(Loader(data, data.test, 94, training=False).epoch(0)))
    with torch.no_grad():  # or it would answer everything with the same class
        next(reversed(list(network.parameters()))).sub_(network(batch.images).mean(0))
    folder.mkdir()
    noted = {"model": "resnet8", "data": data.name, "classes": data.classes}
    save_weights(network, folder / "student.safetensors", noted | {"preprocessing": asdict(make_preprocessing(data))})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "a run", load_glyph94())


@pytest.fixture
def glyphs(tmp_path: Path) -> list[Path]:
    """The first twelve test images as files."""
    images = in_memory(load_glyph94().test).images
    folder = tmp_path / "some pictures"
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(12)]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image[0].numpy()).save(path)
    return paths


@pytest.mark.slow
def test_every_format_gives_the_students_classes(
    run: Path, glyphs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in (["--format", "onnx"], ["--format", "torch-export"]):
        assert main(["export", str(run), *options]) == 0
    copy = tmp_path / "copy.safetensors"
    assert main(["export", str(run), "--format", "safetensors", "--out", str(copy)]) == 0
    assert "differ from the student's by at most" in capsys.readouterr().out
    data = load_glyph94()
    student = load_student(run)
    batch = next(iter(Loader(data, data.test, 12, training=False).epoch(0)))
    with torch.no_grad():
        expected = [data.classes[int(label)] for label in student.network(batch.images).argmax(1)]
    assert len(set(expected)) > 3  # or a constant would do
    for source in (run, run / "student.onnx", run / "student.pt2", copy):
        table = tmp_path / "table.csv"
        assert main(["predict", str(source), str(glyphs[0].parent), "--trust", "--csv", str(table), "--top", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(": ")[2].rsplit(" ", 5)[0] for line in lines] == expected
        assert [line.partition(": ")[0] for line in lines] == list(map(str, glyphs))
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows if row["rank"] == "1"] == expected
        assert all(
            float(a["probability"]) >= float(b["probability"]) for a, b in zip(rows[::2], rows[1::2], strict=True)
        )


@pytest.mark.parametrize("size", [None, 32, 128])
def test_pictures_are_prepared_as_in_evaluation(size: int | None, tmp_path: Path) -> None:
    """Small alike ones as they are, others covering a square, large ones with a margin."""
    generator = np.random.default_rng(0)
    shapes = [(20, 20)] * 8 if size is None else [(40 + 9 * i, 80 - 5 * i) for i in range(8)]
    for number, shape in enumerate(shapes):
        path = tmp_path / "set" / "test" / "ab"[number % 2] / f"{number}.png"
        for place in (path, Path(str(path).replace("/test/", "/train/"))):
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(place)
    data = load_dataset(f"folder:{tmp_path / 'set'}", image_size=size, workers=0)
    batch = next(iter(Loader(data, data.test, 8, training=False, workers=0).epoch(0)))
    preprocessing = make_preprocessing(data)
    assert preprocessing.resize == ("margin" if isinstance(data.test, LazySet) else "cover")
    files = sorted((tmp_path / "set" / "test").rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    pictures = FolderImages("", np.array([bytes(path) for path in files]))
    mine = torch.stack([preprocessing.to_pixels(decode_image(*pictures[number])) for number in range(8)])
    assert torch.equal(preprocessing.normalise(mine), batch.images)


def test_colour_pictures_of_any_size_fit_a_grey_student(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mode, size in (("a.jpg", "RGB", (200, 90)), ("b.png", "RGBA", (7, 300)), ("c.gif", "P", (32, 32))):
        Image.new(mode, size, 200 if mode == "P" else "red").save(tmp_path / name)
        assert main(["predict", str(run), str(tmp_path / name)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_broken_picture_is_named_and_the_others_go_on(
    run: Path, glyphs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    glyphs[1].write_bytes(b"no")
    glyphs[2].write_bytes(b"")
    assert main(["predict", str(run), *map(str, glyphs[:4]), "--batch-size", "1"]) == 1
    printed = capsys.readouterr()
    assert [line.partition(": ")[0] for line in printed.out.splitlines()] == [str(glyphs[0]), str(glyphs[3])]
    assert [line.split(": ")[1] for line in printed.err.splitlines()] == [str(glyphs[1]), str(glyphs[2])]


def test_words_from_outside_do_nothing(tmp_path: Path, glyphs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    data = load_glyph94()
    run = save_run(tmp_path / "r", replace(data, classes=tuple(f"=cmd{i}\x1b[2J" for i in range(94))))
    table = tmp_path / "t.csv"
    assert main(["predict", str(run), str(glyphs[0]), "--csv", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[2J" in printed
    with table.open(newline="") as file:
        assert next(csv.DictReader(file))["class"].startswith("'=cmd")


REFUSED = [
    (["predict", "RUN", "missing.png"], "missing.png: no such picture or folder"),
    (["predict", "RUN", "EMPTY"], "no pictures in this folder"),
    (["predict", "RUN", "PICTURE", "--top", "0"], "top 0"),
    (["predict", "x.onnx", "PICTURE"], "x.onnx: no such file"),
    (["predict", "EMPTY", "PICTURE"], "holds no student.safetensors"),
    (["predict", "nowhere", "PICTURE"], "nowhere: no such checkpoint"),
    (["export", "EMPTY"], "holds no student.safetensors"),
    (["export", "RUN", "--format", "onx"], "format"),
    (["export", "RUN", "--out", "x.pt2"], "a onnx file ends in .onnx"),
    (["export", "RUN", "--format", "safetensors"], "is the student itself"),
    (["export", "RUN", "--model", "resnet20"], "not a checkpoint of resnet20"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_refusals_are_one_line(
    arguments: list[str],
    message: str,
    run: Path,
    glyphs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(run), "PICTURE": str(glyphs[0]), "EMPTY": str(tmp_path / "empty")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)

    class Missing:
        def find_spec(self, full_name: str, *_: object) -> None:
            if full_name == name:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert main(["export", str(run)]) == 2
    assert capsys.readouterr().err == f"spotkd: {name} is not installed: pip install 'spotkd[export]'\n"
    assert not (run / "student.onnx").exists()


@pytest.mark.slow
def test_a_pt2_file_is_opened_only_when_it_is_trusted(
    run: Path, glyphs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--format", "torch-export"]) == 0
    capsys.readouterr()

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the file was opened")

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "load", opened)
        assert main(["predict", str(run / "student.pt2"), str(glyphs[0])]) == 2
        assert "can run code" in capsys.readouterr().err
        with pytest.raises(SpotkdError, match="the file was opened"):  # so the switch is what decides
            open_student(str(run / "student.pt2"), trust=True)
    assert open_student(str(run / "student.pt2"), trust=True).metadata.model == "resnet8"


@pytest.mark.slow
def test_weights_that_name_code_run_it_only_when_told(
    few_faces: None,
    tmp_path: Path,
    glyphs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "net_of_mine.py").write_text(
        "from torch import nn\n\n\ndef build(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["--data.limit", "94", "--epochs", "1", "--quiet", "--out", "mine"]
    assert main(["train", "--model", "python:net_of_mine.build", *options]) == 0
    assert main(["export", "mine"]) == 2
    assert "--model python:net_of_mine.build" in capsys.readouterr().err
    for name in ("onnx", "torch-export"):
        assert main(["export", "mine", "--model", "python:net_of_mine.build", "--format", name]) == 0
    answers = []
    capsys.readouterr()
    for source in (["mine", "--model", "python:net_of_mine.build"], ["mine/model.onnx"], ["mine/model.pt2", "--trust"]):
        assert main(["predict", source[0], str(glyphs[0].parent), *source[1:]]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0].count("\n") == 12
    assert answers[1] == answers[2] == answers[0]


@pytest.mark.slow
def test_weights_that_note_nothing_need_their_names(
    tmp_path: Path, glyphs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.pth"
    torch.save({"model": create_model("resnet8", 94).state_dict()}, path)
    assert main(["predict", str(path), str(glyphs[0])]) == 2
    assert "does not note its model; name its model with --model" in capsys.readouterr().err
    assert main(["predict", str(path), str(glyphs[0]), "--model", "resnet8"]) == 2
    assert "does not note its classes; name its data with --data" in capsys.readouterr().err
    assert main(["predict", str(path), str(glyphs[0]), "--model", "resnet8", "--data", "glyph94"]) == 0
    out = tmp_path / "x.onnx"
    named = ["--model", "resnet8", "--data", "glyph94"]
    assert main(["export", str(path), *named, "--out", str(out)]) == 0
    assert main(["predict", str(out), str(glyphs[0]), "--data", "glyph94"]) == 2
    assert "data has no effect on" in capsys.readouterr().err


def test_pictures_of_twelve_bits_are_as_bright_as_in_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for number in range(8):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 4096, (32, 32)).astype("u2")).save(path)
    data = load_dataset(f"folder:{tmp_path / 'set'}", test_share=0.5)
    student = open_student(str(save_run(tmp_path / "run", data)))
    preprocessing = student.metadata.preprocessing
    assert preprocessing.white == 4095
    files = data.test.files()
    assert files is not None
    for name, pixels in zip(files, in_memory(data.test).images, strict=True):
        loaded = _load_pixels(str(tmp_path / "set" / name), preprocessing)
        assert isinstance(loaded, torch.Tensor)
        assert torch.equal(loaded, pixels)
    noted = student.metadata.as_dict()
    del noted["preprocessing"]["white"]  # as files of earlier versions
    assert check_metadata(noted, "file").preprocessing.white == 65535
    with pytest.raises(SpotkdError, match="its preprocessing has no usable white"):
        check_metadata(noted | {"preprocessing": noted["preprocessing"] | {"white": 0}}, "file")
