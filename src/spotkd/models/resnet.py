"""The ResNets of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, for small images.

Two families: the CIFAR ResNets of the paper's section 4.2, with three groups, and the ImageNet networks of its
table 1, with four groups, whose stem keeps the image's size. Parameter names are those of the RepDistiller project,
so its checkpoints load as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..stages import StagedModel
from .blocks import Group, RectifiedBlock, global_pool, initialise, rectified, relu
from .zoo import MODELS


class ResidualBlock(RectifiedBlock):
    """Convolutions beside a shortcut; ReLU after their sum.

    The shortcut is the identity, or a 1x1 convolution with its norm where stride or width change the shape.

    Attributes:
        expansion: output channels per channel of the 3x3 convolutions.
        shortcut_key: the shortcut's name in a state dict.
    """

    expansion = 1
    shortcut_key = "shortcut"

    def add_shortcut(self, width_in: int, width_out: int, stride: int) -> None:
        """To be called after the convolutions are made: state dicts keep the order of creation."""
        shortcut = None
        if stride != 1 or width_in != width_out:
            shortcut = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))
        self.add_module(self.shortcut_key, shortcut)

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """What is added to the shortcut; a tensor of its own."""

    def body(self, x: Tensor) -> Tensor:
        out = self.residual(x)
        shortcut: nn.Module | None = getattr(self, self.shortcut_key)
        return out.add_(x if shortcut is None else shortcut(x))


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions, the stride on the first."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.add_shortcut(width_in, width, stride)

    def residual(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(out))
        return residual


class CifarBlock(BasicBlock):
    """The basic block under the names of the CIFAR networks."""

    shortcut_key = "downsample"


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions, the stride on the 3x3; the last is four times as wide."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)
        self.add_shortcut(width_in, self.expansion * width, stride)

    def residual(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        residual: Tensor = self.bn3(self.conv3(out))
        return residual


def residual_group(block: type[BasicBlock | Bottleneck], width_in: int, width: int, blocks: int, stride: int) -> Group:
    """``blocks`` blocks of ``width``; the first takes ``width_in`` channels and has the stride."""
    first = block(width_in, width, stride)
    return Group(first, *(block(block.expansion * width, width, 1) for _ in range(blocks - 1)))


class CifarResNet(StagedModel):
    """ResNet for CIFAR (He et al., CVPR 2016).

    A 3x3 stem, three groups of ``n`` basic blocks with strides 1, 2, 2, global average pooling and a linear
    classifier. Features: stem and groups, all after ReLU, and the pooled vector.

    Args:
        depth: ``6n + 2``.
        widths: channels of the stem and of the three groups.
        num_classes: number of logits.
    """

    stage_names = ("stem", "layer1", "layer2", "layer3", "pool", "fc")

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6n + 2, not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = residual_group(CifarBlock, widths[0], widths[1], blocks, stride=1)
        self.layer2 = residual_group(CifarBlock, widths[1], widths[2], blocks, stride=2)
        self.layer3 = residual_group(CifarBlock, widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise(self)

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        stem = rectified(self.conv1, self.bn1)
        groups = (rectified(group.body) for group in (self.layer1, self.layer2, self.layer3))
        return (stem, *groups, global_pool, self.fc)


GROUPS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {  # by depth: block, blocks
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(StagedModel):
    """ImageNet ResNet for small images (He et al., CVPR 2016).

    A 3x3 stem without stride or pooling, four groups with strides 1, 2, 2, 2, global average pooling and a linear
    classifier. Features: stem and groups, all after ReLU, and the pooled vector.

    Args:
        depth: a key of ``GROUPS``.
        num_classes: number of logits.
    """

    stage_names = ("stem", "layer1", "layer2", "layer3", "layer4", "pool", "linear")

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        block, blocks = GROUPS[depth]
        wider = block.expansion
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = residual_group(block, 64, 64, blocks[0], stride=1)
        self.layer2 = residual_group(block, 64 * wider, 128, blocks[1], stride=2)
        self.layer3 = residual_group(block, 128 * wider, 256, blocks[2], stride=2)
        self.layer4 = residual_group(block, 256 * wider, 512, blocks[3], stride=2)
        self.linear = nn.Linear(512 * wider, num_classes)
        initialise(self)

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        stem = rectified(self.conv1, self.bn1)
        groups = (rectified(group.body) for group in (self.layer1, self.layer2, self.layer3, self.layer4))
        return (stem, *groups, global_pool, self.linear)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.add(f"resnet{_depth}", partial(CifarResNet, _depth, (16, 16, 32, 64)))
for _depth in (8, 32):  # the published "x4" models, four times as wide; their stem is only twice as wide
    MODELS.add(f"resnet{_depth}x4", partial(CifarResNet, _depth, (32, 64, 128, 256)))
for _depth in GROUPS:
    MODELS.add(f"ResNet{_depth}", partial(ResNet, _depth))
