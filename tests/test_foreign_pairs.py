"""Networks of torchvision and timm teach each other: maps, tokens and both, at 64 to 224 pixels."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from spotkd import DISTILLERS, Batch, SpotKD, SpotkdError, StagedModel, stage

from .vision import timm, torchvision

pytestmark = pytest.mark.slow

CLASSES = 10
PAIRS = {  # teacher, where it is cut; student, where it is cut; pixels, and pixels at which all is seen once
    "resnet50-mobilenet_v3_small": (
        ("torchvision:resnet50", "relu layer1 layer2 layer3 layer4"),
        ("torchvision:mobilenet_v3_small", "features.0 features.1 features.3 features.8 features.12"),
        (64, 224),
    ),
    "resnet18-vit_tiny": (
        ("timm:resnet18", "act1 layer1 layer2 layer3 layer4"),
        ("timm:vit_tiny_patch16_224", "blocks.2 blocks.5 blocks.8 blocks.11"),
        (64, 160),
    ),
    "vit_small-vit_tiny": (
        ("timm:vit_small_patch16_224", "blocks.2 blocks.5 blocks.8 blocks.11"),
        ("timm:vit_tiny_patch16_224", "blocks.2 blocks.5 blocks.8 blocks.11"),
        (96, 224),
    ),
}
ON_MAPS = {"ab", "fsp", "ft", "kdsvd", "ofd", "reviewkd"}  # what cannot use tokens


@cache
def network(name: str, at: str, size: int) -> tuple[nn.Module, StagedModel]:
    torch.manual_seed(0)
    library, _, name = name.partition(":")
    model: nn.Module
    if library == "torchvision":
        model = torchvision.models.get_model(name, num_classes=CLASSES)
    else:
        model = timm.create_model(name, num_classes=CLASSES, **({"img_size": size} if name.startswith("vit") else {}))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    staged = stage(model, at.split(), image_shape=(3, size, size))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return model, staged


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_staged_is_the_original(name: str, large: bool) -> None:
    *networks, sizes = PAIRS[name]
    size = sizes[large]
    for entry in networks:
        model, staged = network(*entry, size)
        model.eval(), staged.eval()
        assert list(staged.state_dict()) == list(model.state_dict())
        images = torch.randn(3, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(staged(images), model(images), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(staged.features(images)[-1], model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "distiller", "large"),
    [
        *((name, distiller, False) for name in PAIRS for distiller in DISTILLERS),
        *((name, "at", True) for name in PAIRS),
    ],
)
def test_two_steps(name: str, distiller: str, large: bool) -> None:
    *networks, sizes = PAIRS[name]
    size = sizes[large]
    teacher, student = (network(*entry, size)[1] for entry in networks)
    options = {"negatives": 12} if distiller == "crd" else None
    labels = torch.arange(30) % CLASSES

    def build() -> SpotKD:
        return SpotKD(teacher, student, distiller, image_shape=(3, size, size), labels=labels, options=options).train()

    if "vit" in name and distiller in ON_MAPS:
        with pytest.raises(SpotkdError, match=r"distils (maps|vectors).*, and .* puts out tokens \(N, C\) of shape"):
            build()
        return
    if distiller in ("fsp", "kdsvd"):
        with pytest.raises(SpotkdError, match="as many channels in the student as in the teacher"):
            build()
        return
    method = build()
    optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-3), momentum=0.9)
    indices = torch.tensor([3, 14, 25])
    batch = Batch(torch.randn(3, 3, size, size), labels[indices], indices)
    weights = {key: value.clone() for key, value in teacher.state_dict().items()}
    for _ in range(2):
        losses = method(batch)
        optimizer.zero_grad()
        losses.total.backward()
        assert torch.isfinite(losses.total)
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
        optimizer.step()
    assert all(torch.equal(value, weights[key]) for key, value in teacher.state_dict().items())
