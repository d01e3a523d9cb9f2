"""Sets of the Hugging Face Hub, from folders in its formats: the same images whole and streamed; errors on one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from spotkd import Dataset, Loader, SpotkdError
from spotkd.data import DataSpec, EpochSpec, LazySet, Split, load_data, load_dataset
from spotkd.data.hub import StreamSet

from ..conftest import in_memory
from ..vision import torchvision
from .formats import pixels_of, write_folder, write_hub

CLASSES = ("ant", "bee", "cat")
TRAIN, TEST = [0, 1, 2, 0, 1, 2, 2, 2, 0, 1, 1, 0], [2, 1, 0, 0]
LARGE = [(70, 50), (40, 90)]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library keeps what it makes in the test's own folder, and asks nobody on the net."""
    assert torchvision
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def open_set(name: str = "./set", **options: Any) -> Dataset:
    return load_dataset(f"hf:{name}", **options)


def fails(message: str, name: str = "./set", **options: object) -> None:
    with pytest.raises(SpotkdError, match=message) as caught:
        open_set(name, **options)
    assert "\n" not in str(caught.value)


def seen(split: Split, **wanted: Any) -> tuple[Tensor, Tensor]:
    batches = list(split.batches(EpochSpec(**({"batch_size": 5, "workers": 0} | wanted))))
    return torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])


def write(splits: dict[str, Any] | None = None, **options: Any) -> dict[str, list[bytes]]:
    return write_hub(Path("set"), splits or {"train": TRAIN, "test": TEST}, **options)


# Whole


def test_small_images_labels_and_names() -> None:
    written = write()
    data = open_set()
    for split, files, labels in ((data.train, written["train"], TRAIN), (data.test, written["test"], TEST)):
        assert np.array_equal(in_memory(split).images.numpy(), np.stack([pixels_of(file) for file in files]))
        assert in_memory(split).labels.tolist() == labels
    assert data.classes == CLASSES
    assert data.name == "hf:./set"
    assert data.val is None
    assert (data.padding, data.flip) == (4, True)
    shown = in_memory(data.train).images.numpy() / 255
    assert (data.mean, data.std) == (tuple(shown.mean((0, 2, 3)).round(4)), tuple(shown.std((0, 2, 3)).round(4)))
    assert data.image_shape == (3, 12, 12)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_large_images_are_decoded_as_needed(workers: int) -> None:
    written = write(sizes=LARGE)
    data = open_set(image_size=128)
    assert isinstance(data.train, LazySet)
    assert data.image_shape == (3, 128, 128)
    files = [("", content) for content in written["train"]]
    same = LazySet(files, torch.arange(12), torch.tensor(TRAIN), 128)
    for training in (False, True):
        wanted = {"training": training, "flip": True, "workers": workers, "seed": 4}
        assert all(map(torch.equal, seen(data.train, **wanted), seen(same, **wanted)))
    assert open_set().image_shape == (3, 224, 224)


def test_a_folder_of_classes() -> None:
    """Another of the library's formats, which keeps names of files in place of their content."""
    written = write_folder(Path("set"), ("train", "test"))
    data = open_set()
    assert np.array_equal(in_memory(data.train).images.numpy(), np.stack(written["train"][0]))
    assert in_memory(data.test).labels.tolist() == written["test"][1]
    assert data.classes == CLASSES
    streamed = open_set(streaming=True, image_size=16, limit=12)
    whole = open_set()
    files = [("", path.read_bytes()) for path in sorted(Path("set/test").rglob("*.png"))]
    same = LazySet(files, torch.arange(12), in_memory(whole.test).labels, 16)
    assert all(map(torch.equal, seen(streamed.test), seen(same)))


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_splits(name: str) -> None:
    write({"train": TRAIN, name: TEST})
    data = open_set()
    assert in_memory(data.test).labels.tolist() == TEST
    assert data.val is None
    write({"test": [0, 1]})
    data = open_set()
    assert data.val is not None
    assert in_memory(data.val).labels.tolist() == TEST
    assert in_memory(data.test).labels.tolist() == [0, 1]
    fails(r"^data\.test_share is 0\.5: hf:\./set has 2 test images of its own; leave test_share out$", test_share=0.5)


def test_a_share_is_held_out_where_there_is_no_test_split() -> None:
    write({"train": TRAIN * 2})
    data, again = open_set(), open_set()
    assert in_memory(data.test).labels.bincount().tolist() == [2, 2, 2]
    assert len(data.train) == 18
    assert torch.equal(in_memory(data.test).images, in_memory(again.test).images)
    assert len(open_set(test_share=0.5).test) == 12


def test_other_columns_of_labels() -> None:
    names = datasets.ClassLabel(names=list(CLASSES))
    coarse = datasets.ClassLabel(names=["x", "y", "z"])
    for columns, classes in (
        ({"coarse_label": coarse, "fine_label": names}, CLASSES),
        ({"other": coarse, "label": names, "fine_label": coarse}, CLASSES),
        ({"kind": names, "number": datasets.Value("int64")}, CLASSES),
        ({"labels": datasets.Value("int32")}, ("0", "1", "2")),
        ({"label": datasets.Value("uint8"), "id": datasets.Value("int64")}, ("0", "1", "2")),
    ):
        write(columns=columns)
        data = open_set()
        assert data.classes == classes
        assert in_memory(data.train).labels.tolist() == TRAIN


def test_columns_that_leave_it_open() -> None:
    names = datasets.ClassLabel(names=list(CLASSES))
    for columns, message in (
        (
            {"kind": names, "other": names},
            r"several columns hold class labels \(kind, other\), and none is called label",
        ),
        ({"number": datasets.Value("int64")}, r"none of its columns \(image, number\) holds class labels, nor whole"),
        ({"label": datasets.Value("string")}, r"none of its columns \(image, label\) holds class labels"),
    ):
        kinds = {"train": list(map(str, TRAIN))} if columns.get("label") else {"train": TRAIN}
        write(kinds, columns=columns)
        fails(rf"^hf:\./set: {message}.*; python:MODULE\.FUNCTION can make a data set of it$")
    table = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    table.to_parquet(Path("set/train-00000-of-00001.parquet"))
    fails(r"^hf:\./set: 0 of its columns \(text, label\) hold images, and exactly one must")


def test_a_test_split_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    write({"train": TRAIN, "test": [-1, -1]})
    fails(r"^hf:\./set: its test split has no labels; set data\.test_share .* to take training images in its place$")
    assert len(open_set(test_share=0.25).test) == 3
    write({"train": TRAIN, "validation": TEST, "test": [None, None]}, tell=True)
    for streaming in (False, True):
        capsys.readouterr()
        data = open_set(streaming=streaming)
        assert seen(data.test)[1].tolist() == TEST
        assert data.val is None
        note = "hf:./set: its test split has no labels; its validation images are taken as test images\n"
        assert note in capsys.readouterr().err


@pytest.mark.parametrize("label", [-1, None])
def test_an_image_without_a_label(label: int | None) -> None:
    write({"train": [0, 1, label, 2], "test": TEST}, tell=True)
    fails(r"^hf:\./set: training image 2 has no label \(-1\)$")
    with pytest.raises(SpotkdError, match=r"^hf:\./set: training image 2 has no label \(-1\)$"):
        seen(open_set(streaming=True).train)
    with pytest.raises(SpotkdError, match=r"^hf:\./set: training image at shuffled place [0-3] has no label \(-1\)$"):
        seen(open_set(streaming=True, limit=4).train, training=True)


def test_a_label_that_is_no_class() -> None:
    write({"train": TRAIN, "test": [0, 1]}, columns={"label": datasets.Value("int64")})
    write({"test": [0, -4]}, columns={"label": datasets.Value("int64")})
    fails(r"^hf:\./set: test image 1 has no label \(-4\)$")
    split = StreamSet("x: test image", [{"i": {"bytes": b"", "path": None}, "l": 3}], "i", "l", 3, 1)
    with pytest.raises(SpotkdError, match=r"^x: test image 0 has label 3, and the 3 classes are 0 to 2$"):
        seen(split)


def damage(number: int, content: bytes | None) -> None:
    path = Path("set/train-00000-of-00001.parquet")
    table = datasets.Dataset.from_parquet(str(path)).cast_column("image", datasets.Image(decode=False))
    rows = table[:]
    rows["image"][number] = None if content is None else {"bytes": content, "path": "bee.jpg"}
    datasets.Dataset.from_dict(rows, features=table.features).cast_column("image", datasets.Image()).to_parquet(path)


@pytest.mark.parametrize("sizes", [[(12, 12)], LARGE])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_a_damaged_image_is_named(sizes: list[tuple[int, int]], streaming: bool, workers: int) -> None:
    content = write(sizes=sizes, tell=True)["train"][7]
    damage(7, content[: len(content) // 2])

    def read() -> None:
        data = open_set(streaming=streaming)
        for _ in Loader(data, data.train, 5, training=False, workers=workers).epoch(0):
            pass

    with pytest.raises(
        SpotkdError, match=r"^hf:\./set: training image 7 \(bee\.jpg\): damaged \(.*\); replace"
    ) as caught:
        read()
    assert "\n" not in str(caught.value)
    damage(7, None)
    with pytest.raises(SpotkdError, match=r"^hf:\./set: training image 7: there is none in its row$"):
        read()


def test_sets_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(r"^hf:\./nowhere: no such folder, seen from /", "./nowhere")
    fails(r"^hf:: write hf:NAME or hf:NAME:CONFIGURATION", "")
    fails(r"^hf:no/such-set: the Hub's library cannot load it \(\w+: .*no/such-set", "no/such-set")
    write()
    fails(r"^hf:\./set:other: the Hub's library cannot load it \(ValueError: .*'other' not found", "./set:other")
    write_hub(Path("lone"), {"test": TEST})
    fails(r"^hf:\./lone: has the splits test and no train$", "./lone")
    fails(r"^data\.download has no effect on hf:\./set: leave it out$", download=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    fails(r"^datasets is not installed: pip install 'spotkd\[hub\]'$")


def test_name_and_configuration_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    write(tell=True)
    asked: list[tuple[object, ...]] = []
    load = datasets.load_dataset

    def note(*arguments: object, **options: object) -> object:
        asked.append((*arguments, options))
        return load(str(Path("set").resolve()), **options)

    monkeypatch.setattr(datasets, "load_dataset", note)
    assert len(open_set("owner/name:plain", streaming=True).test) == 4
    assert len(open_set("name").test) == 4
    assert asked == [("owner/name", "plain", {"streaming": True}), ("name", None, {"streaming": False})]


# Streamed


def test_a_stream_has_the_same_content() -> None:
    """Row by row in evaluation; in training in another order, and with crops of their own."""
    written = write(sizes=LARGE, tell=True)
    data = open_set(streaming=True, image_size=32)
    assert isinstance(data.train, StreamSet)
    assert (len(data.train), len(data.test), data.train.labels, data.classes) == (12, 4, None, CLASSES)
    assert data.image_shape == (3, 32, 32)
    files = [("", content) for content in written["train"]]
    same = LazySet(files, torch.arange(12), torch.tensor(TRAIN), 32)
    assert all(map(torch.equal, seen(data.train), seen(same)))
    batches = list(data.train.batches(EpochSpec(5)))
    assert [len(labels) for _, labels, _ in batches] == [5, 5, 2]
    assert [indices for _, _, indices in batches] == [None] * 3
    assert batches[0][0].dtype == torch.uint8

    data = open_set(streaming=True, image_size=32, limit=12)  # the library takes five seconds to end a shuffled whole
    images, labels = seen(data.train, training=True, flip=True, seed=1, epoch=1)
    assert sorted(labels.tolist()) == sorted(TRAIN) != labels.tolist()
    assert images.shape == (12, 3, 32, 32)
    batch = next(iter(Loader(data, data.train, 5, training=True).epoch(1)))
    assert batch.indices is None
    assert batch.images.shape == (5, 3, 32, 32)


@pytest.mark.slow
def test_a_whole_stream_in_random_order() -> None:
    write(tell=True)
    train = open_set(streaming=True).train
    images, labels = seen(train, training=True)
    assert images.shape == (12, 3, 12, 12)
    assert sorted(labels.tolist()) == sorted(TRAIN) != labels.tolist()


def test_passes_over_a_stream_repeat_and_differ() -> None:
    write(sizes=LARGE, tell=True)
    data = open_set(streaming=True, image_size=32, limit=12)

    def images(seed: int, epoch: int) -> Tensor:
        torch.rand(seed + epoch)  # whatever else draws numbers in between
        return seen(data.train, training=True, flip=True, seed=seed, epoch=epoch)[0]

    first = images(1, 1)
    assert torch.equal(first, images(1, 1))
    assert not torch.equal(first, images(1, 2))
    assert not torch.equal(first, images(2, 1))
    assert not torch.equal(images(1, 2), images(2, 1))


def test_the_size_of_a_stream_s_images() -> None:
    write(sizes=[(20, 24)], tell=True)
    assert open_set(streaming=True).image_shape == (3, 20, 20)
    write(sizes=[(97, 97)], tell=True)
    assert open_set(streaming=True).image_shape == (3, 224, 224)
    assert open_set(streaming=True, image_size=40).image_shape == (3, 40, 40)
    write(sizes=LARGE, tell=True)
    assert open_set(streaming=True).image_shape == (3, 224, 224)
    fails(r"^data\.image_size is 4: it must lie", streaming=True, image_size=4)


def test_a_limit_takes_the_first_of_a_stream() -> None:
    write(sizes=LARGE, tell=True)
    data = open_set(streaming=True, image_size=32, limit=7)
    assert len(data.train) == 7
    assert seen(data.train)[1].tolist() == TRAIN[:7]
    assert sorted(seen(data.train, training=True)[1].tolist()) == sorted(TRAIN[:7])
    assert len(data.test) == 4
    fails(r"^data\.limit is 13: hf:\./set has 1 to 12 training images to use$", streaming=True, limit=13)


def test_a_stream_that_does_not_tell_its_length() -> None:
    write()
    message = r"does not say how many training images it has; set data\.limit to how many to use"
    fails(rf"^hf:\./set: {message}$", streaming=True)
    data = open_set(streaming=True, limit=9)
    assert (len(data.train), len(data.test)) == (9, 4)  # test images are counted, and all used
    assert seen(data.train)[1].tolist() == TRAIN[:9]
    with pytest.raises(
        SpotkdError, match=r"^hf:\./set: training images: the stream ended after 12 of 30; set data\.limit"
    ):
        seen(open_set(streaming=True, limit=30).train)


def test_what_a_stream_cannot_do() -> None:
    write({"train": TRAIN})
    fails(r"^hf:\./set: has training images only, and no stream can be divided; leave streaming out$", streaming=True)
    fails(r"^data\.test_share is 0\.5: no stream can be divided; leave it out$", streaming=True, test_share=0.5)
    write(tell=True)
    fails(
        r"^data\.val_share of hf:\./set is 0\.5: nothing can be held out of images that stream by",
        streaming=True,
        val_share=0.5,
    )
    with pytest.raises(
        SpotkdError, match=r"^hf:\./set: training images stream by, and only the first ones can be picked"
    ):
        open_set(streaming=True).train.subset(torch.tensor([1, 2]))
    write(columns={"label": datasets.Value("int64")}, tell=True)
    fails(r"^hf:\./set: column label does not give the number of classes; leave streaming out$", streaming=True)


def test_a_stream_that_breaks_off() -> None:
    def rows() -> Any:
        yield {"i": {"bytes": b"", "path": None}, "l": 0}
        raise ConnectionError("reset\nby peer")

    split = StreamSet("x: training image", rows(), "i", "l", 3, 4)
    with pytest.raises(SpotkdError, match=re.escape("x: training images: the stream broke off (reset by peer)")):
        seen(split)


def test_grey_of_twelve_bits_is_scaled_by_the_range_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    from io import BytesIO

    from PIL import Image

    files = []
    for _ in range(4):
        with BytesIO() as file:
            Image.fromarray(np.linspace(0, 4095, 144).reshape(12, 12).astype("u2")).save(file, "png")
            files.append({"bytes": file.getvalue(), "path": None})
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": files, "label": [0, 1, 0, 1]}
    Path("set").mkdir()
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(f"set/{split}-0.parquet")
    data = open_set()
    assert data.white == 4095
    assert in_memory(data.train).images.max() == 255
    assert "is taken as 4095\n" in capsys.readouterr().err
    streamed = load_data(DataSpec("hf:./set", streaming=True, limit=4))
    assert streamed.white == 4095
    assert seen(streamed.test)[0].max() > 200
