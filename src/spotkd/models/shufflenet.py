"""ShuffleNet: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
CVPR 2018, and Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018.

Both with a 1x1 stem for small images and with PyTorch's own initialisation. Parameter names are those of the
RepDistiller project, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..stages import StagedModel
from .blocks import Group, RectifiedBlock, chain, global_pool, rectified, relu
from .zoo import MODELS

STEM = 24  # channels after the stem
GROUPS = 3  # of ShuffleNetV1's 1x1 convolutions


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of ``groups`` equal groups: first of each group, second of each, and so on."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)


class GroupedUnit(RectifiedBlock):
    """ShuffleNetV1's unit: grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1; added to its input, or with stride 2
    concatenated with the pooled input.

    The ReLU after the depthwise convolution is not in the paper but in the networks that are shared.

    Args:
        width_in: input channels.
        width_out: output channels, those of the pooled input included.
        stride: 1 or 2.
    """

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self._pools = stride == 2
        self._groups = 1 if width_in == STEM else GROUPS  # the stem's few channels stay whole
        made = width_out - width_in if self._pools else width_out
        inner = made // 4
        self.conv1 = nn.Conv2d(width_in, inner, 1, groups=self._groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(made)

    def body(self, x: Tensor) -> Tensor:
        out = shuffle(relu(self.bn1(self.conv1(x))), self._groups)
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.cat((out, F.avg_pool2d(x, 3, 2, 1)), 1) if self._pools else out.add_(x)


class ShuffleNetV1(StagedModel):
    """ShuffleNetV1 with 3 groups for small images (Zhang et al., CVPR 2018).

    A 1x1 stem, three groups of 4, 8 and 4 units with stride 2 each, global average pooling and a linear classifier.
    Features: stem and groups, all after ReLU, and the pooled vector.

    Args:
        num_classes: number of logits.
    """

    stage_names = ("stem", "layer1", "layer2", "layer3", "pool", "linear")

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = self._group(STEM, 240, units=4)
        self.layer2 = self._group(240, 480, units=8)
        self.layer3 = self._group(480, 960, units=4)
        self.linear = nn.Linear(960, num_classes)

    @staticmethod
    def _group(width_in: int, width: int, units: int) -> Group:
        return Group(GroupedUnit(width_in, width, 2), *(GroupedUnit(width, width, 1) for _ in range(units - 1)))

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        stem = rectified(self.conv1, self.bn1)
        groups = (rectified(group.body) for group in (self.layer1, self.layer2, self.layer3))
        return (stem, *groups, global_pool, self.linear)


class SplitUnit(RectifiedBlock):
    """ShuffleNetV2's basic unit: half of the channels pass, the others go through 1x1, 3x3 depthwise and 1x1.

    The half that passes comes out of a ReLU, so the ReLU after both is the one after the other half.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def body(self, x: Tensor) -> Tensor:
        passing, out = x.chunk(2, 1)
        out = relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        return shuffle(torch.cat((passing, out), 1), 2)


class DownUnit(RectifiedBlock):
    """ShuffleNetV2's unit with stride 2: two branches of the whole input, one without the first 1x1 convolution."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(width_in, width_in, 3, 2, 1, groups=width_in, bias=False)
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv2 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(width_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def body(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = self.bn2(self.conv2(left))
        right = relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = self.bn5(self.conv5(right))
        return shuffle(torch.cat((left, right), 1), 2)


class ShuffleNetV2(StagedModel):
    """ShuffleNetV2 of width 1 for small images (Ma et al., ECCV 2018).

    A 1x1 stem, three groups of one unit with stride 2 and 3, 7 and 3 basic units, a 1x1 convolution to 1024 channels
    with global average pooling, and a linear classifier. Features: stem and groups, all after ReLU, and the pooled
    vector.

    Args:
        num_classes: number of logits.
    """

    stage_names = ("stem", "layer1", "layer2", "layer3", "pool", "linear")

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = self._group(STEM, 116, units=3)
        self.layer2 = self._group(116, 232, units=7)
        self.layer3 = self._group(232, 464, units=3)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    @staticmethod
    def _group(width_in: int, width: int, units: int) -> Group:
        return Group(DownUnit(width_in, width), *(SplitUnit(width) for _ in range(units)))

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        stem = rectified(self.conv1, self.bn1)
        groups = (rectified(group.body) for group in (self.layer1, self.layer2, self.layer3))
        pool = chain(self.conv2, self.bn2, relu, global_pool)
        return (stem, *groups, pool, self.linear)


MODELS.add("ShuffleNetV1", ShuffleNetV1)
MODELS.add("ShuffleNetV2", ShuffleNetV2)
