"""The network of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

Parameter names are those of the RepDistiller project, whose own model has half the width: its checkpoints load into
``MobileNetV2_0_5``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..stages import StagedModel
from .blocks import chain, global_pool, initialise, rectified, relu
from .zoo import MODELS

ROWS = (  # expansion, channels at width 1, repeats, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),  # the paper, which has larger images, takes stride 2 here
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
EMBEDDING = 1280  # whatever the width


def _convolution(width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the map's size but for the stride, and its norm."""
    padding = kernel // 2
    return [nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(width)]


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a 3x3 depthwise convolution and a linear 1x1 projection, added to the input where it fits."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * width_in
        self.conv = nn.Sequential(
            *_convolution(width_in, inner, 1),
            nn.ReLU(inplace=True),
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.ReLU(inplace=True),
            *_convolution(inner, width, 1),
        )
        self._adds = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out.add_(x) if self._adds else out


class MobileNetV2(StagedModel):
    """MobileNetV2 for small images (Sandler et al., CVPR 2018).

    A 3x3 stem with stride 2, seven rows of inverted residuals, a 1x1 convolution to 1280 channels with global average
    pooling, and a linear classifier; ReLU, not ReLU6. Features: the stem after ReLU, the rows 1, 2, 4 and 6, which end
    in linear bottlenecks and have either sign, and the pooled vector.

    Args:
        width: factor on the channels of the stem and the rows.
        num_classes: number of logits.
    """

    stage_names = ("stem", "blocks0-1", "blocks2", "blocks3-4", "blocks5-6", "pool", "classifier")

    def __init__(self, width: float, num_classes: int) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*_convolution(3, channels, 3, stride=2))
        self.blocks = nn.ModuleList()
        for expansion, at_width_1, repeats, stride in ROWS:
            row = nn.Sequential()
            for repeat in range(repeats):
                row.append(InvertedResidual(channels, int(at_width_1 * width), stride if repeat == 0 else 1, expansion))
                channels = int(at_width_1 * width)
            self.blocks.append(row)
        self.conv2 = nn.Sequential(*_convolution(channels, EMBEDDING, 1))
        self.classifier = nn.Sequential(nn.Linear(EMBEDDING, num_classes))  # its published name is classifier.0
        initialise(self, linear_std=0.01)

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        rows = list(self.blocks)
        pool = chain(self.conv2, relu, global_pool)
        groups = (chain(*rows[0:2]), rows[2], chain(*rows[3:5]), chain(*rows[5:7]))
        return (rectified(self.conv1), *groups, pool, self.classifier)


MODELS.add("MobileNetV2", partial(MobileNetV2, 1.0))
MODELS.add("MobileNetV2_0_5", partial(MobileNetV2, 0.5))
