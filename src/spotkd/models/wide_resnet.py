"""The wide ResNets of Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016.

Parameter names are those of the RepDistiller project, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..stages import StagedModel
from .blocks import chain, global_pool, initialise, relu
from .zoo import MODELS


class PreActivationBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions; nothing after the sum with the shortcut.

    Where the width changes, the shortcut is a 1x1 convolution of the *activated* input, else the raw input itself.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.convShortcut = None if width_in == width else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = relu(self.bn1(x))
        out: Tensor = self.conv2(relu(self.bn2(self.conv1(active))))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return out.add_(shortcut)


def _group(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(width_in, width, stride)
    layer = nn.Sequential(first, *(PreActivationBlock(width, width, 1) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(layer=layer))  # one level deeper, as published: block1.layer.0.conv1.weight


class WideResNet(StagedModel):
    """Wide ResNet (Zagoruyko and Komodakis, BMVC 2016).

    A 3x3 stem, three groups of ``n`` pre-activation blocks with strides 1, 2, 2, a last norm and ReLU with global
    average pooling, and a linear classifier; no dropout. Features: stem and groups, which are raw sums of either
    sign, and the pooled vector.

    Args:
        depth: ``6n + 4``.
        width: how many times as wide as 16, 32, 64 the groups are; the stem always has 16 channels.
        num_classes: number of logits.
    """

    stage_names = ("stem", "block1", "block2", "block3", "pool", "fc")

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"a wide ResNet has depth 6n + 4, not {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = _group(16, 16 * width, blocks, stride=1)
        self.block2 = _group(16 * width, 32 * width, blocks, stride=2)
        self.block3 = _group(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        pool = chain(self.bn1, relu, global_pool)
        return (self.conv1, self.block1, self.block2, self.block3, pool, self.fc)


for _depth, _width in ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10)):
    MODELS.add(f"wrn_{_depth}_{_width}", partial(WideResNet, _depth, _width))
