"""Weights between zero and one, and above: each sample's own losses, and what a weight means to every distiller.

The references are loops over samples, pairs and triples in float64; nothing is imported from the code under test.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spotkd import DISTILLERS, Batch
from spotkd.distillers import Distiller, LogitDistiller
from spotkd.errors import SpotkdError

from .common import CONSECUTIVE, VARIANTS, B, build, extras, inputs, shapes_for, through_own_layers
from .references import REFERENCES

WEIGHTS = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.25, 0.0, 1.5, 0.75, 0.1], dtype=torch.float64)


def weighted_sp(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    def row(x: Tensor, b: int) -> list[Tensor]:
        length = sum(w[c] * (x[b].flatten() @ x[c].flatten()) ** 2 for c in range(B)) ** 0.5
        return [x[b].flatten() @ x[c].flatten() / length for c in range(B)]

    pairs = itertools.product(range(B), repeat=2)
    return torch.stack([w[b] * w[c] * (row(t, b)[c] - row(s, b)[c]) ** 2 for b, c in pairs]).sum() / w.sum() ** 2


def weighted_pkt(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    def neighbours(x: Tensor, b: int) -> Tensor:
        unit = [row / (row.norm() + 1e-7) for row in x]
        similar = torch.stack([w[c] * (unit[b] @ unit[c] + 1) / 2 for c in range(B)])
        return similar / similar.sum()

    def divergence(b: int) -> Tensor:
        p_s, p_t = neighbours(s, b), neighbours(t, b)
        return (p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log()).sum()

    return torch.stack([w[b] * divergence(b) for b in range(B)]).sum() / w.sum() ** 2


def weighted_rkd(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    pairs = list(itertools.product(range(B), repeat=2))

    def distances(x: Tensor) -> dict[tuple[int, int], Tensor]:
        plain = {(i, j): (x[i] - x[j]).norm() if i != j else x.new_zeros(()) for i, j in pairs}
        mean = sum(w[i] * w[j] * plain[i, j] for i, j in pairs) / sum(w[i] * w[j] for i, j in pairs if i != j)
        return {pair: length / mean for pair, length in plain.items()}

    def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
        return x.new_zeros(()) if i in (j, k) else F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)

    near, far = distances(s), distances(t)
    by_distance = sum(w[i] * w[j] * F.smooth_l1_loss(near[i, j], far[i, j]) for i, j in pairs) / w.sum() ** 2
    triples = itertools.product(range(B), repeat=3)
    angles = [w[i] * w[j] * w[k] * F.smooth_l1_loss(cosine(s, i, j, k), cosine(t, i, j, k)) for i, j, k in triples]
    return 25 * by_distance + 50 * torch.stack(angles).sum() / w.sum() ** 3


def weighted_cc(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    chosen = [b for b in range(B) if w[b] > 0]
    delta = (s - t).abs()
    pairs = list(itertools.pairwise(chosen))
    return sum((w[b] * w[c] * (delta[b] @ delta[c]) for b, c in pairs), torch.zeros(())) / sum(
        w[b] * w[c] for b, c in pairs
    )


def weighted_dist(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    p_s, p_t = F.softmax(s / 4, 1), F.softmax(t / 4, 1)

    def correlation(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        x, y = x - (w * x).sum() / w.sum(), y - (w * y).sum() / w.sum()
        return (w * x * y).sum() / ((w * x * x).sum() * (w * y * y).sum()) ** 0.5

    ones = torch.ones(p_s.shape[1], dtype=torch.float64)
    inter = sum(w[b] * (1 - correlation(p_s[b], p_t[b], ones)) for b in range(B)) / w.sum()
    intra = torch.stack([1 - correlation(p_s[:, c], p_t[:, c], w) for c in range(p_s.shape[1])]).mean()
    return 16 * (2 * inter + 2 * intra)


RELATIONAL: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sp": weighted_sp,
    "pkt": weighted_pkt,
    "rkd": weighted_rkd,
    "cc": weighted_cc,
    "dist": weighted_dist,
}
SEPARATE = [name for name in DISTILLERS if name not in (*RELATIONAL, *CONSECUTIVE, "crd")]


def single_losses(name: str, distiller: Distiller, student: list[Tensor], teacher: list[Tensor], b: Batch) -> Tensor:
    """``(B, K)`` by the references, from one sample at a time."""
    ours, theirs = through_own_layers(name, distiller, student, teacher)
    columns = []
    for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        scale = 2.0 ** (i - len(student) + 1) if name in ("ab", "ofd") else 1.0
        rows = []
        for n in range(B):
            more = extras(name, distiller, teacher, i) | ({"labels": b.labels[n : n + 1]} if name == "dkd" else {})
            rows.append(scale * REFERENCES[name](s[n : n + 1], t[n : n + 1], **more))
        columns.append(torch.stack(rows))
    return torch.stack(columns, dim=1)


def weights_for(spots: int) -> Tensor:
    return torch.stack([WEIGHTS.roll(spot) for spot in range(spots)], dim=1)


@pytest.mark.distillers("all")
def test_every_distiller_is_tested_here() -> None:
    assert {*SEPARATE, *RELATIONAL, *CONSECUTIVE, "crd"} == set(DISTILLERS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shares_of_the_samples_add_up_to_the_loss(variant: str) -> None:
    distiller = build(variant)
    student, teacher, batch = inputs(distiller, *shapes_for(VARIANTS[variant][0]))
    twin = copy.deepcopy(distiller)  # a memory moves, and negatives are drawn
    torch.manual_seed(3)
    shares = distiller.sample_losses(student, teacher, batch)
    torch.manual_seed(3)
    whole = twin(student, teacher, torch.ones(B, len(distiller.spots), dtype=torch.float64), batch)
    assert shares.shape == (B, len(distiller.spots))
    torch.testing.assert_close(shares.mean(0).sum(), whole, rtol=1e-10, atol=1e-13)
    assert (shares > -1e-12).all()


@pytest.mark.parametrize("name", SEPARATE)
def test_a_separate_loss_is_a_weighted_mean_of_single_samples(name: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    expected = single_losses(name, distiller, student, teacher, batch)
    torch.testing.assert_close(distiller.sample_losses(student, teacher, batch), expected, rtol=1e-9, atol=1e-12)
    weights = weights_for(len(distiller.spots))
    loss = distiller(student, teacher, weights, batch)
    wanted = (weights * expected).sum() / B
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
    got, reference = (torch.autograd.grad(x, student, retain_graph=True, allow_unused=True) for x in (loss, wanted))
    for g, r in zip(got, reference, strict=True):
        torch.testing.assert_close(g, r, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", CONSECUTIVE)
def test_a_term_between_two_spots_counts_with_both_weights(name: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    weights = weights_for(len(distiller.spots))
    expected = torch.zeros((), dtype=torch.float64)
    for k, b in itertools.product(range(len(student) - 1), range(B)):
        four = (x[b : b + 1] for x in (student[k], student[k + 1], teacher[k], teacher[k + 1]))
        expected = expected + weights[b, k] * weights[b, k + 1] * REFERENCES[name](*four) / B
    torch.testing.assert_close(distiller(student, teacher, weights, batch), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RELATIONAL)
def test_a_relation_counts_with_the_product_of_the_weights(name: str) -> None:
    distiller = build(name)
    student, teacher, batch = inputs(distiller, *shapes_for(name))
    loss = distiller(student, teacher, weights_for(1), batch)
    (s,), (t,) = through_own_layers(name, distiller, student, teacher)
    expected = WEIGHTS.sum() / B * RELATIONAL[name](s, t, WEIGHTS)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    (got,), (wanted,) = (torch.autograd.grad(x, student, retain_graph=True) for x in (loss, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-11)


@pytest.mark.distillers("crd")
def test_crd_is_a_weighted_mean_too() -> None:
    distiller = build("crd")
    student, teacher, batch = inputs(distiller, *shapes_for("crd"))
    distiller(student, teacher, torch.ones(B, 1, dtype=torch.float64), batch)  # the normalisers are known from here on
    distiller.start_epoch(2, 4)
    twin = copy.deepcopy(distiller)
    torch.manual_seed(3)
    shares = distiller.sample_losses(student, teacher, batch)[:, 0]
    torch.manual_seed(3)
    loss = twin(student, teacher, WEIGHTS[:, None], batch)
    torch.testing.assert_close(loss, (WEIGHTS * shares).sum() / B, rtol=1e-10, atol=1e-13)


@pytest.mark.distillers("all")
def test_one_that_gives_no_single_losses_says_so() -> None:
    class Whole(LogitDistiller):
        def loss(self, student: Tensor, teacher: Tensor, mask: Tensor, batch: Batch) -> Tensor:
            return (mask[:, None] * (student - teacher).square()).sum() / len(mask)

    distiller = Whole(*shapes_for("kd"))
    student, teacher, batch = inputs(distiller, *shapes_for("kd"))
    with pytest.raises(SpotkdError, match=r"Whole gives no losses of single samples.*sample_losses\(\)"):
        distiller.sample_losses(student, teacher, batch)
