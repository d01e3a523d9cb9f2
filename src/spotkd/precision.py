"""Mathematics that must not run in 16 bits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Loss = TypeVar("Loss", bound=Callable[..., Any])


def full_precision(function: Loss) -> Loss:
    """Run a function of tensors outside autocast, its half-precision arguments widened to float32.

    Exponentials, small differences and the guards against division by zero (1e-12) do not survive in 16 bits.
    float32 and float64 stay as they are.
    """

    def to_float32(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(to_float32, args), **{key: to_float32(value) for key, value in kwargs.items()})

    return cast(Loss, wrapper)
