"""The losses equal golden values that NumPy computed; see tests/golden/make_losses.py."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spotkd.distillers.at import at_loss
from spotkd.distillers.base import masked_mean
from spotkd.distillers.fitnet import fitnet_loss
from spotkd.distillers.kd import kd_loss
from spotkd.distillers.rkd import rkd_loss
from spotkd.distillers.sp import sp_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text(encoding="utf-8"))
LOSSES = {
    "kd": lambda s, t, m: masked_mean(kd_loss(s, t, 4.0), m),
    "fitnet": lambda s, t, m: masked_mean(fitnet_loss(s, t), m),
    "at": lambda s, t, m: masked_mean(at_loss(s, t), m),
    "sp": sp_loss,
    "rkd": lambda s, t, m: rkd_loss(s, t, m, 25.0, 50.0),
}


def wave(shape: list[int], step: float) -> Tensor:
    count = GOLDEN["batch"] * prod(shape)
    return torch.sin(step * torch.arange(1, count + 1, dtype=torch.float64)).view(GOLDEN["batch"], *shape)


@pytest.mark.parametrize("kind", GOLDEN["masks"])
@pytest.mark.parametrize("name", GOLDEN["losses"])
def test_golden(name: str, kind: str) -> None:
    mask = torch.tensor(GOLDEN["masks"][kind], dtype=torch.float64)
    total = sum(
        LOSSES[name](wave(shape_s, 0.7 + i), wave(shape_t, 1.3 + i), mask).item()
        for i, (shape_s, shape_t) in enumerate(GOLDEN["shapes"][name])
    )
    assert total == pytest.approx(GOLDEN["losses"][name][kind], rel=1e-10)
