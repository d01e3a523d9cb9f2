"""Every network that is known by name: size, shapes, chain, names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spotkd import MODELS, SpotkdError, create_model
from spotkd.stages import feature_shapes

NARROW = ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,), (100,))
WIDE = ((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256,), (100,))
EXPECTED = {  # parameters with 100 classes, and feature shapes at 32x32
    "resnet8": (83_892, NARROW),
    "resnet14": (181_108, NARROW),
    "resnet20": (278_324, NARROW),
    "resnet32": (472_756, NARROW),
    "resnet44": (667_188, NARROW),
    "resnet56": (861_620, NARROW),
    "resnet110": (1_736_564, NARROW),
    "resnet8x4": (1_233_540, WIDE),
    "resnet32x4": (7_433_860, WIDE),
}


def test_every_name_is_expected() -> None:
    assert set(MODELS) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_size_shapes_and_chain(name: str) -> None:
    parameters, shapes = EXPECTED[name]
    torch.manual_seed(0)
    model = create_model(name, 100).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert feature_shapes(model, (3, 32, 32)) == shapes
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, middle = model(images), model.run(images, 0, 2)
        assert torch.equal(model.run(middle, 2, len(shapes)), logits)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_initialisation(name: str) -> None:
    torch.manual_seed(0)
    for module in create_model(name, 100).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)


def test_parameter_names_are_those_of_shared_checkpoints() -> None:
    keys = set(create_model("resnet20", 100).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", *(f"bn1.{n}" for n in norm), "fc.weight", "fc.bias"}
    for group in (1, 2, 3):
        for block in range(3):
            prefix = f"layer{group}.{block}"
            expected |= {f"{prefix}.conv{i}.weight" for i in (1, 2)} | {
                f"{prefix}.bn{i}.{n}" for i in (1, 2) for n in norm
            }
        if group > 1:
            prefix = f"layer{group}.0.downsample"
            expected |= {f"{prefix}.0.weight"} | {f"{prefix}.1.{n}" for n in norm}
    assert keys == expected


def test_unknown_name_shows_near_ones() -> None:
    with pytest.raises(SpotkdError, match=r"unknown model 'resnet21': did you mean .*resnet20"):
        create_model("resnet21", 100)
