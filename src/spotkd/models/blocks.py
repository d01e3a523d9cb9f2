"""What the networks of the zoo share: modules in a row, blocks that end in a ReLU, initialisation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..stages import Rectified


def chain(*parts: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One callable that runs ``parts`` one after another."""

    def run(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x

    return run


def rectified(*parts: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``parts`` one after another as a stage that ends in a ReLU, which is not among them."""
    return Rectified(chain(*parts))


def global_pool(x: Tensor) -> Tensor:
    """The mean of every map: ``(B, C, H, W)`` to ``(B, C)``."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def relu(x: Tensor) -> Tensor:
    """ReLU in place, a walk through memory less: for what a layer has just made and nothing else looks at."""
    return F.relu(x, inplace=True)


class RectifiedBlock(nn.Module):
    """A block whose last operation is a ReLU: ``relu(body(x))``."""

    @abstractmethod
    def body(self, x: Tensor) -> Tensor:
        """The block up to its last ReLU; a tensor of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.body(x))


class Group(nn.Sequential):
    """Blocks of :class:`RectifiedBlock` in a row; a stage of its own as ``rectified(group.body)``."""

    def body(self, x: Tensor) -> Tensor:
        """The group up to the ReLU that ends its last block."""
        *others, last = self
        return cast(RectifiedBlock, last).body(chain(*others)(x))


def initialise(model: nn.Module, linear_std: float | None = None) -> None:
    """Draw ``model``'s convolutions, of kernel k x k, from N(0, 2 / (k k C_out)) and set their biases to 0.

    ``C_out`` is the whole number of output channels, in grouped convolutions too. BatchNorm keeps PyTorch's 1 and 0.

    Args:
        model: the network, changed in place.
        linear_std: if given, linear layers are drawn from N(0, linear_std^2) with bias 0; else they stay as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0, linear_std)
            nn.init.zeros_(module.bias)
