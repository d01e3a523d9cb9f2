"""Networks of others, cut into stages."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spotkd.errors import SpotkdError
from spotkd.models.sources import build
from spotkd.stages import FrozenTwin, Rectified, StagedModel, feature_shapes
from spotkd.staging import stage

from .conftest import randomise_statistics
from .vision import timm, torchvision

SMALL = (3, 16, 16)


def conv(width_in: int, width: int, stride: int = 1, *, act: bool = True) -> nn.Sequential:
    parts = [nn.Conv2d(width_in, width, 3, stride, 1), nn.BatchNorm2d(width)]
    return nn.Sequential(*parts, nn.ReLU(inplace=True)) if act else nn.Sequential(*parts)


class Residual(nn.Module):
    """Control flow that cannot be traced, and an in-place ReLU at the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(width, width, act=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x) + x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 100 else x + 1


class Net(nn.Module):
    """The names of its parts are those of methods of staged models."""

    def __init__(self) -> None:
        super().__init__()
        self.features = conv(3, 4)
        self.stages = nn.Sequential(conv(4, 6, 2), Residual(6))
        self.run = nn.Sequential(conv(6, 8, 2, act=False), Branching())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)
        randomise_statistics(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.stages(self.features(x)))
        return self.fc(self.drop(torch.flatten(self.pool(x), 1)))


def images(shape: Sequence[int] = SMALL, count: int = 3) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def check(model: nn.Module, staged: StagedModel, x: Tensor | None = None) -> None:
    """Everything that holds for every staged model."""
    x = images() if x is None else x
    mine, theirs = staged.state_dict(), model.state_dict()
    assert list(mine) == list(theirs)
    assert all(mine[key].data_ptr() == theirs[key].data_ptr() for key in mine)
    assert [id(p) for p in staged.parameters()] == [id(p) for p in model.parameters()]
    for module in (staged, model):
        module.eval()
    expected = model(x.clone())
    assert expected.std() > 1e-4  # or else equality means nothing
    features, (again, before) = staged.features(x), staged.features_and_preactivations(x)
    assert len(features) == len(staged.stage_names)
    torch.testing.assert_close(features[-1], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert features[-2].ndim == 2
    current = x
    for k, run in enumerate(staged.stages()):  # no feature was overwritten by a later stage
        current = run(current.clone())
        assert torch.equal(current, features[k])
        assert torch.equal(current, again[k])
        assert torch.equal(before[k].relu() if isinstance(run, Rectified) else before[k], current)
    torch.testing.assert_close(FrozenTwin(staged).run(x, 0, len(features)), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(copy.deepcopy(staged)(x), features[-1])


def test_a_staged_model_is_the_model() -> None:
    model = Net()
    model.train()
    model.stages[0].eval()  # a mode of its own
    modes = [module.training for module in model.modules()]
    state, random_numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    attributes = list(vars(model))
    staged = stage(model, ["features", "stages.0", "stages", "run"], image_shape=SMALL)
    assert staged.stage_names == ("features", "stages.0", "stages", "run", "flatten", "fc")
    assert feature_shapes(staged, SMALL) == ((4, 16, 16), (6, 8, 8), (6, 8, 8), (8, 4, 4), (8,), (5,))
    assert torch.equal(random_numbers, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()] == [module.training for module in staged.modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert attributes == list(vars(model))
    check(model, staged)
    assert staged.get_submodule("features.0") is model.features[0]
    assert isinstance(staged.get_submodule(""), StagedModel)


def test_it_follows_what_happens_to_either() -> None:
    model = Net().eval()
    staged = stage(model, ["stages"], image_shape=SMALL).eval()
    twin, clone, x = FrozenTwin(staged), copy.deepcopy(staged), images()
    old = staged(x)
    staged.load_state_dict({key: value + 0.1 for key, value in staged.state_dict().items()})
    assert not torch.equal(old, staged(x))
    assert torch.equal(model(x), staged(x))
    assert torch.equal(twin.refresh().run(x, 0, 3), staged(x))
    assert torch.equal(clone(x), old)
    staged.double()
    assert torch.equal(model(x.double()), staged(x.double()))
    assert torch.equal(twin.refresh().run(x.double(), 0, 3), staged(x.double()))
    staged.load_state_dict(clone.double().state_dict(), assign=True)
    assert torch.equal(clone(x.double()), staged(x.double()))
    loss = staged.train()(x.double()).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Lambda(nn.Module):
    """A network of given parts and a given forward pass."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def unet(net: Any, x: Tensor) -> Tensor:
    down1 = net.down1(x)
    up = net.up(net.down2(down1))
    return net.fc((up + F.relu(down1)).mean((2, 3)))


def make_unet() -> nn.Module:
    return Lambda(unet, down1=conv(3, 4), down2=conv(4, 4), up=conv(4, 4), fc=nn.Linear(4, 5), spare=nn.Linear(1, 1))


def test_one_tensor_crosses_a_cut() -> None:
    with pytest.raises(SpotkdError, match=r"^cut 'down2': more than one tensor crosses it, .*: down1; cut where"):
        stage(make_unet(), ["down1", "down2"], image_shape=SMALL)
    model = make_unet()
    staged = stage(model, ["down1", "add"], image_shape=SMALL)  # after a function
    assert staged.stage_names == ("down1", "add", "mean", "fc")
    check(model, staged)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["feature"], r"unknown module 'feature': did you mean features\?"),
        (["stages.9"], "unknown module 'stages.9': did you mean stages.*0"),
        (["qqq"], "unknown module 'qqq': known: .*run.*"),
        (["stages.0.1.foo"], "unknown module 'stages.0.1.foo': did you mean stages.0.1"),
        (["flaten"], "did you mean flatten"),
        (["run", "stages"], "cut 'stages' does not come after 'run': name cuts in the order of execution"),
        (["features", "features"], "cut 'features' does not come after 'features'"),
        (["stages", "stages.1"], "does not come after"),
        (["fc"], "cut 'fc' leaves no classifier after it: let the last cut be before"),
        ("fc", "cut 'fc' leaves no classifier"),
    ],
)
def test_wrong_cuts(at: list[str], message: str) -> None:
    with pytest.raises(SpotkdError, match=message) as caught:
        stage(Net(), at, image_shape=SMALL)
    assert "\n" not in str(caught.value)


def test_modules_called_twice_or_never() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.fc(net.conv(net.conv(net.stem(x))).mean((2, 3)))

    model = Lambda(forward, stem=conv(3, 4), conv=conv(4, 4), fc=nn.Linear(4, 5), spare=nn.ModuleList([nn.ReLU()]))
    with pytest.raises(SpotkdError, match="cut 'conv': it is called 2 times"):
        stage(model, ["conv"], image_shape=SMALL)
    for name in ("spare", "spare.0"):
        with pytest.raises(SpotkdError, match=f"cut '{name}': the forward pass takes no tensor from it"):
            stage(model, [name], image_shape=SMALL)
    check(model, stage(model, ["stem"], image_shape=SMALL))


def test_functional_dropout_follows_the_mode() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.dropout(net.stem(x), 0.5, training=net.training)
        x = net.conv(x).mean((2, 3))
        if net.training:
            x = 2 * x
        return net.fc(x)

    model = Lambda(forward, stem=nn.Conv2d(3, 4, 3), conv=nn.Conv2d(4, 4, 3), fc=nn.Linear(4, 5))
    staged = stage(model, ["stem", "conv"], image_shape=SMALL)
    check(model, staged)
    assert torch.equal(staged.run(images(), 0, 2), staged.run(images(), 0, 2))
    assert torch.equal(model.train()(images()), stage(model, ["stem"], image_shape=SMALL)(images())) is False
    torch.manual_seed(0)
    expected = model(images())
    torch.manual_seed(0)
    assert torch.equal(staged.train()(images()), expected)
    assert not torch.equal(staged(images()), expected)


@pytest.mark.parametrize(
    ("forward", "training"),
    [
        (lambda net, x: net.fc(net.relu(net.conv(x)).mean((2, 3))), False),
        (lambda net, x: net.fc(net.conv(x).add_(1).mean((2, 3))), False),
        (lambda net, x: net.fc(net.block(net.conv(x)).mean((2, 3))), False),
        (lambda net, x: net.fc(net.drop(net.conv(x)).mean((2, 3))), True),
        (lambda net, x: net.fc(net.conv(x).transpose(2, 3).sub_(1).mean((2, 3))), False),
        (lambda net, x: net.fc(net.conv(x.mul_(2)).mean((2, 3))), False),
        (lambda net, x: net.fc((y := net.conv(x), y.add_(1), y)[-1].mean((2, 3))), False),
    ],
)
def test_features_are_not_overwritten(forward: Any, training: bool) -> None:
    block = Lambda(lambda net, x: net.relu(x) * 2, relu=nn.ReLU(inplace=True))  # in place where no trace goes
    drop = nn.Dropout(0.5, inplace=True)
    relu = nn.ReLU(inplace=True)
    model = Lambda(forward, conv=nn.Conv2d(3, 4, 3), relu=relu, block=block, drop=drop, fc=nn.Linear(4, 5))
    staged = stage(model, ["conv"], image_shape=SMALL)
    check(model, staged)
    staged.train(training)
    x = images()
    given = x.clone()
    feature = staged.run(x, 0, 1)
    kept = feature.detach().clone()
    staged.run(feature, 1, 3)
    assert torch.equal(feature, kept)
    assert torch.equal(x, given)


def test_what_stands_before_a_relu() -> None:
    model = Net()
    staged = stage(model, ["features", "stages", "run"], image_shape=SMALL).eval()
    assert [isinstance(run, Rectified) for run in staged.stages()] == [True, True, False, False, False]
    outputs, before = staged.features_and_preactivations(images())
    assert all(torch.equal(out, pre.relu()) and (pre < 0).any() for out, pre in zip(outputs[:2], before, strict=False))
    x = model.stages[0](outputs[0])
    assert torch.equal(before[1], model.stages[1].get_submodule("conv")(x) + x)

    def forward(net: Any, x: Tensor) -> Tensor:
        before = net.conv(x)
        if not net.alone:
            before.sum()
        return net.fc(before.relu().mean((2, 3)))

    for alone in (True, False):
        other = Lambda(forward, conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 5))
        other.alone = alone  # type: ignore[assignment]
        first = stage(other, ["relu"], image_shape=SMALL).stages()[0]
        assert isinstance(first, Rectified) is alone


class Head(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if pre_logits:
            return x
        x = x.mean((2, 3))
        for part in self.parts:
            x = part(x)
        return x


def test_the_embedding_is_found() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.conv(x))

    def names(*parts: nn.Module, at: Sequence[str] = ("conv",)) -> tuple[str, ...]:
        model = Lambda(forward, conv=nn.Conv2d(3, 8, 3), head=Head(*parts))
        staged = stage(model, at, image_shape=SMALL)
        check(model, staged)
        return staged.stage_names

    assert names(nn.Linear(8, 5)) == ("conv", "head_mean", "head.parts.0")
    assert names(nn.Dropout(0.1), nn.Linear(8, 5)) == ("conv", "head_mean", "head.parts.1")
    assert names(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 5)) == (
        "conv",
        "head.parts.1",
        "head.parts.3",
    )
    assert names(nn.Linear(8, 5), nn.LogSoftmax(1)) == ("conv", "head_mean", "head.parts.0")
    own = names(nn.Linear(8, 6), nn.Identity(), nn.Linear(6, 5), at=["conv", "head.parts.0"])
    assert own == ("conv", "head.parts.0", "head.parts.2")
    assert names(nn.Linear(8, 5), at=[]) == ("head_mean", "head.parts.0")


def test_pooled_maps_become_vectors() -> None:
    model = Net()
    staged = stage(model, ["stages", "pool"], image_shape=SMALL)
    assert staged.stage_names == ("stages", "pool", "fc")
    assert feature_shapes(staged, SMALL)[1] == (8,)
    check(model, staged)


def test_a_convolution_as_classifier() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.fc(net.relu(net.pool(net.conv(x)))).flatten(1)

    parts = {"conv": nn.Conv2d(3, 8, 3), "pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Conv2d(8, 5, 1)}
    model = Lambda(forward, relu=nn.ReLU(), **parts)
    staged = stage(model, ["conv"], image_shape=SMALL)
    assert staged.stage_names == ("conv", "relu", "fc")
    assert feature_shapes(staged, SMALL)[1:] == ((8,), (5,))
    check(model, staged)


def test_several_heads_on_one_vector_are_the_classifier() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.norm(net.conv(x).mean((2, 3)))
        return net.one(x) + net.two(x)

    parts = {"conv": nn.Conv2d(3, 8, 3), "norm": nn.LayerNorm(8), "one": nn.Linear(8, 5), "two": nn.Linear(8, 5)}
    model = Lambda(forward, **parts)
    for at in (["conv"], ["conv", "norm"]):
        staged = stage(model, at, image_shape=SMALL)
        assert staged.stage_names == ("conv", "norm", "add")
        check(model, staged)


def test_linear_heads_with_a_token_each_are_the_classifier() -> None:
    """As in distilled DeiT; the tokens, side by side in a vector, are the embedding."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.norm(net.conv(x).flatten(2).transpose(1, 2))
        return (net.one(x[:, 0]) + net.two(x[:, 1])) / 2

    parts = {"conv": nn.Conv2d(3, 8, 8, 8), "norm": nn.LayerNorm(8), "one": nn.Linear(8, 5), "two": nn.Linear(8, 5)}
    model = Lambda(forward, **parts)
    for at in (["conv"], ["conv", "norm"]):
        staged = stage(model, at, image_shape=SMALL)
        assert staged.stage_names == ("conv", "norm", "truediv")
        assert feature_shapes(staged, SMALL) == ((8, 2, 2), (32,), (5,))
        check(model, staged)


def test_no_classifier_is_found() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv(x)
        return net.one(x.mean((2, 3))) + net.two(x.amax((2, 3)))

    parts = {"conv": nn.Conv2d(3, 8, 3), "one": nn.Linear(8, 5), "two": nn.Linear(8, 5)}
    model = Lambda(forward, **parts)
    for at in ([], ["conv"]):
        with pytest.raises(SpotkdError, match="name as last cut the module before the classifier"):
            stage(model, at, image_shape=SMALL)


def test_the_callers_embedding_is_taken_as_it_is() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.neck(net.mix(net.conv(x)).mean((2, 3)))
        return F.normalize(x) @ net.prototypes

    model = Lambda(forward, conv=nn.Conv2d(3, 8, 3), mix=nn.Conv2d(8, 8, 1), neck=nn.Linear(8, 8))
    model.prototypes = nn.Parameter(torch.randn(8, 5))
    for at in (["conv", "neck"], ["conv", "normalize"]):  # a linear layer, but not the classifier
        staged = stage(model, at, image_shape=SMALL)
        assert staged.stage_names == (*at, "matmul")
        check(model, staged)


def test_values_that_every_stage_can_make_itself_may_cross() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        count, scale = x.shape[0], net.table * torch.tensor([2.0])
        x = net.conv(x) * scale
        return net.fc((net.conv2(x) * scale).mean((2, 3)).view(count, -1))

    model = Lambda(forward, conv=nn.Conv2d(3, 4, 3), conv2=nn.Conv2d(4, 4, 3), fc=nn.Linear(4, 5))
    model.register_buffer("table", torch.tensor([1.5]), persistent=False)
    staged = stage(model, ["mul_1", "conv2"], image_shape=SMALL)
    check(model, staged)
    assert list(dict(model.named_buffers())) == ["table"]
    staged.table.fill_(3)  # type: ignore[operator]
    check(model, staged)
    assert staged.double()(images(count=2).double()).dtype == torch.float64


def test_buffers_are_updated_once() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.seen.add_(1)
        return net.fc(net.conv2(net.conv(x)).mean((2, 3)))

    model = Lambda(forward, conv=nn.Conv2d(3, 4, 3), conv2=nn.Conv2d(4, 4, 3), fc=nn.Linear(4, 5))
    model.register_buffer("seen", torch.zeros(()))
    stage(model, ["conv", "conv2"], image_shape=SMALL)(images())
    assert model.seen == 1


class Stubborn(Net):
    def train(self, mode: bool = True) -> Stubborn:
        raise AssertionError("a network's own train() is its own business")


def test_modes_are_not_set_by_the_networks_own_train() -> None:
    assert stage(Stubborn(), ["run"], image_shape=SMALL)(images()).shape == (3, 5)


def test_forwards_that_cannot_be_cut() -> None:
    parts = {"conv": nn.Conv2d(3, 4, 3), "fc": nn.Linear(4, 5)}

    def fails(forward: Callable[[Any, Tensor], Any], message: str, shape: tuple[int, ...] = SMALL) -> None:
        with pytest.raises(SpotkdError, match=message) as caught:
            stage(Lambda(forward, **parts), ["conv"], image_shape=shape)
        assert "\n" not in str(caught.value)

    fails(
        lambda net, x: net.fc(net.conv(x if x.sum() else -x).mean((2, 3))), "cannot trace the forward of Lambda .*hand"
    )
    fails(lambda net, x: (net.fc(net.conv(x).mean((2, 3))), x), "does not give one tensor in")
    fails(lambda net, x: net.fc(net.conv(x).mean((2, 3))), r"does not run on 1x8x8 images: .* \(eval mode\)", (1, 8, 8))

    def without_gradient(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = net.conv(x)
        return net.fc(x.mean((2, 3)))

    fails(without_gradient, r"tracing forgets torch.no_grad\(\)")
    fails(
        lambda net, x: net.fc(net.conv(x).mean((2, 3)) * (2 if torch.is_grad_enabled() else 1)),
        "differs from the whole in eval mode",
    )
    tokens_first = Lambda(
        lambda net, x: net.fc(net.turn(x).mean(0)),
        turn=Lambda(lambda _, x: x.flatten(2).permute(2, 0, 1)),
        fc=nn.Linear(3, 5),
    )
    with pytest.raises(SpotkdError, match="cut 'turn' gives no tensor with the batch first"):
        stage(tokens_first, ["turn"], image_shape=SMALL)


def test_good_cuts_are_proposed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = Net()
    staged = stage(model, image_shape=SMALL)
    assert staged.stage_names == ("features", "stages", "run", "flatten", "fc")
    heading, *printed = capsys.readouterr().out.splitlines()
    assert heading.endswith("is cut after these modules:")
    lines = [re.split(r"\s+", line.strip()) for line in printed]
    assert lines[0] == ["features", "4x16x16", "map"]
    assert lines[3:] == [["flatten", "8", "embedding"], ["fc", "5", "logits"]]
    check(model, staged)
    assert staged.stage_names == stage(model, staged.stage_names[:-1], image_shape=SMALL).stage_names
    assert not capsys.readouterr().out


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 99), nn.GELU(), nn.Linear(99, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x) if x.numel() else x


class Encoder(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(x))


def test_tokens_are_cut_after_groups_of_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.encoder(net.patches(x).flatten(2).transpose(1, 2))
        return net.fc(net.norm(torch.cat((x.mean(1, keepdim=True), x), 1))[:, 0])

    for depth, blocks in ((6, (1, 2, 4, 5)), (3, (0, 1, 2)), (1, (0,))):
        parts = {"patches": nn.Conv2d(3, 8, 4, 4), "norm": nn.LayerNorm(8), "fc": nn.Linear(8, 2)}
        model = Lambda(forward, encoder=Encoder(depth), **parts)
        staged = stage(model, image_shape=SMALL)
        assert staged.stage_names == ("patches", *(f"encoder.blocks.{block}" for block in blocks), "getitem", "fc")
        assert f"encoder.blocks.{blocks[-1]}                           16x8  tokens" in capsys.readouterr().out
        check(model, staged)


def test_small_networks_are_cut_after_their_last_map_of_a_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert stage(model, image_shape=SMALL).stage_names == ("1", "3", "4")
    model = nn.Sequential(conv(3, 4), conv(4, 4, 2), nn.AdaptiveAvgPool2d(10), nn.Flatten(), nn.Linear(400, 5))
    assert stage(model, image_shape=SMALL).stage_names == ("0", "1", "3", "4")


def from_library(name: str, size: int) -> nn.Module:
    """A network with logits that are not all but zero, which is how some begin."""
    torch.manual_seed(0)
    model = build(name, 10, (3, size, size))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.1)
    randomise_statistics(model)
    return model


LIBRARIES: list[tuple[str, int, list[str], set[int]]] = [  # network, size, cuts, stages that end in a ReLU
    ("torchvision:resnet50", 224, ["relu", "layer1", "layer2", "layer3", "layer4"], {0, 1, 2, 3, 4}),
    ("torchvision:mobilenet_v3_small", 64, ["features.1", "features.3", "features.8", "avgpool"], set()),
    ("torchvision:densenet121", 64, ["features.denseblock1", "features.transition2", "features", "relu"], {3}),
    ("torchvision:efficientnet_b0", 64, ["features.2", "features.4", "features"], set()),
    ("torchvision:swin_t", 64, ["features.1", "features.5", "permute", "avgpool"], set()),
    ("timm:resnet18", 64, ["act1", "layer1.0", "layer2", "layer4"], {0, 1, 2, 3}),
    ("timm:vit_tiny_patch16_224", 64, ["blocks.2", "blocks.8", "norm"], set()),
    ("timm:vit_small_patch16_224", 64, ["patch_embed", "blocks.5", "blocks"], set()),
    ("timm:mobilenetv3_small_100", 64, ["bn1", "blocks.1", "blocks.3.0", "blocks"], set()),
    ("timm:convnext_atto", 64, ["stem", "stages.1", "stages.2.blocks.1", "stages"], set()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "at", "rectified"), LIBRARIES, ids=[case[0] for case in LIBRARIES])
def test_networks_of_the_libraries(name: str, size: int, at: list[str], rectified: set[int]) -> None:
    model = from_library(name, size)
    staged = stage(model, at, image_shape=(3, size, size))
    assert staged.stage_names[: len(at)] == tuple(at)
    assert {k for k, run in enumerate(staged.stages()) if isinstance(run, Rectified)} == rectified
    check(model, staged, images((3, size, size)))


PROPOSALS = {  # network: the stages proposed for images of 64 pixels
    "torchvision:resnet50": "relu layer1 layer2 layer3 layer4 flatten fc",
    "torchvision:mobilenet_v3_small": "features.0 features.1 features.3 features.8 features classifier.1 classifier.3",
    "torchvision:swin_t": "features.1 features.3 features.5 permute flatten head",
    "timm:resnet18": "act1 layer1 layer2 layer3 layer4 global_pool fc",
    "timm:vit_tiny_patch16_224": "blocks.2 blocks.5 blocks.8 blocks.11 fc_norm head",
    "timm:mobilenetv3_small_100": "bn1 blocks.0 blocks.1 blocks.3 blocks flatten classifier",
    "timm:convnext_atto": "stages.0 stages.1 stages.2 norm_pre head.pre_logits head.fc",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPOSALS)
def test_proposals_for_networks_of_the_libraries(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = from_library(name, 64)
    staged = stage(model, image_shape=(3, 64, 64))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == PROPOSALS[name].split()
    check(model, staged, images((3, 64, 64)))


def test_a_transformer_of_torchvision(capsys: pytest.CaptureFixture[str]) -> None:
    model = torchvision.models.VisionTransformer(64, 16, 6, 2, 32, 256, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    blocks = [f"encoder.layers.encoder_layer_{k}" for k in (1, 2, 4, 5)]
    staged = stage(model, image_shape=(3, 64, 64))
    assert staged.stage_names == (*blocks, "getitem_5", "heads.head")
    check(model, staged, images((3, 64, 64)))
    staged = stage(model, ["encoder.dropout", blocks[1], "getitem_5"], image_shape=(3, 64, 64))
    assert staged.stage_names == ("encoder.dropout", blocks[1], "getitem_5", "heads.head")
    check(model, staged, images((3, 64, 64)))


def test_a_convolution_as_classifier_in_timm() -> None:
    model = timm.models.resnetv2.ResNetV2([1, 1, 1, 1], [128, 128, 128, 128], num_classes=10, stem_chs=32)
    nn.init.normal_(model.head.fc.weight)
    staged = stage(model, ["stages.1", "norm"], image_shape=(3, 64, 64))
    assert staged.stage_names == ("stages.1", "norm", "head.global_pool", "head.fc")
    check(model, staged, images((3, 64, 64)))


@pytest.mark.slow
def test_channels_last_maps_leave_channels_first() -> None:
    """Swin's blocks hand on (H, W, C); every distiller expects (C, H, W)."""
    staged = stage(from_library("torchvision:swin_t", 64), ["features.1", "features.5"], image_shape=(3, 64, 64))
    assert feature_shapes(staged, (3, 64, 64)) == ((96, 16, 16), (384, 4, 4), (768,), (10,))
    blocks = nn.Sequential(nn.Conv2d(3, 6, 2, 2), _ChannelsLast(), nn.LayerNorm(6), _ChannelsFirst(), _Head(6))
    staged = stage(blocks, ["2"], image_shape=(3, 8, 8))
    given = images((3, 8, 8))
    assert torch.equal(staged.features(given)[0].permute(0, 2, 3, 1), blocks[:3](given))
    check(blocks, staged, given)


class _ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class _Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class _KeepsNorm(nn.Module):
    """Its BatchNorm stays in eval mode while it is trained, as when a detector's backbone is fine-tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 5)

    def train(self, mode: bool = True) -> _KeepsNorm:
        super().train(mode)
        self.body[1].eval()
        return self

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.body(x).mean((2, 3)))


def test_a_network_is_trained_by_its_own_train() -> None:
    staged = stage(_KeepsNorm(), at=["body"], image_shape=(3, 8, 8))
    for network in (staged, copy.deepcopy(staged)):
        norm = network.get_submodule("body.1")
        nn.ModuleList([network]).train()  # as the method that holds the student does
        assert (network.training, network.get_submodule("body").training, norm.training) == (True, True, False)
        network(torch.rand(4, 3, 8, 8))
        assert network.get_buffer("body.1.running_mean").abs().max() == 0
        network.eval()
        assert not any(module.training for module in network.modules())
