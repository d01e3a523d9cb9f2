"""Trainable maps between the feature spaces of two networks.

The routing network converts features at each spot in both directions (paper, figure 2: "hint" and its inverse), and
FitNet's loss regressor is of the same design, so adapters lie below both.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stages import Shape


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a map ``(B, C, H, W)`` down or interpolate it up to ``size``."""
    if size[0] <= x.shape[-2]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class BatchNorm2d(nn.BatchNorm2d):
    """As usual, but a batch of one value a channel is normalised with the running statistics: it has no variance.

    The usual one raises an error there, which would end a run at a last batch of one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class ConvReg(nn.Module):
    """A convolution with bias, BatchNorm and ReLU from maps of ``shape_in`` to maps of ``shape_out``.

    The convolution depends on the sizes, as in the author code: equal ones take a 1x1, a halved one a 3x3 with stride
    2, a doubled one a transposed 4x4 with stride 2; the paper's pairs need no other. For any other ratio the author
    code grows kernels as large as the difference (25x25 from 32 to 8); here the map is resized first (averaged down
    or interpolated up) and a 1x1 convolution follows.

    Args:
        shape_in: ``(C, H, W)`` of what comes in.
        shape_out: ``(C, H, W)`` of what goes out.
        relu: whether a ReLU ends it; without one negative values can be matched too.
    """

    def __init__(self, shape_in: Shape, shape_out: Shape, relu: bool = True) -> None:
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
        self.norm = BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.resize_to is not None:
            x = resize(x, self.resize_to)
        out: Tensor = self.relu(self.norm(self.conv(x)))
        return out


class TokenReg(nn.Module):
    """LayerNorm and a linear layer from tokens of ``shape_in`` to tokens of ``shape_out``, both ``(N, C)``.

    Sequences of different lengths are resized as the maps of their square grids; of the tokens in front of the grid
    (class token, registers) as many are kept as both have, and more are filled with the mean of the grid. LayerNorm
    comes first because the scale of a transformer's residual stream grows with depth; there is no ReLU, because that
    stream is signed.
    """

    def __init__(self, shape_in: Shape, shape_out: Shape) -> None:
        super().__init__()
        (length_in, channels_in), (self.length, channels_out) = shape_in, shape_out
        self.resizes = length_in != self.length
        self.norm = nn.LayerNorm(channels_in)
        self.linear = nn.Linear(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.resizes:
            side = isqrt(self.length)
            in_front = x[:, : x.shape[1] - isqrt(x.shape[1]) ** 2][:, : self.length - side**2]
            x = _prepend_tokens(resize(as_map(x), (side, side)), in_front, self.length)
        out: Tensor = self.linear(self.norm(x))
        return out


class CrossKindReg(nn.Module):
    """Joins a map, tokens or a vector to a feature of another kind, by way of maps and :class:`ConvReg`.

    Tokens become the map of their square grid, and a map becomes the tokens of its positions, with its mean for
    whatever stands before the grid (class token, registers). A vector is a map of one position.
    """

    def __init__(self, shape_in: Shape, shape_out: Shape) -> None:
        super().__init__()
        self.shape_out = shape_out
        self.regressor = ConvReg(map_shape(shape_in), map_shape(shape_out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.regressor(as_map(x))
        if len(self.shape_out) == 1:
            return y.flatten(1)
        if len(self.shape_out) == 3:
            return y
        return _prepend_tokens(y, None, self.shape_out[0])


def _prepend_tokens(grid: Tensor, in_front: Tensor | None, length: int) -> Tensor:
    """``length`` tokens: those in front, the mean of the grid for each that is missing, and the map ``grid``."""
    tokens = grid.flatten(2).transpose(1, 2)
    front = [] if in_front is None else [in_front]
    missing = length - tokens.shape[1] - sum(part.shape[1] for part in front)
    return torch.cat([*front, tokens.mean(1, keepdim=True).expand(-1, missing, -1), tokens], dim=1)


def map_shape(shape: Shape) -> Shape:
    """The shape ``(C, H, W)`` that :func:`as_map` gives a feature of ``shape``."""
    if len(shape) == 3:
        return shape
    if len(shape) == 2:
        side = isqrt(shape[0])
        return shape[1], side, side
    return shape[0], 1, 1


def as_map(feature: Tensor) -> Tensor:
    """A feature as a map ``(B, C, H, W)``.

    Tokens ``(B, N, C)`` are laid out on the largest square grid that they fill; those in front of it (class token,
    registers) are left out. A vector ``(B, D)`` is a map of one position.
    """
    if feature.dim() == 4:
        return feature
    if feature.dim() == 3:
        side = isqrt(feature.shape[1])
        grid = feature[:, -side * side :].transpose(1, 2)
        return grid.reshape(*grid.shape[:2], side, side)
    return feature[:, :, None, None]


def make_adapter(shape_in: Shape, shape_out: Shape) -> nn.Module:
    """Make the adapter from one feature space to another, for shapes without the batch dimension.

    Maps ``(C, H, W)`` take a :class:`ConvReg`, tokens ``(N, C)`` a :class:`TokenReg`, vectors ``(D,)`` a linear layer,
    and features of different kinds a :class:`CrossKindReg`.
    """
    if len(shape_in) != len(shape_out):
        return CrossKindReg(shape_in, shape_out)
    if len(shape_in) == 3:
        return ConvReg(shape_in, shape_out)
    if len(shape_in) == 2:
        return TokenReg(shape_in, shape_out)
    return nn.Linear(shape_in[0], shape_out[0])
