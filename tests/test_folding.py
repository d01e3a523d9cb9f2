"""BatchNorm folded into convolutions: every network of the zoo, others, and what must be left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spotkd import MODELS, Batch, SpotKD, StagedModel, create_model, fold_batchnorm, stage

from .conftest import IMAGE_SHAPE, TinyNet, randomise_statistics
from .vision import timm, torchvision

LARGE = ("-imagenet",)  # too large to be looked at in float64 in a moment


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def assert_equal_outputs(model: StagedModel, other: StagedModel, images: Tensor, rtol: float) -> None:
    with torch.no_grad():
        for found, expected in zip(
            other.features_and_preactivations(images), model.features_and_preactivations(images), strict=True
        ):
            for a, b in zip(found, expected, strict=True):
                assert float((a - b).norm()) <= rtol * float(b.norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith(LARGE)])
def test_every_network_of_the_zoo(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 10).double().eval()
    randomise_statistics(model)
    before = copy.deepcopy(model.state_dict())
    result = fold_batchnorm(model, (3, 32, 32))
    assert result.reason is None
    assert norms(result.model) == norms(model) - result.pairs
    if not name.startswith("wrn"):  # whose blocks begin with a BatchNorm
        assert norms(result.model) == 0
    assert result.model is not model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad for p in result.model.parameters())
    assert_equal_outputs(model, result.model, torch.randn(3, 3, 32, 32, dtype=torch.float64), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:resnet18"])
def test_networks_from_elsewhere(name: str) -> None:
    torch.manual_seed(0)
    library, _, name = name.partition(":")
    made = torchvision.models.get_model(name) if library == "torchvision" else timm.create_model(name)
    model = stage(made, image_shape=(3, 64, 64)).eval()
    result = fold_batchnorm(model, (3, 64, 64))
    assert result.reason is None
    assert norms(result.model) == 0
    assert_equal_outputs(model, result.model, torch.randn(2, 3, 64, 64), rtol=1e-4)


class Special(StagedModel):
    """A convolution and a BatchNorm, and something that forbids to fold them, or does not."""

    stage_names = ("conv", "pool", "fc")

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 5)
        randomise_statistics(self)
        if kind == "tied":
            self.fc.bias, self.fc.weight = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(5, 3))
            self.other = nn.Conv2d(3, 3, 1)
            self.other.weight = self.conv.weight
        if kind == "no statistics":
            self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        if kind == "hooked":
            self.conv.register_forward_hook(lambda *_: None)

    def first(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.kind == "twice":
            y = self.conv(y)
        z: Tensor = self.norm(y)
        if self.kind == "used again":
            z = z + y
        if self.kind == "reads the norm":
            z = z * self.norm.weight.mean()  # which nn.Identity does not have
        return z

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        if self.kind == "cut between":
            return self.conv, lambda x: self.norm(x).mean((2, 3)), self.fc
        return self.first, lambda x: x.mean((2, 3)), self.fc


@pytest.mark.parametrize(
    "kind", ["twice", "used again", "reads the norm", "tied", "no statistics", "hooked", "cut between"]
)
def test_what_must_be_left_alone(kind: str) -> None:
    model = Special(kind).eval()
    result = fold_batchnorm(model, IMAGE_SHAPE)
    assert result.model is model
    assert result.pairs == 0
    assert result.reason


def test_the_same_network_without_an_obstacle_is_folded() -> None:
    assert fold_batchnorm(Special("plain").eval(), IMAGE_SHAPE).pairs == 1


def test_a_copy_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison at the end can fail."""
    from spotkd import folding

    def wrong(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
        return copy.deepcopy(conv)

    monkeypatch.setattr(folding, "fuse_conv_bn_eval", wrong)
    model = Special("plain").eval()
    result = fold_batchnorm(model, IMAGE_SHAPE)
    assert result.model is model
    assert "outputs would change" in str(result.reason)


@pytest.mark.parametrize("distiller", ["at", "fitnet", "sp", "ab"])
def test_a_step_under_a_folded_teacher(distiller: str, pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    """Losses and all gradients, the routing pass through the teacher included, are those of the teacher itself."""
    steps = []
    for fold in (False, True):
        teacher, student = copy.deepcopy(pair)
        torch.manual_seed(1)
        used: StagedModel = fold_batchnorm(teacher, IMAGE_SHAPE).model if fold else teacher
        assert norms(used) == (0 if fold else 4)
        method = SpotKD(used, student, distiller, image_shape=IMAGE_SHAPE).train()
        losses = method(batch)
        losses.total.backward()
        trained = {name: p.grad for name, p in method.named_parameters() if not name.startswith("teacher.")}
        steps.append((losses, trained))
    (plain, plain_gradients), (fast, fast_gradients) = steps
    assert torch.equal(plain.mask, fast.mask)
    torch.testing.assert_close(fast.total, plain.total, rtol=1e-10, atol=1e-10)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-8, atol=1e-10)
