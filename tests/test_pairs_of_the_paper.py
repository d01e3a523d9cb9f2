"""Every pair of networks of the paper takes a step with every one of its ten distillers, at the paper's sizes."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from spotkd import Batch, SpotKD, StagedModel, create_model

CIFAR100 = [
    "resnet56-resnet20", "resnet110-resnet32", "resnet32x4-resnet8x4", "wrn_40_2-wrn_16_2", "vgg13-vgg8",
    "vgg13-MobileNetV2", "ResNet50-MobileNetV2", "ResNet50-vgg8", "resnet32x4-resnet32", "wrn_40_2-ShuffleNetV1",
]  # fmt: skip
TINY_IMAGENET = [
    "resnet56-resnet20", "resnet110-resnet20", "wrn_40_2-wrn_16_2", "vgg13-vgg8", "vgg13-MobileNetV2",
]  # fmt: skip
COMBINATIONS = [(pair, 32, 100) for pair in CIFAR100] + [(pair, 64, 200) for pair in TINY_IMAGENET]
TEN = ["at", "cc", "crd", "fitnet", "ft", "nst", "pkt", "rkd", "sp", "vid"]
SPOTS = {  # number of intermediate spots for networks of five and of six features
    "at": (3, 4), "nst": (3, 4), "vid": (3, 4),
    "fitnet": (1, 1), "sp": (1, 1), "ft": (1, 1), "crd": (1, 1), "rkd": (1, 1), "pkt": (1, 1), "cc": (1, 1),
}  # fmt: skip
SAMPLES = 400


@lru_cache(maxsize=2)  # one pair after the other: the largest have over a hundred megabytes
def network(name: str, classes: int) -> StagedModel:
    torch.manual_seed(0)
    return create_model(name, classes)


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "size", "classes"), COMBINATIONS, ids=lambda value: str(value))
def test_a_step_with_each_of_the_ten(pair: str, size: int, classes: int) -> None:
    teacher, student = (network(name, classes) for name in pair.split("-"))
    generator = torch.Generator().manual_seed(1)
    indices = torch.randperm(SAMPLES, generator=generator)[:3]
    labels = torch.arange(SAMPLES) % classes
    batch = Batch(torch.randn(3, 3, size, size, generator=generator), labels[indices], indices)
    for distiller in TEN:
        options = {"negatives": 64} if distiller == "crd" else None
        method = SpotKD(teacher, student, distiller, image_shape=(3, size, size), labels=labels, options=options)
        method.train()
        assert len(method.spots) == SPOTS[distiller][len(student.stage_names) - 6], distiller
        optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9)
        losses = method(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        assert torch.isfinite(losses.total), distiller
        assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None), distiller


def test_the_list_is_complete() -> None:
    assert len(COMBINATIONS) == 15
    assert len(SPOTS) == len(TEN) == 10
