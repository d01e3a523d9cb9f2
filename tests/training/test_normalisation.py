"""By which mean and deviation the images of a run are normalised, and that nothing later sees other ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spotkd.data import load_data, load_dataset
from spotkd.deploy.student import load_student
from spotkd.models.weights import read_metadata
from spotkd.options import DistillOptions, EvaluateOptions, ModelOptions, TrainOptions, deviations, with_values
from spotkd.runs.folder import RunFolder
from spotkd.training import normalisation
from spotkd.training.build import data_spec
from spotkd.training.jobs import distill, evaluate_checkpoint, restore, resume, train

from ..data.formats import write_folder

pytestmark = pytest.mark.slow


def teach(data: Path, out: Path, **values: object) -> TrainOptions:
    common = {"data.name": f"folder:{data}", "out": str(out), "epochs": 1, "batch_size": 4, "logger": "none"}
    return with_values(TrainOptions(model=ModelOptions("resnet8")), {**common, "accelerator": "cpu", **values})


def learn(data: Path, teacher: Path, out: Path, **values: object) -> DistillOptions:
    common = {"data.name": f"folder:{data}", "out": str(out), "epochs": 1, "batch_size": 4, "logger": "none"}
    options = DistillOptions(
        teacher=ModelOptions("resnet8", str(teacher)), student=ModelOptions("resnet8"), min_teacher_top1=0
    )
    return with_values(options, {**common, "accelerator": "cpu", **values})


def numbers_of(run: Path) -> tuple[list[float] | None, list[float] | None]:
    noted = RunFolder(run).options.data
    return noted.mean, noted.std


def test_measured_once_and_noted_for_all_that_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "set"
    write_folder(data, ("train", "val"))
    own = load_dataset(f"folder:{data}")
    summary = train(teach(data, tmp_path / "teacher"))
    assert numbers_of(tmp_path / "teacher") == (list(own.mean), list(own.std))
    assert load_student(tmp_path / "teacher").metadata.preprocessing.mean == own.mean
    distill(learn(data, tmp_path / "teacher", tmp_path / "student"))
    assert numbers_of(tmp_path / "student") == (list(own.mean), list(own.std))
    assert restore(tmp_path / "student")[1].mean == own.mean
    assert load_data(data_spec(RunFolder(tmp_path / "student").options.data)).std == own.std
    weights = str(tmp_path / "teacher" / "model.safetensors")
    named = EvaluateOptions(weights, data=f"folder:{data}", accelerator="cpu")
    for asked in (EvaluateOptions(weights, accelerator="cpu"), named):
        assert evaluate_checkpoint(asked).loss == pytest.approx(summary.scores.loss, rel=1e-4)
    planned = teach(data, tmp_path / "teacher")
    assert deviations(RunFolder(tmp_path / "teacher").options, planned) == []
    assert deviations(RunFolder(tmp_path / "teacher").options, with_values(planned, {"data.mean": [0.1]})) == [
        "data.mean"
    ]
    capsys.readouterr()
    train(with_values(planned, {"resume": "auto"}))
    assert "normalised" not in capsys.readouterr().err


def test_a_run_that_noted_none_keeps_those_of_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = tmp_path / "set", tmp_path / "run"
    write_folder(data, ("train", "val"))
    with monkeypatch.context() as earlier:  # a version that measured nothing
        earlier.setattr(normalisation, "measure_normalisation", lambda data, quiet: data)
        train(teach(data, folder))
    (folder / "summary.json").unlink()  # it was interrupted before it had ended
    (folder / "model.safetensors").unlink()
    resume(folder)
    assert numbers_of(folder) == (None, None)
    assert read_metadata(folder)["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    (folder / "summary.json").unlink()
    train(teach(data, folder, resume="auto"))
    assert numbers_of(folder) == (None, None)
    train(teach(data, folder, epochs=2, resume="auto", overwrite=True))  # another run
    assert None not in numbers_of(folder)


def test_the_teachers_numbers_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, teacher = tmp_path / "set", tmp_path / "teacher"
    write_folder(data, ("train", "val"))
    train(teach(data, teacher, **{"data.mean": [0.1], "data.std": [0.3]}))
    capsys.readouterr()
    distill(learn(data, teacher, tmp_path / "student"))
    assert numbers_of(tmp_path / "student") == ([0.1], [0.3])
    assert f"images are normalised as for {teacher}: mean 0.1, deviation 0.3" in capsys.readouterr().err
    distill(learn(data, teacher, tmp_path / "given", **{"data.mean": [0.2], "data.std": [0.4]}))
    assert numbers_of(tmp_path / "given") == ([0.2], [0.4])
    train(teach(data, tmp_path / "tuned", **{"model.checkpoint": str(teacher)}))
    assert numbers_of(tmp_path / "tuned") == ([0.1], [0.3])


def test_weights_that_note_nothing_are_taken_for_ordinary_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from spotkd.models import create_model

    data, file = tmp_path / "set", tmp_path / "foreign.pth"
    write_folder(data, ("train", "val"))
    torch.save(create_model("resnet8", 3, image_shape=(3, 16, 16)).state_dict(), file)
    distill(learn(data, file, tmp_path / "student"))
    assert numbers_of(tmp_path / "student") == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert f"as for ImageNet, since {file} notes nothing else" in capsys.readouterr().err


def test_pictures_of_more_than_eight_bits_are_as_bright_in_an_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, darker, run = tmp_path / "set", tmp_path / "darker", tmp_path / "run"
    generator = np.random.default_rng(0)
    for number in range(12):
        grey = generator.integers(0, 4096, (16, 16)).astype("u2")
        for folder, divided in ((data, 1), (darker, 8)):
            path = folder / ("train", "val")[number % 2] / "abc"[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey // divided).save(path)
    train(teach(data, run))
    assert read_metadata(run)["preprocessing"]["white"] == 4095
    capsys.readouterr()
    weights = str(run / "model.safetensors")
    seen = evaluate_checkpoint(EvaluateOptions(weights, data=f"folder:{darker}", accelerator="cpu"))
    assert "brightest" not in capsys.readouterr().err
    assert seen.loss != evaluate_checkpoint(EvaluateOptions(weights, accelerator="cpu")).loss
