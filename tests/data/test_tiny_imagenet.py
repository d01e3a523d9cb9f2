"""Tiny-ImageNet: the same from its folder and its zip; decoded once; one line that names what is damaged."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spotkd import Dataset, Loader, SpotkdError
from spotkd.data import load_dataset
from spotkd.data import tiny_imagenet as module
from spotkd.data.image_files import decode_images

from ..conftest import in_memory
from .formats import Written, write_files, write_tiny_imagenet

ZIP, CACHE = "tiny-imagenet-200.zip", "tiny-imagenet-200.safetensors"


def open_set(root: Path, **options: object) -> Dataset:
    return load_dataset("tiny-imagenet", root=str(root), **options)


def assert_equal(data: Dataset, written: Written) -> None:
    for split, images, labels in (
        (in_memory(data.train), written.train_images, written.train_labels),
        (in_memory(data.test), written.test_images, written.test_labels),
    ):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert np.array_equal(split.images.numpy(), images)
        assert split.labels.tolist() == labels
    assert data.classes == written.classes


def fails(root: Path, message: str, **options: object) -> None:
    with pytest.raises(SpotkdError, match=message) as caught:
        open_set(root, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of what has been decoded."""
    titles: list[str] = []

    def noted(*arguments: object) -> torch.Tensor:
        titles.append(str(arguments[-1]))
        return decode_images(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "decode_images", noted)
    return titles


@pytest.mark.parametrize("as_zip", [False, True])
def test_images_labels_and_names(tmp_path: Path, as_zip: bool) -> None:
    written = write_tiny_imagenet(tmp_path, as_zip)
    data = open_set(tmp_path)
    assert_equal(data, written)
    assert (len(data.train), len(data.test), data.val) == (12, 5, None)
    assert data.classes == ("goldfish", "crane (n02012849)", "crane (n03126707)", "n09999999")
    assert data.name == "tiny-imagenet"
    assert data.image_shape == (3, 64, 64)
    assert (data.padding, data.flip) == (0, True)
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.std == (0.2023, 0.1994, 0.2010)
    grey = in_memory(data.train).images[::3]  # the first of each class
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert {path.name for path in tmp_path.iterdir()} == {ZIP if as_zip else "tiny-imagenet-200", CACHE}


def test_the_root_may_be_the_folder_itself(tmp_path: Path) -> None:
    written = write_tiny_imagenet(tmp_path)
    assert_equal(open_set(tmp_path / "tiny-imagenet-200"), written)
    assert (tmp_path / CACHE).exists()


def test_no_words(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200" / "words.txt").unlink()
    assert open_set(tmp_path).classes == ("n01443537", "n02012849", "n03126707", "n09999999")


def test_normalised_batches_have_the_mean_and_variance_of_numpy_s(tmp_path: Path) -> None:
    written = write_tiny_imagenet(tmp_path)
    data = open_set(tmp_path)
    got = next(iter(Loader(data, data.test, 5, training=False).epoch(0))).images.numpy()
    for channel, (mean, std) in enumerate(((0.4914, 0.2023), (0.4822, 0.1994), (0.4465, 0.2010))):
        expected = (written.test_images[:, channel] / 255 - mean) / std
        assert got[:, channel].mean() == pytest.approx(expected.mean(), abs=1e-5)
        assert got[:, channel].var() == pytest.approx(expected.var(), abs=1e-5)


def test_training_images_are_mirrored_and_never_moved(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, train=8)
    data = open_set(tmp_path)
    batch = next(iter(Loader(data, data.train, 32, training=True).epoch(1)))
    assert batch.indices is not None
    plain = next(iter(Loader(data, data.train, 32, training=False).epoch(1))).images[batch.indices]
    mirrored = (batch.images != plain).flatten(1).any(1)
    assert 4 < mirrored.sum() < 28
    assert torch.equal(batch.images[mirrored], plain[mirrored].flip(-1))


# The array file


@pytest.mark.parametrize("as_zip", [False, True])
def test_pictures_are_decoded_once(tmp_path: Path, as_zip: bool, decodings: list[str]) -> None:
    written = write_tiny_imagenet(tmp_path, as_zip)
    assert_equal(open_set(tmp_path), written)
    assert decodings == ["tiny-imagenet: decoding training images", "tiny-imagenet: decoding validation images"]
    made = (tmp_path / CACHE).stat()
    assert_equal(open_set(tmp_path), written)
    assert len(decodings) == 2
    assert (tmp_path / CACHE).stat().st_mtime_ns == made.st_mtime_ns


def touch(root: Path) -> None:
    path = root / "tiny-imagenet-200" / "train" / "n01443537" / "images" / "n01443537_1.JPEG"
    if path.exists():
        shutil.copy(path.with_name("n01443537_2.JPEG"), path)
    else:
        os.utime(root / ZIP, ns=(1, 1))


def truncate(root: Path) -> None:
    content = (root / CACHE).read_bytes()
    (root / CACHE).write_bytes(content[:-1])


def spoil(root: Path) -> None:
    (root / CACHE).write_bytes(b"something else")


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("change", [touch, truncate, spoil])
def test_pictures_are_decoded_anew(
    tmp_path: Path, as_zip: bool, change: Callable[[Path], None], decodings: list[str]
) -> None:
    written = write_tiny_imagenet(tmp_path, as_zip)
    open_set(tmp_path)
    change(tmp_path)
    data = open_set(tmp_path)
    assert len(decodings) == 4
    if change is touch and not as_zip:
        images = written.train_images.copy()
        images[1] = images[2]
        written = written._replace(train_images=images)
    assert_equal(data, written)
    assert_equal(open_set(tmp_path), written)
    assert len(decodings) == 4


def test_folder_and_zip_do_not_take_each_other_s_arrays(tmp_path: Path, decodings: list[str]) -> None:
    packed = write_tiny_imagenet(tmp_path, as_zip=True, train=2)
    assert_equal(open_set(tmp_path), packed)
    unpacked = write_tiny_imagenet(tmp_path, train=4)
    assert_equal(open_set(tmp_path), unpacked)  # what is unpacked goes first
    assert len(decodings) == 4


@pytest.mark.parametrize(
    ("call", "error"),
    [("save_file", OSError(28, "No space left on device")), ("atomic_write", PermissionError(13, "Permission denied"))],
)
def test_arrays_that_cannot_be_written(
    tmp_path: Path,
    call: str,
    error: OSError,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    decodings: list[str],
) -> None:
    """On a full disk, or in a folder that may only be read."""
    written = write_tiny_imagenet(tmp_path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, call, fail)
    for _ in range(2):
        assert_equal(open_set(tmp_path), written)
    assert len(decodings) == 4
    lines = capsys.readouterr().err.splitlines()
    reason = rf"cannot be written \(.*{error.strerror}\); the images will be decoded at every start"
    assert [bool(re.fullmatch(rf"{tmp_path}/{CACHE}: {reason}", line)) for line in lines] == [True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-imagenet-200"]


# Damage


def change_file(root: Path, as_zip: bool, name: str, content: bytes | None) -> str:
    """Write a file anew, or take it away; what error messages call it."""
    if not as_zip:
        path = root / "tiny-imagenet-200" / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        return str(path)
    with zipfile.ZipFile(root / ZIP) as archive:
        files = {
            info.filename.removeprefix("tiny-imagenet-200/"): archive.read(info)
            for info in archive.infolist()
            if not info.is_dir()
        }
    assert name in files
    files.pop(name)
    write_files(root, files | ({} if content is None else {name: content}), as_zip=True)
    return f"{root / ZIP}: tiny-imagenet-200/{name}"


PICTURE = "train/n02012849/images/n02012849_1.JPEG"


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (PICTURE, b"no picture", "NAME: damaged or not a picture; replace or remove it"),
        ("val/images/val_3.JPEG", b"", "NAME: damaged or not a picture; replace or remove it"),
        ("val/images/val_3.JPEG", None, r"NAME: missing, though val_annotations\.txt lists it; fetch it again"),
        ("wnids.txt", None, "NAME: (no such file in the archive|cannot be read .No such file or directory.)"),
        ("wnids.txt", b"", "NAME: damaged, it names 0 classes"),
        ("val/val_annotations.txt", None, "NAME: (no such file in the archive|cannot be read .No such file .*)"),
        ("val/val_annotations.txt", b"", "NAME: damaged, it lists no pictures"),
        (
            "val/val_annotations.txt",
            b"val_0.JPEG\tn01443537\t0\t0\t1\t1\nval_1.JPEG\tn7\t0\t0\t1\t1\n",
            r"NAME: line 2 has class 'n7', not in wnids\.txt",
        ),
        ("val/val_annotations.txt", b"\xff\x00nonsense", r"NAME: line 1 has class '', not in wnids\.txt"),
    ],
)
def test_damage_is_named(tmp_path: Path, as_zip: bool, name: str, content: bytes | None, message: str) -> None:
    write_tiny_imagenet(tmp_path, as_zip)
    called = change_file(tmp_path, as_zip, name, content)
    fails(tmp_path, f"^{message.replace('NAME', re.escape(called))}$")
    assert not (tmp_path / CACHE).exists()


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_class_without_pictures(tmp_path: Path, as_zip: bool) -> None:
    write_tiny_imagenet(tmp_path, as_zip)
    for number in range(3):
        called = change_file(tmp_path, as_zip, f"train/n02012849/images/n02012849_{number}.JPEG", None)
    folder = re.escape(called.rpartition("/")[0])
    fails(tmp_path, rf"^{folder}: no pictures, though wnids\.txt lists the class; fetch it again$")


def test_a_zip_with_a_flipped_bit(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, as_zip=True)
    with zipfile.ZipFile(tmp_path / ZIP) as archive:
        start = archive.getinfo(f"tiny-imagenet-200/{PICTURE}").header_offset
    content = bytearray((tmp_path / ZIP).read_bytes())
    content[start + 200] ^= 1
    (tmp_path / ZIP).write_bytes(content)
    fails(tmp_path, rf"^{tmp_path}/{ZIP}: tiny-imagenet-200/{PICTURE}: damaged \(Bad CRC-32 .*\); remove the archive$")


def test_no_zip_at_all(tmp_path: Path) -> None:
    (tmp_path / ZIP).write_bytes(b"<html>not found</html>")
    fails(tmp_path, rf"^{tmp_path}/{ZIP}: damaged or no zip archive \(File is not a zip file\); remove it$")


def test_members_are_read_and_never_written(tmp_path: Path) -> None:
    written = write_tiny_imagenet(tmp_path / "root", as_zip=True)
    with zipfile.ZipFile(tmp_path / "root" / ZIP, "a") as archive:
        archive.writestr("../escaped.txt", "x")
        archive.writestr("tiny-imagenet-200/train/../../../escaped.txt", "x")
    assert_equal(open_set(tmp_path / "root"), written)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["root", CACHE, ZIP]


def test_nothing_there(tmp_path: Path) -> None:
    fails(tmp_path, rf"^tiny-imagenet: no {tmp_path}/{ZIP}: .*90528d7ca1a48142e341f4ef8d21d0de")
    fails(tmp_path, r"^data\.image_size has no effect on tiny-imagenet: leave it out$", image_size=64)


def test_the_zip_is_fetched_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(url: str, target: Path, md5: str) -> None:
        asked.append((url, md5))
        write_tiny_imagenet(target.parent, as_zip=True)

    monkeypatch.setattr("spotkd.data.download.fetch", fetch)
    assert len(open_set(tmp_path / "new", download=True, mirror="https://example.org/sets").train) == 12
    assert asked == [("https://example.org/sets/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")]
