"""The VGG networks of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, with batch normalisation (Ioffe and Szegedy, ICML 2015).

Depth 8 is no network of the paper but a student of the distillation literature, with one convolution a block.
Parameter names are those of the RepDistiller project, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..stages import StagedModel
from .blocks import global_pool, initialise, rectified
from .zoo import MODELS

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MIN_POOLED = 8  # a narrower map is not pooled once more before the last block


def _block(width_in: int, width: int, convolutions: int) -> nn.Sequential:
    """3x3 convolutions with norm and ReLU; the ReLU after the last norm is left to the stage."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(width_in, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        width_in = width
    return nn.Sequential(*layers[:-1])


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


class VGG(StagedModel):
    """VGG with BatchNorm for small images (Simonyan and Zisserman, ICLR 2015).

    Five blocks with max-pooling before blocks 1, 2 and 3, and before block 4 where the map is at least 8 wide; global
    average pooling and a linear classifier. Features: the blocks, all after ReLU, and the pooled vector.

    Args:
        depth: a key of ``CONVOLUTIONS``.
        num_classes: number of logits.
    """

    stage_names = ("block0", "block1", "block2", "block3", "block4", "pool", "classifier")

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        convolutions = CONVOLUTIONS[depth]
        self.block0 = _block(3, WIDTHS[0], convolutions[0])
        self.block1 = _block(WIDTHS[0], WIDTHS[1], convolutions[1])
        self.block2 = _block(WIDTHS[1], WIDTHS[2], convolutions[2])
        self.block3 = _block(WIDTHS[2], WIDTHS[3], convolutions[3])
        self.block4 = _block(WIDTHS[3], WIDTHS[4], convolutions[4])
        self.classifier = self._classifier(num_classes)
        initialise(self, linear_std=0.01)

    @staticmethod
    def _classifier(num_classes: int) -> nn.Module:
        return nn.Linear(WIDTHS[-1], num_classes)

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        return (
            rectified(self.block0),
            rectified(_halve, self.block1),
            rectified(_halve, self.block2),
            rectified(_halve, self.block3),
            rectified(self._before_last, self.block4),
            self._pool,
            self.classifier,
        )

    def _before_last(self, x: Tensor) -> Tensor:
        return _halve(x) if x.shape[-1] >= MIN_POOLED else x

    def _pool(self, x: Tensor) -> Tensor:
        return global_pool(x)


class ImageNetVGG(VGG):
    """VGG with BatchNorm for images of 224 pixels (Simonyan and Zisserman, ICLR 2015).

    As :class:`VGG`, but with max-pooling before and after block 4, an embedding of 7x7 positions and the paper's
    classifier of three linear layers with dropout.
    """

    @staticmethod
    def _classifier(num_classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(7 * 7 * WIDTHS[-1], 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def _before_last(self, x: Tensor) -> Tensor:
        return _halve(x)

    def _pool(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(_halve(x), 7).flatten(1)


for _depth in CONVOLUTIONS:
    MODELS.add(f"vgg{_depth}", partial(VGG, _depth))
for _depth in CONVOLUTIONS:
    MODELS.add(f"vgg{_depth}-imagenet", partial(ImageNetVGG, _depth))
