"""The losses equal golden values that NumPy computed; see tests/golden/make_losses.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spotkd.distillers.ab import ab_loss
from spotkd.distillers.at import at_loss
from spotkd.distillers.base import masked_mean, normalise
from spotkd.distillers.cc import cc_loss
from spotkd.distillers.crd import crd_loss
from spotkd.distillers.dist import dist_loss
from spotkd.distillers.dkd import dkd_loss
from spotkd.distillers.fitnet import fitnet_loss
from spotkd.distillers.fsp import fsp_loss
from spotkd.distillers.ft import ft_loss
from spotkd.distillers.kd import kd_loss
from spotkd.distillers.kdsvd import directions, kdsvd_loss
from spotkd.distillers.nst import nst_loss
from spotkd.distillers.ofd import ofd_loss
from spotkd.distillers.pkt import pkt_loss
from spotkd.distillers.reviewkd import context_loss
from spotkd.distillers.rkd import rkd_loss
from spotkd.distillers.sp import sp_loss
from spotkd.distillers.vid import vid_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text(encoding="utf-8"))
LABELS = torch.arange(7) * 3 % 10


def wave(shape: list[int], step: float, count: int = GOLDEN["batch"], power: int = 1) -> Tensor:
    index = torch.arange(1, count * prod(shape) + 1, dtype=torch.float64) ** power
    return torch.sin(step * index).view(count, *shape)


def kdsvd(s: Tensor, s_next: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    (v_s, v_t), (w_s, w_t) = directions(s, t), directions(s_next, t_next)
    return kdsvd_loss(v_s, w_s, v_t, w_t)


def crd(s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    drawn = (2 * torch.arange(7)[:, None] + torch.arange(6)) % 16
    total = torch.zeros(7, dtype=torch.float64)
    for query, step in ((s, 1.7), (t, 0.9)):
        memory = normalise(wave([6], step, 16), dim=1)
        scores = (normalise(query, dim=1) @ memory.T / 0.07).gather(1, drawn)
        logarithms = scores - (scores[mask > 0].exp().mean() * 16).log()
        total += crd_loss(logarithms[:, 0], logarithms[:, 1:], 5, 5 / 16)
    return masked_mean(total, mask)


# From the features of student and teacher at one spot, and a mask.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "kd": lambda s, t, m: masked_mean(kd_loss(s, t, 4.0), m),
    "dkd": lambda s, t, m: masked_mean(dkd_loss(s, t, LABELS, 4.0, 1.0, 8.0), m),
    "dist": lambda s, t, m: dist_loss(s, t, m, 4.0, 2.0, 2.0),
    "fitnet": lambda s, t, m: masked_mean(fitnet_loss(s, t), m),
    "at": lambda s, t, m: masked_mean(at_loss(s, t), m),
    "nst": lambda s, t, m: masked_mean(nst_loss(s, t), m),
    "vid": lambda s, t, m: masked_mean(vid_loss(s, t, wave([5], 0.5, 1)[0]), m),
    "ft": lambda s, t, m: masked_mean(ft_loss(s, t), m),
    "ab": lambda s, t, m: masked_mean(ab_loss(s, t), m),
    "ofd": lambda s, t, m: masked_mean(ofd_loss(s, t, -wave([4], 0.5, 1)[0].abs()), m),
    "reviewkd": lambda s, t, m: masked_mean(context_loss(s, t), m),
    "sp": sp_loss,
    "rkd": lambda s, t, m: rkd_loss(s, t, m, 25.0, 50.0),
    "pkt": pkt_loss,
    "cc": cc_loss,
    "crd": crd,
}
# From one map and the next of the student, and of the teacher: a loss for each sample.
CONSECUTIVE: dict[str, Callable[..., Tensor]] = {"fsp": fsp_loss, "kdsvd": kdsvd}


@pytest.mark.parametrize("kind", GOLDEN["masks"])
@pytest.mark.parametrize("name", GOLDEN["losses"])
def test_golden(name: str, kind: str) -> None:
    mask = torch.tensor(GOLDEN["masks"][kind], dtype=torch.float64)
    power = GOLDEN["powers"].get(name, 1)
    maps = [
        (wave(shape_s, 0.7 + i, power=power), wave(shape_t, 1.3 + i, power=power))
        for i, (shape_s, shape_t) in enumerate(GOLDEN["shapes"][name])
    ]
    if name in CONSECUTIVE:
        (s, t), (s_next, t_next) = maps
        total = masked_mean(CONSECUTIVE[name](s, s_next, t, t_next), mask).item()
    else:
        total = sum(LOSSES[name](s, t, mask).item() for s, t in maps)
    assert total == pytest.approx(GOLDEN["losses"][name][kind], rel=1e-10)


@pytest.mark.distillers("all")
def test_every_loss_has_golden_values() -> None:
    assert {*LOSSES, *CONSECUTIVE} == set(GOLDEN["losses"])
