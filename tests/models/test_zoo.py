"""Every network that is known by name: size, shapes, chain, what stands before the ReLUs, initialisation, names."""

from __future__ import annotations

import copy
import math
from functools import cache, partial

import pytest
import torch
from torch import nn

from spotkd import MODELS, SpotkdError, create_model
from spotkd.models.zoo import describe
from spotkd.stages import FrozenTwin, Rectified, Shape, StagedModel, feature_shapes


def maps(*sizes: tuple[int, int]) -> tuple[Shape, ...]:
    """Square maps from (channels, height)."""
    return tuple((channels, height, height) for channels, height in sizes)


def wide(width: int) -> tuple[Shape, ...]:
    return (*maps((16, 32), (16 * width, 32), (32 * width, 16), (64 * width, 8)), (64 * width,), (100,))


NARROW = (*maps((16, 32), (16, 32), (32, 16), (64, 8)), (64,), (100,))
TIMES_4 = (*maps((32, 32), (64, 32), (128, 16), (256, 8)), (256,), (100,))
BASIC = (*maps((64, 32), (64, 32), (128, 16), (256, 8), (512, 4)), (512,), (100,))
BOTTLENECK = (*maps((64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)), (2048,), (100,))
VGG = (*maps((64, 32), (128, 16), (256, 8), (512, 4), (512, 4)), (512,), (100,))
IMAGENET_VGG = (*maps((64, 32), (128, 16), (256, 8), (512, 4), (512, 2)), (25088,), (100,))
MOBILE = (*maps((32, 16), (24, 16), (32, 8), (96, 4), (320, 2)), (1280,), (100,))
MOBILE_HALF = (*maps((16, 16), (12, 16), (16, 8), (48, 4), (160, 2)), (1280,), (100,))
SHUFFLE_1 = (*maps((24, 32), (240, 16), (480, 8), (960, 4)), (960,), (100,))
SHUFFLE_2 = (*maps((24, 32), (116, 16), (232, 8), (464, 4)), (1024,), (100,))
EXPECTED: dict[str, tuple[int, tuple[Shape, ...]]] = {  # parameters with 100 classes, and feature shapes at 32x32
    "resnet8": (83_892, NARROW),
    "resnet14": (181_108, NARROW),
    "resnet20": (278_324, NARROW),
    "resnet32": (472_756, NARROW),
    "resnet44": (667_188, NARROW),
    "resnet56": (861_620, NARROW),
    "resnet110": (1_736_564, NARROW),
    "resnet8x4": (1_233_540, TIMES_4),
    "resnet32x4": (7_433_860, TIMES_4),
    "ResNet18": (11_220_132, BASIC),
    "ResNet34": (21_328_292, BASIC),
    "ResNet50": (23_705_252, BOTTLENECK),
    "ResNet101": (42_697_380, BOTTLENECK),
    "ResNet152": (58_341_028, BOTTLENECK),
    "wrn_16_1": (180_916, wide(1)),
    "wrn_16_2": (703_284, wide(2)),
    "wrn_40_1": (569_780, wide(1)),
    "wrn_40_2": (2_255_156, wide(2)),
    "wrn_28_10": (36_536_884, wide(10)),
    "vgg8": (3_965_028, VGG),
    "vgg11": (9_277_284, VGG),
    "vgg13": (9_462_180, VGG),
    "vgg16": (14_774_436, VGG),
    "vgg19": (20_086_692, VGG),
    # The paper's networks with BatchNorm have 132,868,840 to 143,678,248 with 1000 classes: 900 * 4097 more.
    "vgg8-imagenet": (123_869_284, IMAGENET_VGG),
    "vgg11-imagenet": (129_181_540, IMAGENET_VGG),
    "vgg13-imagenet": (129_366_436, IMAGENET_VGG),
    "vgg16-imagenet": (134_678_692, IMAGENET_VGG),
    "vgg19-imagenet": (139_990_948, IMAGENET_VGG),
    "MobileNetV2": (2_353_060, MOBILE),
    "MobileNetV2_0_5": (812_836, MOBILE_HALF),
    "ShuffleNetV1": (949_258, SHUFFLE_1),
    "ShuffleNetV2": (1_355_528, SHUFFLE_2),
}
NAMES = sorted(EXPECTED)
# Four networks of half a gigabyte that differ from a fifth only in the number of convolutions stay on the meta device.
ALLOCATED = [name for name in NAMES if not name.endswith("-imagenet") or name == "vgg8-imagenet"]


@cache
def on_meta(name: str) -> StagedModel:
    """The network with 100 classes and without memory for its weights; tests must not change it."""
    with torch.device("meta"):
        return create_model(name, 100)


@pytest.fixture(scope="module", params=ALLOCATED)
def named(request: pytest.FixtureRequest) -> tuple[str, StagedModel]:
    """A name and its network with ten classes, in eval mode; tests must not change it."""
    torch.manual_seed(0)
    return request.param, create_model(request.param, 10).eval()


def test_every_name_is_expected() -> None:
    assert set(MODELS) == set(EXPECTED)


def test_the_registry_holds_no_network() -> None:
    assert all(isinstance(MODELS[name], partial | type) for name in MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_size_and_shapes(name: str) -> None:
    parameters, shapes = EXPECTED[name]
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert feature_shapes(model, (3, 32, 32)) == shapes
    assert len(model.stage_names) == len(set(model.stage_names)) == len(model.stages()) == len(shapes)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_of_larger_images(name: str) -> None:
    _, shapes = EXPECTED[name]
    doubled = [(shape[0], *(2 * size for size in shape[1:])) for shape in shapes]
    if name.startswith("vgg") and not name.endswith("-imagenet"):
        doubled[4] = (512, 4, 4)  # pooled once more from 8x8
    assert feature_shapes(on_meta(name), (3, 64, 64)) == tuple(doubled)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-imagenet")])
def test_shapes_of_224_pixels(name: str) -> None:
    shapes = (*maps((64, 224), (128, 112), (256, 56), (512, 28), (512, 14)), (25088,), (100,))
    assert feature_shapes(on_meta(name), (3, 224, 224)) == shapes


@pytest.mark.parametrize(("size", "last"), [(16, 2), (32, 4), (48, 6), (56, 7), (63, 7), (64, 4), (96, 6)])
def test_vgg_pools_a_fourth_time_where_the_map_is_at_least_8_wide(size: int, last: int) -> None:
    assert feature_shapes(on_meta("vgg8"), (3, size, size))[4] == (512, last, last)


def rectified_stages(name: str) -> set[int]:
    """The stages that end in a ReLU; only these maps have no negative values."""
    if name.startswith("wrn"):
        return set()
    if name.startswith("Mobile"):
        return {0}
    return set(range(len(EXPECTED[name][1]) - 2))


def test_chain_and_what_stands_before_the_relus(named: tuple[str, StagedModel]) -> None:
    name, model = named
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, (outputs, before) = model.features(images), model.features_and_preactivations(images)
        assert torch.equal(features[-1], model(images))
        assert torch.equal(model.run(features[1], 2, len(features)), features[-1])
    assert {k for k, stage in enumerate(model.stages()) if isinstance(stage, Rectified)} == rectified_stages(name)
    for k, (feature, output, raw) in enumerate(zip(features, outputs, before, strict=True)):
        assert torch.equal(feature, output)
        if k in rectified_stages(name):
            assert torch.equal(raw.relu(), output)
            assert raw.min() < 0
        else:
            assert raw is output
    signed = {k for k, feature in enumerate(features[:-1]) if feature.min() < 0}
    assert signed == set(range(len(features) - 2)) - rectified_stages(name)


ONE_OF_EACH = ["resnet8", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2_0_5", "ShuffleNetV1", "ShuffleNetV2"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_copies_run_on_their_own_weights(name: str) -> None:
    torch.manual_seed(0)
    model, images = create_model(name, 10).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
        clone, twin = copy.deepcopy(model), FrozenTwin(model)
        assert torch.equal(clone(images), logits)
        assert torch.equal(twin.run(images, 0, len(model.stage_names)), logits)
        for parameter in clone.parameters():
            parameter.zero_()
        assert torch.all(clone(images) == 0)
        assert torch.equal(model(images), logits)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_parameter_learns(name: str) -> None:
    """A layer that is made but left out of the stages would get no gradient."""
    torch.manual_seed(0)
    model = create_model(name, 10)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def assert_normal(weight: torch.Tensor, std: float) -> None:
    count = weight.numel()
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))  # five standard errors
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(count)


def assert_uniform(weight: torch.Tensor, bound: float) -> None:
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=5 * 0.447 / math.sqrt(weight.numel()))


def test_initialisation(named: tuple[str, StagedModel]) -> None:
    name, model = named
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            if name.startswith("Shuffle"):  # PyTorch's default
                assert_uniform(module.weight, (module.in_channels // module.groups * area) ** -0.5)
            else:
                assert_normal(module.weight, (2 / (area * module.out_channels)) ** 0.5)
            assert (module.bias is not None) == name.startswith("vgg")
            assert module.bias is None or torch.all(module.bias == 0)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)  # the last norm of a block too
            assert torch.all(module.bias == 0)
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        elif isinstance(module, nn.Linear):
            if name.startswith(("vgg", "Mobile")):
                assert_normal(module.weight, 0.01)
            else:
                assert_uniform(module.weight, module.in_features**-0.5)
            assert torch.all(module.bias == 0) == name.startswith(("vgg", "Mobile", "wrn"))


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


TWO = ["conv1", "bn1", "conv2", "bn2"]
THREE = [*TWO, "conv3", "bn3"]
FIVE = [*THREE, "conv4", "bn4", "conv5", "bn5"]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("resnet8x4", ["conv1", "bn1", "layer1", "layer2", "layer3", "fc"]),
        ("ResNet18", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "linear"]),
        ("wrn_16_2", ["conv1", "block1", "block2", "block3", "bn1", "fc"]),
        ("vgg8", ["block0", "block1", "block2", "block3", "block4", "classifier"]),
        ("vgg8-imagenet", ["block0", "block1", "block2", "block3", "block4", "classifier"]),
        ("MobileNetV2", ["conv1", "blocks", "conv2", "classifier"]),
        ("ShuffleNetV1", ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"]),
        ("ShuffleNetV2", ["conv1", "bn1", "layer1", "layer2", "layer3", "conv2", "bn2", "linear"]),
    ],
)
def test_outermost_names_in_their_order(name: str, names: list[str]) -> None:
    assert list(dict.fromkeys(key.partition(".")[0] for key in on_meta(name).state_dict())) == names


@pytest.mark.parametrize(
    ("name", "inside", "names"),
    [
        ("resnet8x4", "layer1.0", [*TWO, "downsample.0", "downsample.1"]),  # the stem is half as wide
        ("ResNet18", "layer1.0", TWO),
        ("ResNet34", "layer4.0", [*TWO, "shortcut.0", "shortcut.1"]),
        ("ResNet50", "layer1.0", [*THREE, "shortcut.0", "shortcut.1"]),
        ("ResNet152", "layer3.35", THREE),
        ("wrn_16_1", "block1.layer.0", ["bn1", "conv1", "bn2", "conv2"]),
        ("wrn_40_2", "block2.layer.0", ["bn1", "conv1", "bn2", "conv2", "convShortcut"]),
        ("wrn_28_10", "block3.layer.3", ["bn1", "conv1", "bn2", "conv2"]),
        ("vgg8", "block4", ["0", "1"]),
        ("vgg13", "block0", ["0", "1", "3", "4"]),
        ("vgg19", "block2", ["0", "1", "3", "4", "6", "7", "9", "10"]),
        ("vgg8", "classifier", [""]),
        ("vgg16-imagenet", "classifier", ["0", "3", "6"]),
        ("MobileNetV2", "conv1", ["0", "1"]),
        ("MobileNetV2", "blocks.0.0.conv", ["0", "1", "3", "4", "6", "7"]),  # expansion 1 keeps its first convolution
        ("MobileNetV2_0_5", "blocks.5.2.conv", ["0", "1", "3", "4", "6", "7"]),
        ("MobileNetV2", "conv2", ["0", "1"]),
        ("MobileNetV2", "classifier", ["0"]),
        ("ShuffleNetV1", "layer1.0", THREE),
        ("ShuffleNetV1", "layer2.7", THREE),
        ("ShuffleNetV2", "layer1.0", FIVE),
        ("ShuffleNetV2", "layer2.7", THREE),
    ],
)
def test_names_inside_a_block_in_their_order(name: str, inside: str, names: list[str]) -> None:
    keys = [key.removeprefix(f"{inside}.") for key in on_meta(name).state_dict() if key.startswith(f"{inside}.")]
    assert list(dict.fromkeys(key.rpartition(".")[0] for key in keys)) == names


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("ResNet50", "layer2.0.conv2.weight", (128, 128, 3, 3)),
        ("ResNet50", "layer2.0.shortcut.0.weight", (512, 256, 1, 1)),
        ("wrn_40_2", "block3.layer.0.convShortcut.weight", (128, 64, 1, 1)),
        ("vgg13", "block1.3.bias", (128,)),
        ("vgg13-imagenet", "classifier.0.weight", (4096, 25088)),
        ("MobileNetV2", "blocks.1.0.conv.3.weight", (96, 1, 3, 3)),
        ("ShuffleNetV1", "layer1.0.conv1.weight", (54, 24, 1, 1)),  # ungrouped after the stem
        ("ShuffleNetV1", "layer1.0.conv3.weight", (216, 18, 1, 1)),
        ("ShuffleNetV1", "layer1.1.conv1.weight", (60, 80, 1, 1)),
        ("ShuffleNetV2", "layer2.0.conv1.weight", (116, 1, 3, 3)),
        ("ShuffleNetV2", "layer2.1.conv2.weight", (116, 1, 3, 3)),
    ],
)
def test_shapes_of_weights(name: str, key: str, shape: Shape) -> None:
    assert on_meta(name).state_dict()[key].shape == shape


def test_where_the_stride_is_in_a_bottleneck() -> None:
    strides = {key: m.stride for key, m in on_meta("ResNet50").named_modules() if isinstance(m, nn.Conv2d)}
    assert [strides[f"layer2.0.conv{i}"] for i in (1, 2, 3)] == [(1, 1), (2, 2), (1, 1)]


def test_unknown_name_shows_near_ones() -> None:
    with pytest.raises(SpotkdError, match=r"unknown model 'resnet21': did you mean .*resnet20"):
        create_model("resnet21", 100)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet20", "ResNet for CIFAR (He et al., CVPR 2016), depth 20, 0.28 M parameters with 100 classes"),
        (
            "wrn_40_2",
            "Wide ResNet (Zagoruyko and Komodakis, BMVC 2016), depth 40, width 2, 2.26 M parameters with 100 classes",
        ),
        (
            "ShuffleNetV1",
            "ShuffleNetV1 with 3 groups for small images (Zhang et al., CVPR 2018), 0.95 M parameters with 100 classes",
        ),
    ],
)
def test_description(name: str, line: str) -> None:
    assert describe(name) == line


@pytest.mark.slow
def test_descriptions_tell_all_networks_apart_and_use_no_random_numbers() -> None:
    before = torch.get_rng_state()
    lines = [describe(name) for name in MODELS]
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(lines)) == len(lines)
    for name, line in zip(MODELS, lines, strict=True):
        assert "\n" not in line
        assert f"{EXPECTED[name][0] / 1e6:.2f} M parameters with 100 classes" in line


@pytest.mark.parametrize(("name", "message"), [("resnet20", "6n \\+ 2, not 21"), ("wrn_16_1", "6n \\+ 4, not 21")])
def test_depths_that_do_not_exist(name: str, message: str) -> None:
    entry = MODELS[name]
    assert isinstance(entry, partial)
    with pytest.raises(ValueError, match=message):
        entry.func(21, *entry.args[1:], 10)
