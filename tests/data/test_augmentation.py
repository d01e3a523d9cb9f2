"""torchvision's augmentations: one option each, drawn from the seed alone, for pictures in memory and decoded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spotkd import DATASETS, Dataset, Loader, SpotkdError
from spotkd.data import Augmentation, DataSpec, ImageSet, load_data

from .. import vision  # noqa: F401  # so that torchvision can be imported
from .formats import random_picture

CHOICES: list[dict[str, Any]] = [{"crop_area": 0.3}, {"randaugment": 9}, {"jitter": 0.4}]


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small data set in memory."""
    images = torch.randint(0, 256, (12, request.param, 16, 16), generator=torch.Generator().manual_seed(1))
    split = ImageSet(images.to(torch.uint8), torch.arange(12) % 3)
    data = Dataset("noise", split, split, tuple("abc"), (0.5,), (0.25,), padding=2, flip=True)
    monkeypatch.setitem(DATASETS._entries, "noise", lambda spec: data)
    return "noise"


@pytest.fixture
def decoded(tmp_path: Path) -> str:
    """The name of a folder of pictures that are too large for memory."""
    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                content = random_picture(np.random.default_rng(number), 100, 120)
                (tmp_path / split / label / f"{number}.png").write_bytes(content)
    return f"folder:{tmp_path}"


def batches(data: Dataset, epoch: int = 1, training: bool = True, **options: Any) -> Tensor:
    """All images of an epoch."""
    loader = Loader(data, data.train, 4, training=training, seed=3, workers=0, **options)
    return torch.cat([batch.images for batch in loader.epoch(epoch)])


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: next(iter(choice)))
def test_pictures_in_memory(choice: dict[str, Any], in_memory: str) -> None:
    check(load_data(DataSpec(in_memory)), load_data(DataSpec(in_memory, **choice)))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: next(iter(choice)))
def test_pictures_that_are_decoded(choice: dict[str, Any], decoded: str) -> None:
    check(load_data(DataSpec(decoded, image_size=128)), load_data(DataSpec(decoded, image_size=128, **choice)))


def check(usual: Dataset, changed: Dataset) -> None:
    """Training images alone are changed, differently in every epoch, and the same whoever asks and from where."""
    one = batches(changed)
    assert one.shape == batches(usual).shape
    assert not torch.equal(one, batches(usual))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(one, batches(changed))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, batches(changed, epoch=2))
    assert torch.equal(batches(changed, training=False), batches(usual, training=False))
    later = Loader(changed, changed.train, 4, training=True, seed=3, workers=0)
    assert torch.equal(torch.cat([batch.images for batch in later.epoch(1, skip=1)]), one[4:])
    parts = [batches(changed, rank=rank, processes=2) for rank in (0, 1)]
    assert torch.equal(torch.cat([parts[0][:2], parts[1][:2]]), one[:4])


def test_off_is_what_it_was(in_memory: str) -> None:
    assert load_data(DataSpec(in_memory)).augmentation == Augmentation()
    assert load_data(DataSpec(in_memory, jitter=0.1)).padding == 2
    assert load_data(DataSpec(in_memory, crop_area=0.5)).padding == 0  # one kind of crop is enough


def test_nothing_to_augment_is_told(in_memory: str) -> None:
    with pytest.raises(SpotkdError, match=r"data\.augment is false, and so crop_area, randaugment and jitter do"):
        load_data(DataSpec(in_memory, augment=False, randaugment=9))


def test_without_torchvision_one_line_names_the_extra(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name="torchvision")

    monkeypatch.setattr("spotkd.data.optional.importlib.import_module", missing)
    load_data(DataSpec(in_memory))
    with pytest.raises(SpotkdError, match=r"torchvision is not installed: pip install 'spotkd\[vision\]'"):
        load_data(DataSpec(in_memory, randaugment=9))
