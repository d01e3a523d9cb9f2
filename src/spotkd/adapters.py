"""Trainable maps between the feature spaces of two networks.

The routing network converts features at each spot in both directions (paper, figure 2: "hint" and its inverse), and
FitNet's loss regressor is of the same design, so adapters lie below both.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .errors import SpotkdError
from .stages import Shape


class ConvReg(nn.Module):
    """A convolution with bias, BatchNorm and ReLU from maps of ``shape_in`` to maps of ``shape_out``.

    The convolution depends on the sizes, as in the author code: equal ones take a 1x1, a halved one a 3x3 with stride
    2, a doubled one a transposed 4x4 with stride 2; the paper's pairs need no other. For any other ratio the author
    code grows kernels as large as the difference (25x25 from 32 to 8); here the map is resized first (averaged down
    or interpolated up) and a 1x1 convolution follows.

    Args:
        shape_in: ``(C, H, W)`` of what comes in.
        shape_out: ``(C, H, W)`` of what goes out.
    """

    def __init__(self, shape_in: Shape, shape_out: Shape) -> None:
        super().__init__()
        (channels_in, height_in, width_in), (channels_out, height_out, width_out) = shape_in, shape_out
        self.resize_to: tuple[int, int] | None = None
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if (height_in, width_in) == (2 * height_out, 2 * width_out):
            self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        elif (2 * height_in, 2 * width_in) == (height_out, width_out):
            self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(channels_in, channels_out, 1)
            if (height_in, width_in) != (height_out, width_out):
                self.resize_to = (height_out, width_out)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.resize_to is not None:
            shrinks = self.resize_to[0] <= x.shape[-2]
            x = (
                F.adaptive_avg_pool2d(x, self.resize_to)
                if shrinks
                else F.interpolate(x, self.resize_to, mode="bilinear", align_corners=False)
            )
        return F.relu(self.norm(self.conv(x)))


def connect(shape_in: Shape, shape_out: Shape) -> nn.Module:
    """The adapter from one feature space to another: :class:`ConvReg` for maps, a linear layer for vectors.

    Raises:
        SpotkdError: one side is a map and the other a vector.
    """
    if len(shape_in) == len(shape_out) == 3:
        return ConvReg(shape_in, shape_out)
    if len(shape_in) == len(shape_out) == 1:
        return nn.Linear(shape_in[0], shape_out[0])
    raise SpotkdError(f"no adapter joins features of shapes {shape_in} and {shape_out}: pair maps (C, H, W) or vectors")
