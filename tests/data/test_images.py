"""What every data set can do: be limited, hold images out, refuse labels that are no class and options without use."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from spotkd import Dataset, SpotkdError, load_dataset
from spotkd.data import DataSpec, EpochSpec, ImageSet
from spotkd.data.images import reject_unused


def numbered(labels: list[int]) -> ImageSet:
    """Images of one pixel, which is their number."""
    pixels = torch.arange(len(labels), dtype=torch.uint8)
    return ImageSet(pixels.view(-1, 1, 1, 1), torch.tensor(labels))


def made_of(labels: list[int], classes: int = 3) -> Dataset:
    return Dataset("made", numbered(labels), numbered([0, 1]), tuple("abcdef"[:classes]), (0.5,), (0.5,))


def numbers(split: object) -> list[int]:
    assert isinstance(split, ImageSet)
    return split.images.flatten().tolist()


def test_a_limit_takes_every_class_in_turn() -> None:
    grouped = made_of([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert numbers(grouped.limited(3).train) == [0, 4, 7]
    assert numbers(grouped.limited(5).train) == [0, 1, 4, 5, 7]
    assert numbers(grouped.limited(10).train) == list(range(10))
    uneven = made_of([2, 2, 2, 0])
    assert numbers(uneven.limited(3).train) == [0, 1, 3]


def test_held_out_images_are_apart_stratified_and_the_same_every_time() -> None:
    data = made_of([0] * 20 + [1] * 10 + [2] * 5)
    first, second = data.hold_out(0.2), data.hold_out(0.2)
    assert first.val is not None
    assert sorted(numbers(first.train) + numbers(first.val)) == list(range(35))
    assert first.val.labels is not None
    assert first.val.labels.bincount().tolist() == [4, 2, 1]
    assert numbers(first.val) == numbers(second.val)
    torch.manual_seed(7)  # no run's seed moves them
    assert numbers(data.hold_out(0.2).val) == numbers(first.val)
    assert numbers(first.val)[:4] != [0, 1, 2, 3]
    assert data.hold_out(0) is data
    assert numbers(first.test) == numbers(data.test)


def test_a_small_class_keeps_an_image_to_train_on() -> None:
    data = made_of([0, 0, 1, 2, 2, 2]).hold_out(0.9)
    assert data.train.labels is not None
    assert set(data.train.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(SpotkdError, match=rf"data\.val_share of made is {share:g}: it must lie between 0 and 1"):
        made_of([0, 0, 1, 1]).hold_out(share)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(SpotkdError, match="no class has two images"):
        made_of([0, 1, 2]).hold_out(0.5)
    with pytest.raises(SpotkdError, match="made has 2 validation images of its own; leave val_share out"):
        dataclasses.replace(made_of([0, 0, 1, 1]), val=numbered([0, 1])).hold_out(0.5)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class(label: int) -> None:
    with pytest.raises(SpotkdError, match=f"made: a training image has label {label}, and the 3 classes are 0 to 2"):
        made_of([0, 1, label])


def test_options_without_use() -> None:
    for options, key in (
        ({"image_size": 32}, "image_size"),
        ({"streaming": True}, "streaming"),
        ({"download": True}, "download"),
    ):
        with pytest.raises(SpotkdError, match=rf"data\.{key} has no effect on glyph94: leave it out"):
            load_dataset("glyph94", **options)
    reject_unused(DataSpec("x", image_size=3, root="r", limit=1, val_share=0.5, workers=2), "image_size")


def test_names() -> None:
    with pytest.raises(SpotkdError, match=r"unknown data set 'glyph95': did you mean glyph94\?"):
        load_dataset("glyph95")
    with pytest.raises(SpotkdError, match=r"unknown source of data sets 'floder': did you mean folder\?"):
        load_dataset("floder:x")
    with pytest.raises(SpotkdError, match="unexpected keyword argument 'rot'"):
        load_dataset("glyph94", rot="x")
    assert load_dataset("Glyph94", limit=94).name == "glyph94"


def test_a_data_set_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("pictures_of_mine.py").write_text(
        "import torch\nfrom spotkd import Dataset\nfrom spotkd.data import ImageSet\n"
        "def build():\n"
        "    split = ImageSet(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.arange(6) % 2)\n"
        "    return Dataset('mine', split, split, ('a', 'b'), (0.5,), (0.5,))\n"
        "number = 3\n"
    )
    data = load_dataset("python:pictures_of_mine.build", val_share=0.3)
    assert (len(data.train), data.classes) == (4, ("a", "b"))
    with pytest.raises(SpotkdError, match=r"pictures_of_mine\.number gives a int, not a spotkd\.Dataset"):
        load_dataset("python:pictures_of_mine.number")


def test_a_pass_over_a_subset_keeps_its_order() -> None:
    split = numbered([0, 1, 2, 0, 1, 2]).subset(torch.tensor([4, 0, 2]))
    batches = list(split.batches(EpochSpec(batch_size=2)))
    assert [batch[0].flatten().tolist() for batch in batches] == [[4, 0], [2]]
    assert [batch[1].tolist() for batch in batches] == [[1, 0], [2]]
