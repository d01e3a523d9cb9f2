"""Features of vision transformers, tokens (N, C), on either side or on both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spotkd import DISTILLERS, Batch
from spotkd.distillers import Distiller

from . import references
from .common import MASKS, B, Shapes

GRID_S, GRID_T = (6, 8, 8), (7, 8, 8)
LINES_S, LINES_T = (65, 6), (65, 7)  # the same grids behind a class token
SIDES = {"both": (LINES_S, LINES_T), "student": (LINES_S, GRID_T), "teacher": (GRID_S, LINES_T)}
BATCH = Batch(torch.zeros(B, 3, 8, 8), torch.arange(B) % 5)


def network(shape: tuple[int, ...]) -> Shapes:
    return (shape, shape, shape, shape, (9,), (5,))


def build(name: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> Distiller:
    torch.manual_seed(0)
    return DISTILLERS[name](network(student), network(teacher)).double()


def maps(distiller: Distiller) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    count = len(distiller.spots)
    student, teacher = (
        [torch.randn(B, *shape, generator=generator, dtype=torch.float64) for _ in range(count)]
        for shape in (GRID_S, GRID_T)
    )
    return student, teacher


def tokens(feature: Tensor) -> Tensor:
    """A map position by position, row by row, behind a class token of large numbers."""
    lines = torch.stack([feature[:, :, i // 8, i % 8] for i in range(64)], dim=1)
    return torch.cat([torch.full_like(lines[:, :1], 100.0), lines], dim=1)


def loss_and_gradients(
    distiller: Distiller, student: list[Tensor], teacher: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    student = [s.detach().requires_grad_() for s in student]
    masks = torch.stack([MASKS[kind] for kind in ("some", "all", "two")[: len(student)]], dim=1)
    loss = distiller(student, teacher, masks, BATCH)
    return loss, list(torch.autograd.grad(loss, student))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["at", "nst", "vid"])
def test_tokens_are_the_map_of_their_grid(name: str, side: str) -> None:
    distiller = build(name, *SIDES[side])
    student, teacher = maps(distiller)
    loss, gradients = loss_and_gradients(build(name, GRID_S, GRID_T), student, teacher)
    as_lines = [tokens(s) if side != "teacher" else s for s in student]
    got, got_gradients = loss_and_gradients(
        distiller, as_lines, [tokens(t) if side != "student" else t for t in teacher]
    )
    torch.testing.assert_close(got, loss, rtol=1e-13, atol=0)
    for g, wanted in zip(got_gradients, gradients, strict=True):
        if side == "teacher":
            torch.testing.assert_close(g, wanted, rtol=1e-12, atol=1e-16)
        else:
            torch.testing.assert_close(g[:, 1:], tokens(wanted)[:, 1:], rtol=1e-12, atol=1e-16)
            assert not g[:, 0].any()  # the class token takes no part


@pytest.mark.distillers("sp")
@pytest.mark.parametrize("side", SIDES)
def test_sp_compares_samples_by_all_their_tokens(side: str) -> None:
    distiller = build("sp", *SIDES[side])
    student, teacher = maps(distiller)
    student = [tokens(s) if side != "teacher" else s for s in student]
    teacher = [tokens(t) if side != "student" else t for t in teacher]
    loss, (gradient,) = loss_and_gradients(distiller, student, teacher)
    chosen = MASKS["some"].bool()
    expected = chosen.double().mean() * references.sp(student[0][chosen], teacher[0][chosen])
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    assert gradient[chosen].any()
    assert not gradient[~chosen].any()


@pytest.mark.distillers("fitnet")
@pytest.mark.parametrize("side", SIDES)
def test_fitnet_regresses_to_the_teachers_kind(side: str) -> None:
    distiller = build("fitnet", *SIDES[side])
    student, teacher = maps(distiller)
    student = [tokens(s) if side != "teacher" else s for s in student]
    teacher = [tokens(t) if side != "student" else t for t in teacher]
    loss, (gradient,) = loss_and_gradients(distiller, student, teacher)
    regressor: nn.Module = distiller.get_submodule("regressor")
    chosen = MASKS["some"].bool()
    expected = chosen.double().mean() * references.fitnet(regressor(student[0])[chosen], teacher[0][chosen])
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)
    assert torch.isfinite(gradient).all()
    assert gradient[chosen].any()


@pytest.mark.parametrize("name", ["at", "nst", "vid", "sp", "fitnet"])
def test_numbers_of_tokens_may_differ(name: str) -> None:
    """A grid of 8 x 8 behind a class token against one of 4 x 4 behind four registers."""
    distiller = build(name, (65, 6), (20, 7))
    generator = torch.Generator().manual_seed(1)
    student = [torch.randn(B, 65, 6, generator=generator, dtype=torch.float64) for _ in distiller.spots]
    teacher = [torch.randn(B, 20, 7, generator=generator, dtype=torch.float64) for _ in distiller.spots]
    loss, gradients = loss_and_gradients(distiller, student, teacher)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() and g.any() for g in gradients)
