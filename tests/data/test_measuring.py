"""Mean and deviation of a data set's own pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spotkd import SpotkdError
from spotkd.data import DataSpec, ImageSet, LazySet, load_data, load_dataset, measure_normalisation, measuring, pictures
from spotkd.data.lazy import MEAN, STD

from .formats import write_folder


def shown(split: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert isinstance(split, ImageSet)
    return split.images.numpy() / 255.0


def test_a_folder_is_normalised_by_its_own_training_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, ("train", "val", "test"))
    data = load_dataset(f"folder:{tmp_path}")
    assert data.mean == tuple(shown(data.train).mean((0, 2, 3)).round(4))
    assert data.std == tuple(shown(data.train).std((0, 2, 3)).round(4))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"those of {len(data.train)} training images (--data.mean, --data.std)" in told
    assert measure_normalisation(data) is data
    assert not capsys.readouterr().err


def test_what_is_given_is_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, ("train", "val"))
    name = f"folder:{tmp_path}"
    own = load_dataset(name)
    capsys.readouterr()
    given = load_dataset(name, mean=[0.5], std=[0.25])
    assert (given.mean, given.std) == ((0.5,), (0.25,))
    assert not capsys.readouterr().err
    assert load_dataset(name, mean=[0.5]).mean == (0.5,)
    assert load_dataset(name, mean=[0.5]).std == own.std
    read = load_data(DataSpec(name))  # as a run that noted nothing
    assert (read.mean, read.std, read.borrowed) == (MEAN, STD, True)


def test_of_many_images_evenly_spread_ones_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "MOST_MEASURED", 3)
    write_folder(tmp_path, ("train", "val"))
    data = load_dataset(f"folder:{tmp_path}")
    last = len(data.train) - 1
    assert data.mean == tuple(shown(data.train)[[0, round(last / 2), last]].mean((0, 2, 3)).round(4))
    assert f"those of 3 of {last + 1} training images" in capsys.readouterr().err


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """It crops and mirrors, and has no part in measuring."""
    monkeypatch.setattr(pictures, "import_optional", lambda *_: None)


def test_pictures_that_are_not_kept_in_memory_are_measured_too(tmp_path: Path, without_torchvision: None) -> None:
    write_folder(tmp_path, ("train", "val"))
    small, large = (load_dataset(f"folder:{tmp_path}", image_size=edge) for edge in (96, 128))
    assert isinstance(large.train, LazySet)
    assert large.mean == pytest.approx(small.mean, abs=0.01)
    assert large.std == pytest.approx(small.std, abs=0.02)
    assert measure_normalisation(load_data(DataSpec(f"folder:{tmp_path}", image_size=128))).mean == large.mean


def test_a_damaged_picture_is_named(tmp_path: Path, without_torchvision: None) -> None:
    write_folder(tmp_path, ("train", "val"))
    data = load_data(DataSpec(f"folder:{tmp_path}", image_size=128))
    victim = sorted((tmp_path / "train" / "ant").iterdir())[0]
    victim.write_bytes(b"no picture")
    with pytest.raises(SpotkdError, match=f"{victim.name}: damaged or not a picture"):
        measure_normalisation(data)


@pytest.mark.parametrize("edge", [None, 128])
def test_pictures_of_one_colour_are_counted_and_one_is_named(
    edge: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], without_torchvision: None
) -> None:
    write_folder(tmp_path, ("train", "val"))
    for number in (1, 2):
        Image.new("RGB", (16, 16), (9, 200, 9 * number)).save(tmp_path / "train" / "bee" / f"{number}.png")
    data = load_dataset(f"folder:{tmp_path}", image_size=edge)
    total = len(data.train) + (len(data.test) if edge is None else 0)  # large ones are looked at when they are measured
    first = tmp_path / "train" / "bee" / "1.png"
    said = capsys.readouterr().err
    assert said.count("one colour") == 1
    assert f"folder:{tmp_path}: 2 of {total} pictures are of one colour, such as {first}\n" in said
