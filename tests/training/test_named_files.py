"""Where files go that the user names: the home, the default folder, never the place of a network or a picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spotkd.cli import main, read
from spotkd.options import ModelOptions, TrainOptions
from spotkd.training.assemble import default_folder

from .test_numbers_that_are_not import images


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("folder:/home/me/pictures", "runs/train-folder-pictures-resnet8-seed1029"),
        ("folder:../birds", "runs/train-folder-birds-resnet8-seed1029"),
        ("hf:me/birds", "runs/train-hf-me-birds-resnet8-seed1029"),
    ],
)
def test_the_default_folder_lies_in_runs(name: str, folder: str) -> None:
    data = images(4)
    named = data.__class__(**{**vars(data), "name": name})
    assert default_folder(TrainOptions(model=ModelOptions("resnet8")), named) == folder


@pytest.mark.slow
def test_a_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    small = ["--model", "resnet8", "--data.limit", "94", "--epochs", "1", "--quiet", "true"]
    for words in (["--out=~/a"], ["--out", "~/b"]):
        assert main(["train", *small, *words]) == 0, capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["a", "b"]
    assert not (tmp_path / "~").exists()


def test_a_tilde_in_a_file_of_options_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "out: ~/a\nteacher: {name: resnet8, checkpoint: ~/t}\ndata: {root: ~/data}\n"
    (tmp_path / "options.yaml").write_text(text)
    options = read("distill", ["--config", str(tmp_path / "options.yaml")])
    found = (options.out, options.teacher.checkpoint, options.data.root)
    assert found == (str(tmp_path / "a"), str(tmp_path / "t"), str(tmp_path / "data"))


@pytest.mark.parametrize("name", ["student.onnx", "model.safetensors", "last.ckpt", "a.PNG"])
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "other.onnx", "b.png", "--csv"],
        ["profile", "resnet8", "resnet8", "--csv"],
        ["profile", "resnet8", "resnet8", "--json"],
        ["report", "run", "--out"],
    ],
)
def test_tables_and_pages_take_no_networks_place(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (name, "other.onnx", "b.png", "run/config.yaml"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text("mine")
    assert main([*words, name]) == 2
    option = words[-1].removeprefix("--")
    assert capsys.readouterr().err == f"spotkd: {option} is {name}: that is a network or a picture; give another file\n"
    assert Path(name).read_text() == "mine"


@pytest.mark.slow
def test_predictions_do_not_take_the_students_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    out = str(tmp_path / "t")
    assert (
        main(["train", "--model", "resnet8", "--data.limit", "94", "--epochs", "1", "--quiet", "true", "--out", out])
        == 0
    )
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    weights = tmp_path / "t" / "model.safetensors"
    before = weights.read_bytes()
    for target in (weights, tmp_path / "a.png"):
        assert main(["predict", out, str(tmp_path / "a.png"), "--csv", str(target)]) == 2
        assert re.search("that is (a network|the student) or a picture", capsys.readouterr().err)
    assert weights.read_bytes() == before
