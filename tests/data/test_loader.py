"""Batches: order, augmentation, normalisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from spotkd import Dataset, Loader, SpotkdError
from spotkd.data import augment, normalise
from spotkd.data.loader import to_device

from ..conftest import in_memory


def test_augmentation_equals_one_image_at_a_time() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (17, 3, 9, 7), dtype=torch.uint8)
    offsets, flips = torch.randint(0, 5, (17, 2)), torch.rand(17) < 0.5
    batch = augment(images, offsets, flips, padding=2)
    for image, (top, left), flip, got in zip(images, offsets.tolist(), flips.tolist(), batch, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
        window = padded[:, top : top + 9, left : left + 7]
        assert np.array_equal(got.numpy(), window[:, :, ::-1] if flip else window)


def test_no_offset_no_change() -> None:
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    still = augment(images, torch.full((3, 2), 4), torch.zeros(3, dtype=torch.bool), padding=4)
    assert torch.equal(still, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_and_layout(channels: int) -> None:
    images = torch.randint(0, 256, (4, channels, 8, 8), dtype=torch.uint8)
    mean, std = torch.tensor([0.2] * channels), torch.tensor([0.35] * channels)
    out = normalise(images, mean, std, torch.channels_last)
    assert out.shape == (4, 3, 8, 8)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, ((images.float() / 255 - 0.2) / 0.35).expand(4, 3, 8, 8))


def test_an_epoch_is_every_image_once_and_the_last_batch_is_short(tiny_data: Dataset) -> None:
    loader = Loader(tiny_data, tiny_data.train, 12, training=True)
    batches = list(loader.epoch(1))
    assert [len(batch.labels) for batch in batches] == [12, 12, 12, 4]
    assert len(loader) == 4
    indices = torch.cat([batch.indices for batch in batches if batch.indices is not None])
    assert sorted(indices.tolist()) == list(range(40))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), in_memory(tiny_data.train).labels[indices])


def test_epochs_repeat_and_differ(tiny_data: Dataset) -> None:
    def images(seed: int, epoch: int) -> torch.Tensor:
        torch.rand(epoch)  # whatever else draws numbers in between
        loader = Loader(tiny_data, tiny_data.train, 12, training=True, seed=seed)
        return torch.cat([batch.images for batch in loader.epoch(epoch)])

    assert torch.equal(images(1, 1), images(1, 1))
    assert not torch.equal(images(1, 1), images(1, 2))
    assert not torch.equal(images(1, 1), images(2, 1))


def test_evaluation_keeps_order_and_pixels(tiny_data: Dataset) -> None:
    data = dataclasses.replace(tiny_data, flip=True)
    batches = list(Loader(data, data.test, 40, training=False).epoch(0))
    expected = normalise(
        in_memory(data.test).images, torch.tensor(data.mean), torch.tensor(data.std), torch.contiguous_format
    )
    assert torch.equal(batches[0].images, expected)


def test_no_images_and_no_batch(tiny_data: Dataset) -> None:
    empty = tiny_data.test.subset(torch.arange(0))
    with pytest.raises(SpotkdError, match="tiny: no test images"):
        Loader(tiny_data, empty, 4, training=False)
    with pytest.raises(SpotkdError, match="batch_size is 0"):
        Loader(tiny_data, tiny_data.test, 0, training=False)


def test_flips_happen_only_where_the_data_set_allows(tiny_data: Dataset) -> None:
    still = dataclasses.replace(tiny_data, padding=0)
    plain = next(iter(Loader(still, still.train, 40, training=True).epoch(1)))
    flipped = next(iter(Loader(dataclasses.replace(still, flip=True), still.train, 40, training=True).epoch(1)))
    changed = (plain.images != flipped.images).flatten(1).any(1)
    assert 8 < changed.sum() < 32
    assert torch.equal(plain.images[changed].flip(-1), flipped.images[changed])


class Pinnable:
    """A tensor in ordinary memory that notes where it is taken."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.taken: list[object] = []

    def pin_memory(self) -> Pinnable:
        self.taken.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> Pinnable:
        self.taken.append((device.type, non_blocking))
        return self


def test_a_batch_reaches_a_gpu_without_waiting() -> None:
    to_gpu, to_cpu = Pinnable(), Pinnable()
    to_device(to_gpu, torch.device("cuda"))  # type: ignore[arg-type]
    to_device(to_cpu, torch.device("cpu"))  # type: ignore[arg-type]
    assert to_gpu.taken == ["pinned", ("cuda", True)]
    assert to_cpu.taken == [("cpu", False)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_on_a_gpu_is_what_was_sent() -> None:
    tensor = torch.arange(1000)
    assert torch.equal(to_device(tensor, torch.device("cuda")).cpu(), tensor)
