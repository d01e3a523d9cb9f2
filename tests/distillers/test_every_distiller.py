"""One test for every entry of the registry: masked equals subset, in value and gradient, for every kind of mask.

And what every entry must survive besides: zeros and duplicates, half precision, saving and loading.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from spotkd import DISTILLERS, Batch
from spotkd.distillers import Distiller

from .common import MASKS, VARIANTS, B, build, inputs, rows, shapes_for, subset_loss
from .references import REFERENCES


@pytest.mark.distillers("all")
def test_every_entry_has_a_reference() -> None:
    assert set(DISTILLERS) == set(REFERENCES)


def masks_of(kind: str, count: int) -> Tensor:
    kinds = [list(MASKS)[(i + 1) % 5] for i in range(count)] if kind == "mixed" else [kind] * count
    return torch.stack([MASKS[k] for k in kinds], dim=1)


@pytest.mark.parametrize("larger", ["teacher", "student"])
@pytest.mark.parametrize("kind", [*MASKS, "mixed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_is_subset(variant: str, kind: str, larger: str) -> None:
    name = VARIANTS[variant][0]
    shapes = shapes_for(name, larger)
    distiller = build(variant, *shapes)
    student, teacher, batch = inputs(distiller, *shapes)
    teacher = [t.requires_grad_() for t in teacher]
    masks = masks_of(kind, len(distiller.spots))
    before = {key: value.clone() for key, value in distiller.state_dict().items()}
    draws: list[Any] = []
    if name == "crd":
        distiller.get_submodule("draw").register_forward_hook(lambda *call: draws.append(call[2]))

    loss = distiller(student, teacher, masks, batch)
    # Parameters too: the distiller's own layers must learn from the selected samples alone.
    sources = [*student, *(p for p in distiller.parameters() if p.requires_grad)]
    got = torch.autograd.grad(loss, sources, retain_graph=True)
    # And the teacher's features, for strategies that train it; AB's loss only asks for their sign.
    got += torch.autograd.grad(loss, teacher, allow_unused=True, materialize_grads=True)
    sources += teacher
    memories = {"memory_s": before.get("memory_student"), "memory_t": before.get("memory_teacher")}
    crd = memories | {"drawn": rows(draws[0]), "z": None} if draws else None
    expected = subset_loss(name, distiller, student, teacher, masks, batch, crd)
    wanted = torch.autograd.grad(expected, sources, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-13)
    for g, w in zip(got, wanted, strict=True):
        assert torch.isfinite(g).all()
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)
    if kind == "none":
        assert loss.item() == 0
        assert not any(g.any() for g in got)
    if kind in ("some", "all"):
        assert all(g.any() for g in got[: len(student)])


# Features as they come out of ReLUs, and worse: each changes a batch of maps, tokens or vectors in place.


def a_sample_of_zeros(f: Tensor) -> None:
    f[2] = 0


def duplicates(f: Tensor) -> None:
    f[5] = f[6]


def nearly_duplicates(f: Tensor) -> None:
    f[5] = f[6] * (1 + 1e-7)  # equal but for rounding: the published form of RKD divides by that and reaches 1e11


def close_samples(f: Tensor) -> None:
    f[5] = f[6] * 1.001


def equal_samples(f: Tensor) -> None:
    f[:] = f[:1].clone()


def equal_numbers(f: Tensor) -> None:
    f[:] = 0.37


def dead_channels(f: Tensor) -> None:
    f[:, 1:] = 0


def flat_maps(f: Tensor) -> None:
    if f.dim() == 4:  # matrices of rank one
        f[:] = f[:, :, :1, :1].clone()


def equal_singular_values(f: Tensor) -> None:
    if f.dim() == 4:
        f[:] = torch.eye(f.shape[1], f.shape[2] * f.shape[3]).view(f.shape[1:])


def nearly_equal_singular_values(f: Tensor) -> None:
    if f.dim() == 4:  # equal but for rounding, which the derivative of an eigenvector divides by
        generator = torch.Generator().manual_seed(4)
        random = torch.randn(len(f), max(f.shape[1], f[0, 0].numel()), f.shape[1], generator=generator)
        f[:] = torch.linalg.qr(random).Q[:, : f[0, 0].numel()].transpose(1, 2).reshape(f.shape)


TRAPS = (
    a_sample_of_zeros,
    duplicates,
    nearly_duplicates,
    close_samples,
    equal_samples,
    equal_numbers,
    dead_channels,
    flat_maps,
    equal_singular_values,
    nearly_equal_singular_values,
)


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("name", DISTILLERS)
def test_gradients_stay_bounded(name: str, trap: Callable[[Tensor], None]) -> None:
    """In float32, with the trap in either network and in both."""
    shapes = shapes_for(name)
    # BatchNorm of a batch without any variation multiplies by 1 / sqrt(1e-5), and ReviewKD has two in a row.
    bound = 1e4 if trap in (equal_samples, equal_numbers) else 1e3
    for where in ("student", "teacher", "both"):
        distiller = build(name).float()
        student, teacher, batch = inputs(distiller, *shapes, relu=True)
        student, teacher = [s.detach().float() for s in student], [t.float() for t in teacher]
        for f in [*(student if where != "teacher" else ()), *(teacher if where != "student" else ())]:
            trap(f)
        sources = [*(s.requires_grad_() for s in student), *(p for p in distiller.parameters() if p.requires_grad)]
        loss = distiller(student, teacher, torch.ones(B, len(student)), batch)
        assert torch.isfinite(loss)
        assert all(g.abs().max() < bound for g in torch.autograd.grad(loss, sources))


def from_state(distiller: Distiller, state: dict[str, Tensor], *arguments: Any) -> Tensor:
    """A call from this state, which it leaves alone, and with the same random numbers each time."""
    torch.manual_seed(3)
    loss: Tensor = functional_call(distiller, {key: value.clone() for key, value in state.items()}, arguments)
    return loss


def trained(name: str) -> tuple[Distiller, dict[str, Tensor]]:
    """A distiller that has seen a batch, so that what it gathers in training is there, and its state."""
    distiller = build(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    distiller(student, teacher, torch.ones(B, len(student)), batch)
    return distiller, copy.deepcopy(distiller.state_dict())


def narrowed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize("name", DISTILLERS)
def test_half_precision_features_lose_only_their_own_rounding(name: str) -> None:
    distiller, state = trained(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    mask = masks_of("some", len(student))
    rounded = [s.bfloat16().double() for s in student], [t.bfloat16().double() for t in teacher]
    exact = from_state(distiller, state, *rounded, mask, batch)
    with torch.autocast("cpu", torch.bfloat16):
        features = [s.bfloat16() for s in student], [t.bfloat16() for t in teacher]
        half = from_state(distiller, narrowed(state), *features, mask, batch)
    assert half.dtype == torch.float32
    learned = any(True for _ in distiller.parameters())  # a regressor computes in bfloat16 itself
    torch.testing.assert_close(half.double(), exact, rtol=2e-2 if learned else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DISTILLERS)
def test_gradient_is_the_derivative(name: str) -> None:
    # Finite differences never meet the points where a loss has a kink: random features lie on none of them.
    distiller, state = trained(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    mask = masks_of("some", len(student))
    assert torch.autograd.gradcheck(
        lambda *features: from_state(distiller, state, features, teacher, mask, batch), tuple(student), fast_mode=True
    )


@pytest.mark.parametrize("name", DISTILLERS)
def test_state_survives_saving(name: str) -> None:
    distiller, state = trained(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = build(name, seed=1)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    losses = []
    for one in (distiller, fresh):
        torch.manual_seed(3)
        losses.append(one(student, teacher, masks_of("some", len(student)), batch))
    assert torch.equal(*losses)
    after, wanted = fresh.state_dict(), distiller.state_dict()
    assert after.keys() == wanted.keys()
    assert all(torch.equal(after[key], wanted[key]) for key in after)


@pytest.mark.parametrize("name", DISTILLERS)
def test_a_last_batch_of_one(name: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    one = Batch(batch.images[:1], batch.labels[:1], None if batch.indices is None else batch.indices[:1])
    loss = distiller([s[:1] for s in student], [t[:1] for t in teacher], torch.ones(1, len(student)), one)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, student))
