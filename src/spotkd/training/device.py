"""Defaults that depend on the machine."""

from __future__ import annotations

from typing import Literal

import torch

from ..config import Precision


def choose_precision(wanted: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """The precision to compute in; ``auto`` takes bfloat16 autocast where the processor has instructions for it.

    Without them bfloat16 is emulated: on a CPU with AVX2 alone a step of resnet20 took ten times as long as in
    float32.
    """
    if wanted == "auto":
        wanted = "bf16-mixed" if _computes_in_bfloat16(device) else "32"
    return "bf16-mixed" if wanted == "bf16-mixed" else "32-true"


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":  # torch names these checks as its own affair; where they are absent, stay in float32
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(check() for check in checks if check is not None)
    return False
