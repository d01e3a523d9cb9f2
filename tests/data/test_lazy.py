"""Images decoded as they are needed: torchvision's transforms, the same ones whoever decodes; errors on one line."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from spotkd import Dataset, Loader, SpotkdError
from spotkd.data import EpochSpec, ImageSet, LazySet
from spotkd.data.image_files import decode_images, image_to_tensor
from spotkd.data.lazy import MEAN, STD
from spotkd.untrusted.images import decode_image, ignore_warnings, read_image_size

from ..vision import torchvision
from .formats import Array, pixels_of, random_picture

SIZES = [(70, 50), (40, 90), (64, 64), (51, 77)]


def pictures(count: int = 11) -> list[tuple[str, bytes]]:
    generator = np.random.default_rng(0)
    return [(f"{number}.png", random_picture(generator, *SIZES[number % 4])) for number in range(count)]


def lazy(files: list[tuple[str, bytes]], edge: int = 32) -> LazySet:
    return LazySet(files, torch.arange(len(files)), torch.arange(len(files)) % 3, edge)


def seen(split: LazySet, **wanted: object) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and indices of one pass."""
    batches = list(split.batches(EpochSpec(**{"batch_size": 4, "workers": 0} | wanted)))  # type: ignore[arg-type]
    indices = [indices for _, _, indices in batches if indices is not None]
    images, labels = [images for images, _, _ in batches], [labels for _, labels, _ in batches]
    return torch.cat(images), torch.cat(labels), torch.cat(indices)


# Transforms


def test_evaluation_is_torchvision_s_one_picture_at_a_time() -> None:
    v2 = importlib.import_module("torchvision.transforms.v2")
    assert torchvision.transforms.v2 is v2
    files = pictures()
    for edge, shorter in ((32, 37), (56, 64)):
        images, labels, indices = seen(lazy(files, edge))
        transform = v2.Compose([v2.PILToTensor(), v2.Resize(shorter, antialias=True), v2.CenterCrop(edge)])
        for image, (_, content) in zip(images, files, strict=True):
            with Image.open(BytesIO(content)) as picture:
                assert torch.equal(image, transform(picture))
        assert images.dtype == torch.uint8
        assert images.shape == (11, 3, edge, edge)
        assert indices.tolist() == list(range(11))
        assert labels.tolist() == [number % 3 for number in range(11)]


def test_training_images_are_random_parts_of_the_right_pictures() -> None:
    """Pictures of one brightness each, and each crop has that of its own."""
    levels = torch.arange(8) * 30
    files = []
    for level in levels.tolist():
        with BytesIO() as file:
            Image.new("RGB", (50, 40), (level, level, level)).save(file, "png")
            files.append(("flat", file.getvalue()))
    images, labels, indices = seen(lazy(files), training=True, flip=True)
    assert sorted(indices.tolist()) == list(range(8)) != indices.tolist()
    assert torch.equal(images, levels[indices].to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32))
    assert torch.equal(labels, indices % 3)


def test_crops_differ_in_place_and_size() -> None:
    """On a ramp the first column of a crop tells where it lies, and the last one how wide it is."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    with BytesIO() as file:
        Image.fromarray(ramp.copy()).save(file, "png")
        images, _, _ = seen(lazy([("ramp", file.getvalue())] * 64), training=True, batch_size=64)
    left, right = images[:, 0, 0, 0].int(), images[:, 0, 0, -1].int()
    width = (right - left + 1) / 200
    assert len(left.unique()) > 20
    assert (width.square() > 0.05).all()  # the least area is 0.08 of all, and a crop may be a third wider than high
    assert width.min() < 0.5 < 0.8 < width.max()


def test_pictures_are_mirrored_only_where_the_data_set_allows() -> None:
    files = pictures(32)
    still, _, order = seen(lazy(files), training=True)
    flipped, _, same_order = seen(lazy(files), training=True, flip=True)
    assert torch.equal(order, same_order)
    mirrored = torch.tensor([not torch.equal(one, other) for one, other in zip(still, flipped, strict=True)])
    assert 8 < mirrored.sum() < 24
    assert torch.equal(still[mirrored].flip(-1), flipped[mirrored])


def test_normalised_batches_have_the_mean_and_variance_of_numpy_s() -> None:
    split = lazy(pictures())
    data = Dataset("lazy", split, split, ("a", "b", "c"), MEAN, STD, flip=True)
    batches = list(Loader(data, split, 4, training=False, workers=0).epoch(0))
    got = np.concatenate([batch.images.numpy() for batch in batches])
    raw = seen(split)[0].numpy() / 255
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (raw[:, channel] - mean) / std
        assert got[:, channel].mean() == pytest.approx(expected.mean(), abs=1e-5)
        assert got[:, channel].var() == pytest.approx(expected.var(), abs=1e-5)
    assert data.image_shape == (3, 32, 32)


# Random numbers


@pytest.mark.process
def test_the_number_of_processes_and_the_batch_size_have_no_influence() -> None:
    split = lazy(pictures())
    images, labels, indices = seen(split, training=True, flip=True, seed=3, epoch=2)
    for workers in (1, 2, 3):
        other = seen(split, training=True, flip=True, seed=3, epoch=2, workers=workers)
        assert all(map(torch.equal, (images, labels, indices), other))
    larger = seen(split, training=True, flip=True, seed=3, epoch=2, batch_size=7)
    assert all(map(torch.equal, (images, labels, indices), larger))
    assert torch.equal(seen(split, workers=2)[0], seen(split)[0])


def test_passes_repeat_and_differ() -> None:
    split = lazy(pictures())

    def sorted_images(seed: int, epoch: int) -> Tensor:
        images, _, indices = seen(split, training=True, seed=seed, epoch=epoch)
        return images[indices.argsort()]

    first = sorted_images(1, 1)
    assert torch.equal(first, sorted_images(1, 1))
    for seed, epoch in ((1, 2), (2, 1), (-1, 1)):
        other = sorted_images(seed, epoch)
        assert not any(torch.equal(one, another) for one, another in zip(first, other, strict=True))


def test_crops_of_another_pass_come_in_an_order_of_their_own() -> None:
    split = lazy(pictures())
    images, _, order = seen(split, training=True, seed=1, epoch=5, crop=(3, 2))
    others, _, other_order = seen(split, training=True, seed=3, epoch=2)
    assert torch.equal(images[order.argsort()], others[other_order.argsort()])
    assert torch.equal(order, seen(split, training=True, seed=1, epoch=5)[2])
    assert not torch.equal(order, other_order)


def test_the_order_is_that_of_images_in_memory() -> None:
    split = lazy(pictures())
    memory = ImageSet(torch.zeros(11, 3, 2, 2, dtype=torch.uint8), split.labels)
    wanted = EpochSpec(4, training=True, seed=5, epoch=6, workers=0)
    for (_, labels, indices), (_, same_labels, same) in zip(split.batches(wanted), memory.batches(wanted), strict=True):
        assert indices is not None
        assert same is not None
        assert torch.equal(indices, same)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_the_random_numbers_of_training_itself_are_left_alone(workers: int) -> None:
    before = torch.get_rng_state()
    assert len(seen(lazy(pictures()), training=True, workers=workers)[0]) == 11
    assert torch.equal(before, torch.get_rng_state())


# Processes


class Shimmed:
    """Pictures whose class makes torchvision importable, in a new process that has not imported anything yet."""

    def __init__(self, files: list[tuple[str, bytes]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int, /) -> tuple[str, bytes]:
        return self.files[number]


@pytest.fixture
def spawning() -> Iterator[None]:
    usual = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(usual, force=True)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.usefixtures("spawning")
def test_processes_that_start_from_nothing() -> None:
    files = [*pictures(3), ("broken.png", b"x")]
    split = LazySet(Shimmed(files), torch.arange(4), torch.arange(4), 32)
    assert torch.equal(seen(split.subset(torch.arange(3)), workers=1)[0], seen(lazy(files[:3]))[0])
    with pytest.raises(SpotkdError, match=r"^broken\.png: damaged or not a picture; replace or remove it$"):
        seen(split, workers=1)


def running(expected: int) -> int:
    """How many processes decode images; on a busy machine a process that is told to end may take a while."""
    deadline = time.monotonic() + 60
    while len(multiprocessing.active_children()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(multiprocessing.active_children())


@pytest.mark.process
def test_no_process_is_left_when_a_pass_is_left_early() -> None:
    split = lazy(pictures())
    for _ in split.batches(EpochSpec(2, workers=2)):
        assert running(2) == 2
        break
    assert running(0) == 0
    batches = split.batches(EpochSpec(2, workers=2))
    next(batches)
    assert running(2) == 2
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert running(0) == 0


@pytest.mark.process
def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotkd.data.lazy.available_cores", lambda: 3)
    split = lazy(pictures())
    for workers, expected in ((0, 0), (1, 1), (None, 3), (6, 6), (9, 6)):  # there are six batches
        batches = split.batches(EpochSpec(2, workers=workers))
        next(batches)
        assert running(expected) == expected
    del batches
    with pytest.raises(SpotkdError, match=r"^data\.workers is -1: it must be 0 \(decode between the steps\) or more$"):
        seen(split, workers=-1)


class Deadly(Shimmed):
    def __getitem__(self, number: int, /) -> tuple[str, bytes]:
        os._exit(1)


@pytest.mark.process
def test_a_process_that_is_killed() -> None:
    split = LazySet(Deadly(pictures(4)), torch.arange(4), torch.zeros(4, dtype=torch.int64), 32)
    with pytest.raises(SpotkdError, match=r"^a process that decodes images was stopped from outside \(Data") as caught:
        seen(split, workers=1)
    assert "\n" not in str(caught.value)
    assert running(0) == 0


# Damage


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
@pytest.mark.parametrize("training", [False, True])
def test_a_damaged_picture_is_named_on_one_line(workers: int, training: bool) -> None:
    files = pictures()
    files[6] = ("folder/cut.png", files[6][1][:400])
    with pytest.raises(SpotkdError, match=r"^folder/cut\.png: damaged \(.+\); replace or remove it$") as caught:
        seen(lazy(files), workers=workers, training=training)
    assert "\n" not in str(caught.value)
    assert running(0) == 0


def test_torchvision_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SpotkdError, match=r"^torchvision is not installed: pip install 'spotkd\[vision\]'$"):
        seen(lazy(pictures(4)))


def test_torchvision_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms\\ndoes not exist')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(SpotkdError, match=r"^torchvision is installed but cannot be imported \(operator nms does not"):
        seen(lazy(pictures(4)))


# Decoding


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    with BytesIO() as file:
        picture.save(file, kind, **options)
        return file.getvalue()


def colours() -> Image.Image:
    return Image.open(BytesIO(random_picture(np.random.default_rng(1), 20, 12)))


def decoded(content: bytes) -> Array:
    with ignore_warnings():
        return image_to_tensor(decode_image("picture", content)).numpy()


def test_every_kind_of_picture_becomes_rgb() -> None:
    picture = colours().convert("RGB")
    exact = np.asarray(picture).transpose(2, 0, 1)
    for kind in ("png", "bmp", "tiff", "ppm"):
        assert np.array_equal(decoded(saved(picture, kind)), exact), kind
    assert np.array_equal(decoded(saved(picture, "webp", lossless=True)), exact)
    assert abs(decoded(saved(picture, "jpeg", quality=100)).astype(int) - exact).mean() < 20
    cmyk = saved(picture.convert("CMYK"), "jpeg", quality=100, subsampling=0)
    assert abs(decoded(cmyk).astype(int) - exact).mean() < 20
    grey = np.asarray(picture.convert("L"))
    assert np.array_equal(decoded(saved(picture.convert("L"), "png")), np.stack([grey] * 3))
    clear = picture.copy()
    clear.putalpha(Image.new("L", picture.size, 7))
    assert np.array_equal(decoded(saved(clear, "png")), exact)
    palette = picture.quantize(200)  # there are fewer colours
    assert np.array_equal(decoded(saved(palette, "png", transparency=bytes(range(16)))), exact)
    assert np.array_equal(decoded(saved(palette, "gif", save_all=True, append_images=[palette.rotate(180)])), exact)
    bilevel = decoded(saved(picture.convert("1"), "png"))
    assert set(np.unique(bilevel)) == {0, 255}


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    assert np.array_equal(decoded(saved(Image.fromarray(deep), "png")), np.stack([deep >> 8] * 3))


def test_pictures_are_turned_upright() -> None:
    picture = colours().convert("RGB")
    exact = np.asarray(picture).transpose(2, 0, 1)
    across = exact.transpose(0, 2, 1)
    turned = {1: exact, 3: exact[:, ::-1, ::-1], 6: across[:, :, ::-1], 8: across[:, ::-1]}
    for orientation, expected in turned.items():
        notes = Image.Exif()
        notes[0x0112] = orientation
        content = saved(picture, "png", exif=notes)
        assert np.array_equal(decoded(content), expected), orientation
        assert read_image_size("picture", content) == expected.shape[1:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or not a picture"),
        (b"GIF89a", "damaged"),
        (b"not a picture" * 100, "damaged or not a picture"),
        (random_picture(np.random.default_rng(1), 64, 64, kind="jpeg")[:-900], "damaged .*truncated"),
        (random_picture(np.random.default_rng(1), 64, 64)[:-60], "damaged"),
    ],
)
def test_damaged_pictures(content: bytes, message: str) -> None:
    with pytest.raises(SpotkdError, match=rf"^a/b\.jpg: {message}.*; replace or remove it$") as caught:
        decode_image("a/b.jpg", content)
    assert "0x" not in str(caught.value)


@pytest.mark.process
def test_what_pillow_warns_of_does_not_matter() -> None:
    picture = colours().convert("RGB")
    notes = saved(picture, "png", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01")
    palette = saved(picture.quantize(200), "png", transparency=bytes(range(16)))
    with pytest.raises(SpotkdError, match="Transparency"):  # it does warn, which is an error in these tests
        decode_image("palette", palette)
    split = lazy([("notes", notes), ("palette", palette)])
    assert seen(split)[0].shape == (2, 3, 32, 32)
    assert seen(split, workers=1)[0].shape == (2, 3, 32, 32)
    images = split.decode_into_memory((20, 12), "odd").images
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], image_to_tensor(picture))


def test_into_memory_in_parallel_and_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(2)
    files = [(str(number), random_picture(generator, 12, 20)) for number in range(150)]
    images = decode_images(files, [*range(149, -1, -1), 7], (12, 20), "reading")
    expected = [pixels_of(content) for _, content in files]
    assert np.array_equal(images.numpy(), np.stack([*expected[::-1], expected[7]]))
    assert images.is_contiguous()
    assert capfd.readouterr() == ("", "")  # a bar only in a terminal


def test_into_memory_the_centre_of_what_has_another_size() -> None:
    wide = Image.new("RGB", (80, 20), (255, 0, 0))
    wide.paste((0, 255, 0), (25, 0, 55, 20))
    images = decode_images([("wide", saved(wide, "png"))], [0], (10, 10), "")
    assert images.shape == (1, 3, 10, 10)
    assert (images[0, 1] == 255).all()
    assert (images[0, 0] == 0).all()


def test_into_memory_the_first_damaged_picture_is_named() -> None:
    generator = np.random.default_rng(2)
    files = [(f"{number}.png", random_picture(generator, 12, 20)) for number in range(300)]
    for number in (270, 140):
        files[number] = (files[number][0], b"x")
    with pytest.raises(SpotkdError, match=r"^140\.png: damaged or not a picture"):
        decode_images(files, range(300), (12, 20), "")


def test_a_subset_keeps_the_right_pictures() -> None:
    files = pictures()
    part = lazy(files).subset(torch.tensor([7, 2, 5])).subset(torch.tensor([2, 0]))
    assert torch.equal(seen(part)[0], seen(lazy([files[5], files[7]]))[0])
    assert part.labels.tolist() == [2, 1]
    assert len(part) == 2
    assert part.size == (32, 32)
