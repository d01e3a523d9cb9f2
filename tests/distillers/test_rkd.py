"""RKD under a strategy that looks at its losses: samples are related once, and no number changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from spotkd.distillers import rkd

from .common import NARROW, WIDE, B, build, inputs


@pytest.mark.distillers("rkd")
@pytest.mark.parametrize("looks_first", [False, True])
def test_samples_are_related_once_a_step_to_the_bit(looks_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = rkd._relate, []

    def counted(student: Tensor, teacher: Tensor) -> rkd._Relations:
        calls.append(len(student))
        return plain(student, teacher)

    monkeypatch.setattr(rkd, "_relate", counted)
    distiller = build("rkd")
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    mask = torch.rand(B, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = rkd.rkd_loss(student[0], teacher[0], mask[:, 0], 25.0, 50.0)
    gradient = torch.autograd.grad(expected, student[0])[0]
    shares = rkd.rkd_shares(student[0], teacher[0], 25.0, 50.0)[:, None]
    calls.clear()
    if looks_first:
        with torch.no_grad():
            assert torch.equal(distiller.sample_losses(student, teacher, batch), shares)
    found = distiller(student, teacher, mask, batch)
    assert len(calls) == 1
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, student[0])[0], gradient)
    copy.deepcopy(distiller)  # nothing of the step is kept
    assert torch.equal(
        distiller([2 * student[0]], teacher, mask, batch), distiller([2 * student[0]], teacher, mask, batch)
    )
