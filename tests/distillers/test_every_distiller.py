"""One test for every entry of the registry: masked equals subset, in value and gradient, for every kind of mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spotkd import DISTILLERS, Batch
from spotkd.distillers import Distiller

from .subsets import REFERENCES

STUDENT = ((4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2), (8,), (5,))
TEACHER = ((4, 8, 8), (5, 8, 8), (7, 8, 8), (9, 2, 2), (9,), (5,))  # one map is larger than the student's
B = 9
MASKS = {
    "none": torch.zeros(B),
    "one": torch.eye(B)[3],
    "two": torch.eye(B)[3] + torch.eye(B)[7],
    "some": torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 1]),
    "all": torch.ones(B),
}


def build(name: str) -> Distiller:
    torch.manual_seed(0)
    return DISTILLERS[name](STUDENT, TEACHER).double().train()


def inputs(distiller: Distiller, relu: bool = False) -> tuple[list[Tensor], list[Tensor], Batch]:
    generator = torch.Generator().manual_seed(1)

    def features(shapes: tuple[tuple[int, ...], ...], at: list[int]) -> list[Tensor]:
        made = [torch.randn(B, *shapes[i], generator=generator, dtype=torch.float64) for i in at]
        return [f.relu() for f in made] if relu else made

    student = [f.requires_grad_() for f in features(STUDENT, [s for s, _ in distiller.spots])]
    teacher = features(TEACHER, [t for _, t in distiller.spots])
    images = torch.zeros(B, 3, 8, 8, dtype=torch.float64)
    return student, teacher, Batch(images, torch.arange(B) % 5, torch.arange(B))


def subset_loss(name: str, distiller: Distiller, student: list[Tensor], teacher: list[Tensor], masks: Tensor) -> Tensor:
    """The sum over spots of n / B times the reference loss of the selected samples."""
    if name == "fitnet":  # the regressor sees the whole batch first
        student = [distiller.regressor(student[0])]  # type: ignore[operator]
    total = student[0].sum() * 0
    for s, t, mask in zip(student, teacher, masks.unbind(1), strict=True):
        chosen = mask.bool()
        if count := int(chosen.sum()):
            total = total + count / B * REFERENCES[name]([s[chosen]], [t[chosen]])
    return total


def test_every_entry_has_a_reference() -> None:
    assert set(DISTILLERS) == set(REFERENCES)


@pytest.mark.parametrize("kind", [*MASKS, "mixed"])
@pytest.mark.parametrize("name", DISTILLERS)
def test_masked_is_subset(name: str, kind: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller)
    count = len(distiller.spots)
    kinds = [list(MASKS)[(i + 1) % 5] for i in range(count)] if kind == "mixed" else [kind] * count
    masks = torch.stack([MASKS[k] for k in kinds], dim=1)

    loss = distiller(student, teacher, masks, batch)
    # Parameters too: the distiller's own regressor must learn from the selected samples alone.
    sources = [*student, *distiller.parameters()]
    got = torch.autograd.grad(loss, sources)
    expected = subset_loss(name, distiller, student, teacher, masks)
    wanted = torch.autograd.grad(expected, sources, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-13)
    for g, w in zip(got, wanted, strict=True):
        assert torch.isfinite(g).all()
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)
    if kind == "none":
        assert loss.item() == 0
        assert not any(g.any() for g in got)


@pytest.mark.parametrize("name", DISTILLERS)
def test_zero_and_duplicate_features_stay_bounded(name: str) -> None:
    """ReLU features produce rows of zeros and, with equal images, duplicates; the published forms explode there."""
    distiller = build(name).float()
    student, teacher, batch = inputs(distiller, relu=True)
    for features in (student, teacher):
        for f in features:
            f.detach()[2] = 0
            f.detach()[5] = f.detach()[6]
    student = [f.detach().float().requires_grad_() for f in student]
    teacher = [f.float() for f in teacher]
    loss = distiller(student, teacher, torch.ones(B, len(student)), batch)
    gradients = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert all(g.abs().max() < 1e3 for g in gradients)


@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-3])
def test_near_duplicates_stay_bounded(apart: float) -> None:
    """Equal but for rounding: the published form of RKD divides by that distance and reaches 1e11."""
    distiller = build("rkd").float()
    student, teacher, batch = inputs(distiller, relu=True)
    near = student[0].detach().float()
    near[5] = near[6] + apart
    near.requires_grad_()
    (gradient,) = torch.autograd.grad(distiller([near], [teacher[0].float()], torch.ones(B, 1), batch), near)
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize("name", DISTILLERS)
def test_half_precision_features_lose_only_their_own_rounding(name: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller)
    mask = torch.stack([MASKS["some"]] * len(student), dim=1)
    exact = distiller([s.bfloat16().double() for s in student], [t.bfloat16().double() for t in teacher], mask, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = distiller.float()([s.bfloat16() for s in student], [t.bfloat16() for t in teacher], mask, batch)
    assert half.dtype == torch.float32
    learned = any(True for _ in distiller.parameters())  # a regressor computes in bfloat16 itself
    torch.testing.assert_close(half.double(), exact, rtol=2e-2 if learned else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DISTILLERS)
def test_gradient_is_the_derivative(name: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller)
    mask = torch.stack([MASKS["some"]] * len(student), dim=1)

    def loss(*features: Tensor) -> Tensor:
        value: Tensor = distiller(features, teacher, mask, batch)
        return value

    assert torch.autograd.gradcheck(loss, tuple(student), fast_mode=True)


@pytest.mark.parametrize("name", DISTILLERS)
def test_weights_are_the_papers(name: str) -> None:
    published = {"kd": 1, "fitnet": 1, "at": 1000, "sp": 3000, "rkd": 1}
    assert build(name).default_weight == published[name]


@pytest.mark.parametrize(
    ("name", "spots"),
    [("kd", [(5, 5)]), ("fitnet", [(2, 2)]), ("at", [(1, 1), (2, 2), (3, 3)]), ("sp", [(3, 3)]), ("rkd", [(4, 4)])],
)
def test_spots(name: str, spots: list[tuple[int, int]]) -> None:
    assert list(build(name).spots) == spots


def test_spots_are_found_in_each_network_by_itself() -> None:
    longer = (*TEACHER[:4], (9, 2, 2), *TEACHER[4:])
    assert DISTILLERS["sp"](STUDENT, longer).spots == ((3, 4),)
    assert DISTILLERS["rkd"](STUDENT, longer).spots == ((4, 5),)
    assert DISTILLERS["kd"](STUDENT, longer).spots == ((5, 6),)
    assert DISTILLERS["at"](STUDENT, longer).spots == ((1, 1), (2, 2), (3, 3))
