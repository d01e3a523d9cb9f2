"""Folders of images: every usual layout, its size and its classes; one line for what is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spotkd import Dataset, Loader, SpotkdError
from spotkd.data import ImageSet, LazySet, Split, folders, load_data, load_dataset, make_preprocessing
from spotkd.data.image_files import EXTENSIONS
from spotkd.data.spec import DataSpec
from spotkd.stages import Batch
from spotkd.untrusted.names import looking

from ..conftest import in_memory
from ..vision import torchvision
from .formats import Array, pixels_of, random_picture, write_folder, write_imagenet

CLASSES = ("ant", "bee", "cat")


def open_folder(path: Path, **options: object) -> Dataset:
    """As a run opens it, which measures no mean and no deviation: those are ImageNet's."""
    return load_data(DataSpec(f"folder:{path}", **options))  # type: ignore[arg-type]


def assert_holds(split: Split | None, written: tuple[list[Array], list[int]]) -> None:
    assert isinstance(split, ImageSet)
    assert split.images.dtype == torch.uint8
    assert np.array_equal(split.images.numpy(), np.stack(written[0]))
    assert split.labels.tolist() == written[1]


def fails(path: Path, message: str, **options: object) -> None:
    with pytest.raises(SpotkdError, match=message) as caught:
        open_folder(path, **options)
    assert "\n" not in str(caught.value)


# Layouts


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Testing"])
def test_training_images_and_one_other_split(tmp_path: Path, name: str) -> None:
    written = write_folder(tmp_path, ("train", name))
    data = open_folder(tmp_path)
    assert_holds(data.train, written["train"])
    assert_holds(data.test, written[name])
    assert data.val is None
    assert data.classes == CLASSES
    assert data.name == f"folder:{tmp_path}"
    assert data.image_shape == (3, 16, 16)
    assert (data.padding, data.flip) == (4, True)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_all_three_splits(tmp_path: Path) -> None:
    written = write_folder(tmp_path, ("train", "val", "test"))
    data = open_folder(tmp_path)
    assert_holds(data.train, written["train"])
    assert_holds(data.val, written["val"])
    assert_holds(data.test, written["test"])
    with pytest.raises(SpotkdError, match="has 12 validation images of its own; leave val_share out"):
        open_folder(tmp_path, val_share=0.1)


def test_a_share_of_every_class_is_held_out_where_there_is_no_split(tmp_path: Path) -> None:
    everything = write_folder(tmp_path, ("",), count=10)[""]
    data, again = open_folder(tmp_path), open_folder(tmp_path)
    train, test = in_memory(data.train), in_memory(data.test)
    assert train.labels.bincount().tolist() == [8, 8, 8]
    assert test.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(test.images, in_memory(again.test).images)
    torch.manual_seed(9)
    assert torch.equal(test.images, in_memory(open_folder(tmp_path, limit=5).test).images)

    known = {image.tobytes(): label for image, label in zip(*everything, strict=True)}
    for split in (train, test):
        found = [known.pop(image.numpy().tobytes()) for image in split.images]  # a second time it would be missing
        assert found == split.labels.tolist()
    assert not known
    assert len(open_folder(tmp_path, test_share=0.5).test) == 15
    assert len(open_folder(tmp_path, test_share=0.1).test) == 3


def test_train_alone_is_divided_whether_its_parent_or_itself_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train",), count=5)
    inside, outside = open_folder(tmp_path / "train"), open_folder(tmp_path)
    for data in (inside, outside):
        assert (len(data.train), len(data.test), data.classes) == (12, 3, CLASSES)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_folder(tmp_path, ("",), ("train", "bus", "car"))
    assert open_folder(tmp_path).classes == ("bus", "car", "train")


def test_what_counts_as_a_picture(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "val"))
    content = random_picture(np.random.default_rng(0), 16, 16)
    deep = tmp_path / "train" / "ant" / "more" / "still"
    deep.mkdir(parents=True)
    for extension in EXTENSIONS:
        (deep / f"x.{extension.upper()}").write_bytes(content)  # Pillow looks at the content
    for stray in ("train/ant/notes.txt", "train/ant/.hidden.png", "train/list.csv", "train/x.png", "README"):
        (tmp_path / stray).write_bytes(b"no picture")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "bee" / ".thumbnails").mkdir()
    (tmp_path / "train" / "bee" / ".thumbnails" / "1.png").write_bytes(b"no picture")
    data = open_folder(tmp_path)
    assert in_memory(data.train).labels.bincount().tolist() == [4 + len(EXTENSIONS), 4, 4]
    assert np.array_equal(in_memory(data.train).images[4].numpy(), pixels_of(content))


def test_names_outside_ascii_and_links(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", ("",), ("käse",))
    write_folder(tmp_path / "set", ("",), ("brot",))
    (tmp_path / "set" / "wurst").symlink_to(tmp_path / "elsewhere" / "käse")
    (tmp_path / "elsewhere" / "käse" / "000.png").rename(tmp_path / "elsewhere" / "käse" / "ä ö.png")
    data = open_folder(tmp_path / "set")
    assert data.classes == ("brot", "wurst")
    assert (len(data.train), len(data.test)) == (6, 2)


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train", "dev", "val"),
        ("train", "eval", "val"),
        ("train", "holdout", "test"),
        ("training_set", "test_set", "test"),
        ("Train-Images", "Validation Data", "val"),
    ],
)
def test_other_names_of_splits_are_told(
    train: str, other: str, split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_folder(tmp_path, (train, other))
    data = open_folder(tmp_path)
    assert_holds(data.train, written[train])
    assert_holds(data.test, written[other])
    assert f"{other}/ as {split}" in capsys.readouterr().err


def test_what_is_left_out_is_counted_with_an_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, ("train", "test", "more"))
    open_folder(tmp_path)
    assert capsys.readouterr().err == f"{tmp_path}: left out: 1 folders (more)\n"
    (tmp_path / "train" / "ant" / "link").symlink_to(tmp_path / "more")
    for name in ("ant/a.svg", "ant/b.SVG", "bee/._1.png", "x.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    open_folder(tmp_path)
    assert capsys.readouterr().err == (
        f"{tmp_path}: left out: 2 .svg files (train/ant/a.svg), 1 linked folders (train/ant/link), "
        "1 hidden files (train/bee/._1.png), 1 pictures outside of class folders (train/x.png), 1 folders (more)\n"
    )


def test_a_class_folder_that_leads_back_up_holds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_folder(tmp_path / "set", ("train", "test"))
    (tmp_path / "set" / "train" / "up").symlink_to("..")
    (tmp_path / "set" / "train" / "here").symlink_to(".")
    data = open_folder(tmp_path / "set")
    assert data.classes == CLASSES
    assert_holds(data.train, written["train"])
    assert "left out: 2 folders (train/here)" in capsys.readouterr().err
    (tmp_path / "set" / "train" / "wasp").symlink_to(tmp_path / "set" / "test" / "bee")  # an ordinary one is a class
    assert open_folder(tmp_path / "set").classes == (*CLASSES, "wasp")


def test_classes_called_test_and_a_folder_of_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "a", ("",), ("test", "train", "car"))
    assert open_folder(tmp_path / "a").classes == ("car", "test", "train")
    assert "20% of each class are held out as test images" in capsys.readouterr().err
    write_folder(tmp_path / "b" / "pictures", ("train", "val"))
    (tmp_path / "b" / "__MACOSX" / "pictures").mkdir(parents=True)
    assert open_folder(tmp_path / "b").classes == CLASSES
    assert f"{tmp_path / 'b'}: left out: 1 folders (__MACOSX)" in capsys.readouterr().err


def test_a_folder_in_place_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpotkdError, match=r"^unknown data set 'pictures', which is a folder: write folder:pictures$"):
        load_dataset("pictures")


@pytest.mark.parametrize(
    ("kind", "top", "suffix"),
    [("u2", 255, "png"), ("u2", 4095, "png"), ("f4", 1, "tif"), ("i4", 255, "tif"), ("u2", 65535, "png")],
)
def test_grey_of_more_than_eight_bits_is_scaled_by_its_range(
    kind: str, top: int, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.linspace(0, 1, 256).reshape(16, 16) * top
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(grey.astype(kind)).save(tmp_path / name / f"{number}.{suffix}")
    images = in_memory(open_folder(tmp_path).train).images[0, 0].numpy().astype(int)
    assert abs(images.ravel() - np.arange(256)).max() <= 1
    said = f"grey pictures with more than 8 bits is taken as {top:g}\n" in capsys.readouterr().err
    assert said == (top != 65535)
    assert make_preprocessing(open_folder(tmp_path)).white == top
    capsys.readouterr()
    twice = open_folder(tmp_path, white=2.0 * top)
    assert in_memory(twice.train).images.max() in (127, 128)
    assert make_preprocessing(twice).white == 2 * top
    assert not capsys.readouterr().err.count("brightest")


def test_flips_can_be_switched_off_for_themselves(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = open_folder(tmp_path, flip=False)
    assert (data.flip, data.augment, open_folder(tmp_path).flip) == (False, True, True)


# Sizes


@pytest.mark.parametrize(("size", "padding"), [((40, 40), 4), ((64, 96), 8), ((96, 96), 12), ((8, 8), 4)])
def test_small_pictures_of_one_size_stay_as_they_are(tmp_path: Path, size: tuple[int, int], padding: int) -> None:
    written = write_folder(tmp_path, sizes=[size], count=2)
    data = open_folder(tmp_path)
    assert_holds(data.train, written["train"])
    assert data.image_shape == (3, *size)
    assert data.padding == padding


@pytest.mark.parametrize("sizes", [[(97, 97)], [(16, 16), (16, 18)], [(30, 97)]])
def test_others_are_decoded_as_needed(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    assert torchvision
    written = write_folder(tmp_path, sizes=sizes, count=2)
    data = open_folder(tmp_path, workers=0)
    assert isinstance(data.train, LazySet)
    assert isinstance(data.test, LazySet)
    assert data.image_shape == (3, 224, 224)
    assert (data.padding, data.flip) == (0, True)
    batch = next(iter(Loader(data, data.train, 4, training=True, workers=0).epoch(1)))
    assert batch.images.shape == (4, 3, 224, 224)
    assert batch.indices is not None
    assert batch.labels.tolist() == [written["train"][1][index] for index in batch.indices.tolist()]


def test_a_picture_of_another_size_beyond_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spotkd.data.image_files._SAMPLE", 3)
    write_folder(tmp_path, sizes=[*[(16, 16)] * 4, (20, 24)], count=3)
    data = open_folder(tmp_path)
    assert in_memory(data.train).images.shape == (9, 3, 16, 16)


def test_a_size_that_is_asked_for(tmp_path: Path) -> None:
    written = write_folder(tmp_path, sizes=[(100, 120), (48, 32)], count=2)
    small = open_folder(tmp_path, image_size=32)
    assert in_memory(small.train).images.shape == (6, 3, 32, 32)
    assert small.padding == 4
    centre = written["train"][0][1][:, 8:40]
    assert np.array_equal(in_memory(small.train).images[1].numpy(), centre)  # cut, and not scaled
    large = open_folder(tmp_path, image_size=97)
    assert isinstance(large.train, LazySet)
    assert large.image_shape == (3, 97, 97)
    for size in (7, 1025, 0, -3):
        fails(tmp_path, rf"^data\.image_size is {size}: it must lie between 8 and 1024$", image_size=size)


def test_small_pictures_too_many_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, sizes=[(16, 20)], count=2)
    monkeypatch.setattr("spotkd.data.lazy.MAX_MEMORY", 12 * 3 * 16 * 20)
    assert isinstance(open_folder(tmp_path).train, ImageSet)
    monkeypatch.setattr("spotkd.data.lazy.MAX_MEMORY", 12 * 3 * 16 * 20 - 1)
    data = open_folder(tmp_path)
    assert isinstance(data.train, LazySet)
    assert data.image_shape == (3, 16, 16)


def test_normalised_batches_have_the_mean_and_variance_of_numpy_s(tmp_path: Path) -> None:
    written = write_folder(tmp_path)
    data = open_folder(tmp_path)
    batches = list(Loader(data, data.test, 5, training=False).epoch(0))
    got = np.concatenate([batch.images.numpy() for batch in batches])
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (np.stack(written["val"][0])[:, channel] / 255 - mean) / std
        assert got[:, channel].mean() == pytest.approx(expected.mean(), abs=1e-5)
        assert got[:, channel].var() == pytest.approx(expected.var(), abs=1e-5)


def test_limits_and_validation_shares_of_lazy_sets(tmp_path: Path) -> None:
    write_folder(tmp_path, sizes=[(100, 100)], count=4)
    data = open_folder(tmp_path, limit=6, val_share=0.5)
    assert [split.labels.tolist() for split in (data.train, data.val) if isinstance(split, LazySet)] == [[0, 1, 2]] * 2
    assert len(data.test) == 12


# Mistakes


def test_no_folder(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", r"^folder:.*nowhere: no such folder, seen from /")
    with pytest.raises(SpotkdError, match=r"^folder:: no such folder"):
        load_dataset("folder:")
    fails(tmp_path, rf"^{tmp_path}: no class folders in it, and two classes are the least; FOLDER/train/CLASS/1\.jpg")


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "pictures.zip").write_bytes(b"PK")
    fails(tmp_path / "pictures.zip", r"pictures\.zip: is a file; unpack it")


def test_splits_of_unknown_names_are_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, ("fit", "check"))
    assert open_folder(tmp_path).classes == ("check", "fit")
    told = "".join(capsys.readouterr())
    assert "check, fit are taken as classes, and all hold ant, bee, cat: if those are the classes, call the" in told


def test_one_class(tmp_path: Path) -> None:
    write_folder(tmp_path, ("",), ("ant",))
    fails(tmp_path, rf"^{tmp_path}: only one class folder \(ant\) in it")


def test_a_class_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    (tmp_path / "val" / "dog").mkdir()
    (tmp_path / "val" / "dog" / "1.txt").write_text("no picture")
    assert open_folder(tmp_path).classes == CLASSES
    assert f"{tmp_path}: left out: 1 folders (val/dog)" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "val" / "cat")
    data = open_folder(tmp_path)  # there is nothing to measure on, and the class is learned all the same
    assert in_memory(data.test).labels.bincount(minlength=3).tolist()[2] == 0
    assert f"{tmp_path}/val: has no pictures of cat\n" in capsys.readouterr().err
    (tmp_path / "train" / "dog").mkdir()
    fails(tmp_path, rf"^{tmp_path}/train/dog: a class folder without pictures \(.*bmp, .*\); add some, or remove it ")


def test_classes_that_differ(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train",), ("ant", "bee", "cat"))
    write_folder(tmp_path, ("val",), ("ant", "bee", *"defghij"))
    fails(
        tmp_path,
        rf"^{tmp_path}/val: its class folders are not those of {tmp_path}/train: it lacks cat and alone has d, e, f, "
        r"g, h and 2 more; give them the same names$",
    )


def test_splits_that_make_no_sense(tmp_path: Path) -> None:
    write_folder(tmp_path, ("val",))
    fails(tmp_path, rf"^{tmp_path}: has val/ and no train/; FOLDER/train/CLASS")
    write_folder(tmp_path, ("train", "valid"))
    fails(tmp_path, rf"^{tmp_path}: has both val/ and valid/; keep one of them$")


def test_test_shares_that_make_no_sense(tmp_path: Path) -> None:
    write_folder(tmp_path / "three")
    fails(
        tmp_path / "three",
        r"^data\.test_share is 0\.1: folder:.* has 12 test images of its own; leave test_share out$",
        test_share=0.1,
    )
    write_folder(tmp_path / "plain", ("",))
    for share in (0.0, 1.0, -0.5):
        message = rf"^data\.test_share of folder:.*plain is {share:g}: it must lie between 0 and 1$"
        fails(tmp_path / "plain", message, test_share=share)


def test_options_without_use(tmp_path: Path) -> None:
    write_folder(tmp_path)
    fails(tmp_path, r"^data\.streaming has no effect on folder:.*: leave it out$", streaming=True)
    fails(tmp_path, r"^data\.download has no effect on folder:.*: leave it out$", download=True)


@pytest.mark.parametrize("size", [(16, 16), (100, 100)])
def test_a_damaged_picture_is_named(tmp_path: Path, size: tuple[int, int]) -> None:
    write_folder(tmp_path, sizes=[size])
    path = tmp_path / "train" / "bee" / "002.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # its head, with the size, is whole

    def read() -> list[Batch]:
        data = open_folder(tmp_path)
        assert size == (100, 100)  # others are in memory, and decoded by now
        return list(Loader(data, data.train, 4, training=True, workers=0).epoch(1))

    with pytest.raises(SpotkdError, match=rf"^{path}: damaged \(.*\); replace or remove it$"):
        read()
    path.write_bytes(b"no picture")
    fails(tmp_path, rf"^{path}: damaged or not a picture; replace or remove it$")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    fails(tmp_path, rf"^{path}: cannot be read \(No such file or directory\)$")


# ImageNet


@pytest.mark.parametrize("splits", [("train_set", "test_set"), ("train", "val"), ("train", "val", "test")])
@pytest.mark.parametrize("below", ["imagenet", "."])
def test_imagenet(tmp_path: Path, splits: tuple[str, ...], below: str) -> None:
    assert torchvision
    names = write_imagenet(tmp_path / below, splits)
    data = load_dataset("imagenet", root=str(tmp_path))
    assert data.classes == names
    assert data.name == "imagenet"
    assert isinstance(data.train, LazySet)
    assert isinstance(data.test, LazySet)
    assert data.train.image_files[0][0].startswith(str(tmp_path / below / splits[0]))
    assert data.test.image_files[0][0].startswith(str(tmp_path / below / splits[1]))
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert data.val is None
    assert data.image_shape == (3, 224, 224)
    assert (data.mean, data.std, data.flip) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True)
    batch = next(iter(Loader(data, data.test, 3, training=False, workers=0).epoch(0)))
    assert batch.images.shape == (3, 3, 224, 224)


def test_imagenet_of_another_size_and_without_names(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "imagenet")
    (tmp_path / "imagenet" / "LOC_synset_mapping.txt").unlink()
    data = load_dataset("imagenet", root=str(tmp_path), image_size=64)
    assert data.classes == ("n01443537", "n02012849", "n03126707", "n09999999")
    assert data.image_shape == (3, 64, 64)
    assert isinstance(data.train, LazySet)
    with pytest.raises(SpotkdError, match=r"data\.image_size is 4"):
        load_dataset("imagenet", root=str(tmp_path), image_size=4)


def test_imagenet_is_missing(tmp_path: Path) -> None:
    (tmp_path / "imagenet" / "train").mkdir(parents=True)
    with pytest.raises(SpotkdError, match=r"^imagenet: no .*/imagenet/train and .*/val; get ILSVRC 2012 from https"):
        load_dataset("imagenet", root=str(tmp_path))
    with pytest.raises(SpotkdError, match=r"^imagenet: data\.download has no effect, .* get ILSVRC 2012 from https"):
        load_dataset("imagenet", root=str(tmp_path), download=True)
    with pytest.raises(SpotkdError, match=r"^data\.test_share has no effect on imagenet: leave it out$"):
        load_dataset("imagenet", root=str(tmp_path), test_share=0.1)


def test_a_strangers_file_does_not_make_the_whole_disk_be_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path)
    for number in range(5):
        (tmp_path / "train" / "ant" / str(number)).mkdir()
    monkeypatch.setattr(folders, "_MOST_FOLDERS", 5)
    spec = DataSpec(f"folder:{tmp_path}", image_size=8)
    assert len(load_data(spec).classes) == 3
    with looking(trust=True):
        assert len(load_data(spec).classes) == 3
    with looking(), pytest.raises(SpotkdError, match=r"ant: holds more than 5 folders, and a file names it"):
        load_data(spec)
