"""What the papers say of single losses beyond their formula: constants, identities, invariances, preparations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spotkd import DISTILLERS, Batch
from spotkd.distillers import LogitDistiller
from spotkd.distillers.base import standardise_logits
from spotkd.distillers.dist import dist_loss
from spotkd.distillers.dkd import dkd_loss
from spotkd.distillers.kd import kd_loss
from spotkd.distillers.kdsvd import directions
from spotkd.distillers.nst import nst_loss
from spotkd.distillers.vid import vid_loss

from .common import MASKS, NARROW, WIDE, B, build, inputs
from .test_spots import FIVE


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# NST.


@pytest.mark.distillers("nst")
@pytest.mark.parametrize(
    ("shape_s", "shape_t"),
    [
        ((3, 6, 6), (4, 6, 6)),  # more positions than channels: Gram matrices of the channels
        ((20, 2, 2), (30, 2, 2)),  # more channels than positions: Gram matrices of the positions
        ((20, 2, 2), (3, 5, 5)),
    ],
)
def test_nst_is_the_published_product(shape_s: tuple[int, ...], shape_t: tuple[int, ...]) -> None:
    s, t = random(B, *shape_s), random(B, *shape_t, seed=1)
    size = min(shape_s[1], shape_t[1])
    p_s, p_t = (F.normalize(F.adaptive_avg_pool2d(f, size).flatten(2), dim=2) for f in (s, t))

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        broadcast = p.unsqueeze(2) * q.unsqueeze(1)  # [n, C, C, HW]
        return broadcast.sum(-1).pow(2).mean((1, 2))

    expected = kernel(p_t, p_t) + kernel(p_s, p_s) - 2 * kernel(p_s, p_t)
    torch.testing.assert_close(nst_loss(s, t), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.distillers("nst")
def test_nst_of_equal_patterns_is_zero() -> None:
    """Channels need not correspond: the order and the scale of each are of no account."""
    t = random(B, 6, 4, 4)
    s = t[:, torch.randperm(6)] * torch.tensor([3, 0.1, 1, 7, 2, 0.5])[None, :, None, None]
    assert nst_loss(s, t).abs().max() < 1e-15


# VID.


@pytest.mark.distillers("vid")
def test_vid_begins_with_variance_five() -> None:
    distiller = DISTILLERS["vid"](NARROW, WIDE)
    for i, channels in enumerate((5, 7, 9)):
        log_scale = distiller.get_parameter(f"log_scales.{i}")
        assert log_scale.shape == (channels,)
        assert log_scale.unique().item() == pytest.approx(4.9932294, abs=1e-6)
    difference = vid_loss(torch.ones(1, 5, 2, 2), torch.zeros(1, 5, 2, 2), distiller.get_parameter("log_scales.0"))
    assert difference.item() == pytest.approx(0.5 * (1 / 5 + math.log(5)), rel=1e-6)


@pytest.mark.distillers("vid")
def test_vid_has_no_bias() -> None:
    shapes = [tuple(p.shape) for p in DISTILLERS["vid"](NARROW, WIDE).get_submodule("regressors.0").parameters()]
    assert shapes == [(5, 4, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]


# FT.


@pytest.mark.distillers("ft")
def test_ft_names_its_layers_as_published() -> None:
    names = set(DISTILLERS["ft"](NARROW, WIDE).state_dict())
    paraphraser = {
        f"paraphraser.{half}.{i}.{kind}"
        for half in ("encoder", "decoder")
        for i in (0, 3, 6)
        for kind in ("weight", "bias")
    }
    convolutions = {f"translator.encoder.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")}
    of_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = {f"translator.encoder.{i}.{kind}" for i in (1, 4, 7) for kind in of_norm}
    assert names == paraphraser | convolutions | norms


@pytest.mark.distillers("ft")
def test_ft_shapes_follow_the_rate() -> None:
    weights = {
        key: tuple(p.shape[:2])
        for key, p in DISTILLERS["ft"](NARROW, WIDE, rate=0.42).state_dict().items()
        if p.dim() == 4
    }
    assert weights == {  # 9 channels of the teacher, int(0.42 * 9) = 3 factors, 8 channels of the student
        "paraphraser.encoder.0.weight": (9, 9),
        "paraphraser.encoder.3.weight": (3, 9),
        "paraphraser.encoder.6.weight": (3, 3),
        "paraphraser.decoder.0.weight": (3, 3),  # a transposed convolution: in, out
        "paraphraser.decoder.3.weight": (3, 9),
        "paraphraser.decoder.6.weight": (9, 9),
        "translator.encoder.0.weight": (8, 8),
        "translator.encoder.3.weight": (3, 8),
        "translator.encoder.6.weight": (3, 3),
    }


@pytest.mark.distillers("ft")
def test_ft_reconstructs_the_teachers_map() -> None:
    distiller = build("ft")
    _, (t,), _ = inputs(distiller, NARROW, WIDE)
    x, w = t, dict(distiller.named_parameters())
    for half, convolution in (("encoder", F.conv2d), ("decoder", F.conv_transpose2d)):
        for i in (0, 3, 6):
            name = f"paraphraser.{half}.{i}"
            x = F.leaky_relu(convolution(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1), 0.1)
    torch.testing.assert_close(distiller.preparation_loss([], [t]), (x - t).pow(2).mean(), rtol=1e-12, atol=0)


@pytest.mark.distillers("ft")
def test_ft_trains_its_paraphraser_in_the_preparation_alone() -> None:
    distiller = build("ft")
    paraphraser, translator = distiller.get_submodule("paraphraser"), distiller.get_submodule("translator")
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    assert not any(p.requires_grad for p in paraphraser.parameters())
    distiller(student, teacher, MASKS["all"][:, None], batch).backward()
    assert all(p.grad is None for p in paraphraser.parameters())
    assert all(p.grad is not None for p in translator.parameters())

    distiller.zero_grad()
    assert distiller.prepared_modules() == [paraphraser]
    paraphraser.requires_grad_()
    distiller.preparation_loss([], teacher).backward()
    assert all(p.grad is not None and p.grad.any() for p in paraphraser.parameters())
    assert all(p.grad is None for p in translator.parameters())


# AB.


@pytest.mark.distillers("ab")
def test_ab_prepares_with_the_loss_of_everybody() -> None:
    distiller = build("ab")
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    ones = torch.ones(B, len(student))
    loss = distiller.preparation_loss(student, teacher)
    assert torch.equal(loss, distiller(student, teacher, ones, batch))
    gradients = torch.autograd.grad(loss, [*student, *distiller.parameters()])
    assert all(g.any() for g in gradients)
    assert distiller.prepared_modules() == [distiller.get_submodule("connectors")]


@pytest.mark.distillers("ab")
def test_ab_connects_only_what_differs() -> None:
    other = (*FIVE[:2], (96, 16, 16), *FIVE[3:])
    connectors = DISTILLERS["ab"](other, FIVE).get_submodule("connectors")
    assert [any(True for _ in c.parameters()) for c in connectors.children()] == [False, True, False]
    assert connectors.get_submodule("1")(torch.randn(2, 96, 16, 16)).min() < 0  # no ReLU


@pytest.mark.distillers("ab")
def test_ab_is_zero_beyond_the_margin() -> None:
    distiller = DISTILLERS["ab"](FIVE, FIVE)
    maps = [random(2, *FIVE[i], seed=i).float() for i in (1, 2, 3)]
    right = [torch.where(t > 0, 1.0001 + t, -1.0001 + t) for t in maps]
    batch = Batch(torch.zeros(2, 3, 32, 32), torch.zeros(2))
    assert distiller(right, maps, torch.ones(2, 3), batch) == 0
    assert distiller([-r for r in right], maps, torch.ones(2, 3), batch) > 0


@pytest.mark.parametrize("name", DISTILLERS)
def test_preparations_and_views(name: str) -> None:
    distiller = build(name)
    preparation = distiller.preparation
    assert (preparation is not None) == (name in ("ft", "ab"))
    assert distiller.before_relu == (name in ("ab", "ofd", "reviewkd"))
    if preparation is None:
        assert distiller.prepared_modules() == []
    else:
        assert preparation.share == 30 / 240
        assert (preparation.lr, preparation.momentum, preparation.weight_decay) == (0.01, 0.9, 5e-4)
        assert preparation.trains_student == (name == "ab")


# OFD.


@pytest.mark.distillers("ofd")
def test_ofd_margins_are_means_over_all_training_batches() -> None:
    distiller = build("ofd")
    student, _, batch = inputs(distiller, NARROW, WIDE)
    masks = torch.stack([MASKS["one"]] * 3, dim=1)  # margins count unselected samples too
    teachers = [[random(B, *WIDE[i], seed=10 * k + i) - 0.3 * k for i in (1, 2, 3)] for k in range(3)]
    for teacher in teachers:
        distiller(student, teacher, masks, batch)
    state = {key: value.clone() for key, value in distiller.state_dict().items()}
    distiller.eval()
    distiller(student, [t - 5 for t in teachers[0]], masks, batch)
    for i in range(3):
        values = torch.cat([teacher[i] for teacher in teachers]).transpose(0, 1).flatten(1)
        expected = torch.stack([v[v < 0].mean() for v in values])
        margin = distiller.get_submodule(f"margins.{i}")(teachers[0][i])
        torch.testing.assert_close(margin, expected, rtol=1e-12, atol=0)
    assert all(torch.equal(value, state[key]) for key, value in distiller.state_dict().items())


@pytest.mark.distillers("ofd")
def test_ofd_margin_without_negative_values_is_zero() -> None:
    margin = build("ofd").get_submodule("margins.0")
    assert not margin(random(B, 5, 8, 8).abs()).any()


# CC.


@pytest.mark.distillers("cc")
@pytest.mark.parametrize("train_teacher", [False, True])
def test_cc_trains_the_teachers_layer_on_request(train_teacher: bool) -> None:
    distiller = DISTILLERS["cc"](NARROW, WIDE, train_teacher=train_teacher).double()
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    distiller(student, teacher, MASKS["some"][:, None], batch).backward()
    assert distiller.get_parameter("embed_student.weight").grad is not None
    assert (distiller.get_parameter("embed_teacher.weight").grad is not None) == train_teacher
    assert distiller.get_parameter("embed_teacher.weight").shape == (128, 9)


# DKD.


@pytest.mark.distillers("dkd")
def test_dkd_takes_kd_apart() -> None:
    """KD = TCKD + (1 - p_t) NCKD, with p_t the teacher's probability of the label."""
    s, t, labels = 5 * random(B, 6), 5 * random(B, 6, seed=1), torch.arange(B) % 6
    tckd, nckd = dkd_loss(s, t, labels, 4.0, 1.0, 0.0), dkd_loss(s, t, labels, 4.0, 0.0, 1.0)
    p_t = F.softmax(t / 4, 1)[torch.arange(B), labels]
    torch.testing.assert_close(tckd + (1 - p_t) * nckd, kd_loss(s, t, 4.0), rtol=1e-10, atol=1e-13)


@pytest.mark.distillers("dkd")
def test_dkd_ignores_the_labels_logit_among_the_others() -> None:
    s, t, labels = random(B, 6), random(B, 6, seed=1), torch.arange(B) % 6
    changed = s + 9 * F.one_hot(labels, 6)
    nckd = dkd_loss(s, t, labels, 4.0, 0.0, 1.0)
    torch.testing.assert_close(dkd_loss(changed, t, labels, 4.0, 0.0, 1.0), nckd, rtol=1e-12, atol=1e-15)


@pytest.mark.distillers("dkd")
def test_dkd_of_a_sure_teacher_is_exact() -> None:
    """Label probabilities within 1e-7 of one, in float32: the others' share is not lost to rounding."""
    labels = torch.tensor([2])
    s, t = torch.tensor([[0.0, 1, 70, 2]]), torch.tensor([[1.0, 0, 66, 3]])
    expected = dkd_loss(s.double(), t.double(), labels, 4.0, 1.0, 8.0)
    torch.testing.assert_close(dkd_loss(s, t, labels, 4.0, 1.0, 8.0).double(), expected, rtol=1e-5, atol=0)


# DIST.


def blended(p: Tensor, share: Tensor | float) -> Tensor:
    """Logits at temperature 4 of probabilities blended with uniform ones: scaled and shifted, still a distribution."""
    return 4 * ((1 - share) * p + share / p.shape[1]).log()


@pytest.mark.distillers("dist")
def test_dist_does_not_see_scale_and_shift() -> None:
    t = 3 * random(B, 6)
    p, ones = F.softmax(t / 4, 1), torch.ones(B)
    assert dist_loss(blended(p, 0.7), t, ones, 4.0, 2.0, 2.0).abs() < 1e-12
    # Where each sample has a scale of its own, classes of one sample still go together, samples of one class do not.
    by_sample = blended(p, torch.linspace(0.1, 0.9, B, dtype=p.dtype)[:, None])
    assert dist_loss(by_sample, t, ones, 4.0, 2.0, 0.0).abs() < 1e-12
    assert dist_loss(by_sample, t, ones, 4.0, 0.0, 2.0) > 1e-3


@pytest.mark.distillers("dist")
def test_dist_of_opposites_is_its_largest_value() -> None:
    """Correlation -1 everywhere: both terms are 2, so tau^2 (2 * 2 + 2 * 2)."""
    p = F.softmax(0.1 * random(B, 6), 1)
    loss = dist_loss(4 * (2 / 6 - p).log(), 4 * p.log(), torch.ones(B), 4.0, 2.0, 2.0)
    assert loss.item() == pytest.approx(16 * 8, rel=1e-12)


@pytest.mark.distillers("dist")
def test_dist_of_constant_probabilities_has_no_gradient() -> None:
    """Correlation 0 by definition, not that of rounding errors."""
    t = random(B, 10, seed=1).float()
    equal_classes = torch.full((B, 10), 0.37, requires_grad=True)
    loss = dist_loss(equal_classes, t, torch.ones(B), 4.0, 2.0, 2.0)
    assert loss.item() == pytest.approx(16 * 4)
    assert not torch.autograd.grad(loss, equal_classes)[0].any()
    equal_samples = random(1, 10).float().expand(B, 10).clone().requires_grad_()
    loss = dist_loss(equal_samples, t, torch.ones(B), 4.0, 0.0, 2.0)
    assert loss.item() == pytest.approx(16 * 2)
    assert not torch.autograd.grad(loss, equal_samples)[0].any()


# KDSVD.


@pytest.mark.distillers("kdsvd")
@pytest.mark.parametrize("size", [2, 5])
def test_kdsvd_does_not_see_scale_and_sign(size: int) -> None:
    s, t = random(B, 9, size, size), random(B, 9, size, size, seed=1)
    v_s, v_t = directions(s, t)
    for factor in (-1.0, 100.0, 1e-3):
        for got, wanted in zip(directions(factor * s, -factor * t), (v_s, v_t), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    assert (v_t.sum(1) >= 0).all()
    assert ((v_s * v_t).sum(1) >= 0).all()


@pytest.mark.distillers("kdsvd")
def test_kdsvd_takes_the_candidate_nearest_to_the_teachers() -> None:
    """The student's third direction is the teacher's first; its fifth would be nearer, but only four are looked at."""
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    sides = torch.linalg.qr(torch.randn(36, 9, dtype=torch.float64)).Q
    teacher = q[:, 2] + 2 * q[:, 4]

    def matrix(values: list[float]) -> Tensor:  # HW x C with these singular values and the columns of q
        rows = sides[:, : len(values)] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q[:, : len(values)].T
        return rows.T.reshape(1, 9, 6, 6)

    v_s, _ = directions(matrix([5, 4, 3, 2, 1]), (sides[:, :1] @ teacher[None]).T.reshape(1, 9, 6, 6))
    torch.testing.assert_close((v_s[0] @ q[:, 2]).abs(), torch.ones((), dtype=torch.float64))


# Logits brought to mean 0 and deviation 1.


@pytest.mark.distillers("kd", "dkd", "dist")
def test_standardised_is_the_z_score() -> None:
    x = 3 * random(B, 7) + 5
    torch.testing.assert_close(standardise_logits(x), (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))
    assert torch.allclose(standardise_logits(x).std(1), torch.ones(B, dtype=x.dtype))  # unbiased


@pytest.mark.distillers("kd", "dkd", "dist")
@pytest.mark.parametrize("classes", [2, 10, 100, 200])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-3, 7.3, -3.3e3])
def test_standardised_constants_are_zeros(value: float, classes: int) -> None:
    """Not the rounding errors of their mean, brought to deviation 1."""
    x = torch.full((B, classes), value, requires_grad=True)
    y = standardise_logits(x)
    assert not y.any()
    assert not torch.autograd.grad(y[:, 0].sum(), x)[0].any()


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_standardised_logits_have_no_scale(name: str) -> None:
    distiller = build(name)
    assert isinstance(distiller, LogitDistiller)
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    mask = MASKS["some"][:, None]
    plain = distiller(student, teacher, mask, batch)
    distiller.standardise = True
    loss = distiller(student, teacher, mask, batch)
    by_hand = [[(f - f.mean(1, keepdim=True)) / f.std(1, keepdim=True) for f in side] for side in (student, teacher)]
    distiller.standardise = False
    torch.testing.assert_close(loss, distiller(*by_hand, mask, batch), rtol=1e-12, atol=0)
    distiller.standardise = True
    scales = 0.1 + random(B, 1, seed=5).abs()
    moved = distiller([scales * student[0] + 3], [7 * teacher[0] - scales], mask, batch)
    torch.testing.assert_close(moved, loss, rtol=1e-11, atol=0)
    assert not torch.isclose(plain, loss, rtol=1e-3)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_temperature_divides_both(name: str) -> None:
    """``tau^2`` times the loss of the divided logits at temperature 1."""
    student, teacher, batch = inputs(build(name), NARROW, WIDE)
    losses = []
    for temperature in (2.5, 1.0):
        distiller = build(name)
        assert isinstance(distiller, LogitDistiller)
        assert distiller.temperature == 4
        distiller.temperature = temperature
        features: list[Any] = [[f * temperature / 2.5 for f in side] for side in (student, teacher)]
        losses.append(distiller(*features, MASKS["some"][:, None], batch))
    torch.testing.assert_close(losses[0], 2.5**2 * losses[1], rtol=1e-12, atol=0)


# Warm-up.


@pytest.mark.parametrize(
    ("epochs", "ramps"),
    [
        (240, {1: 0.05, 10: 0.5, 19: 0.95, 20: 1, 21: 1, 240: 1}),
        (120, {1: 0.1, 9: 0.9, 10: 1, 120: 1}),
        (24, {1: 0.5, 2: 1, 3: 1}),
        (12, {1: 1, 12: 1}),
        (3, {1: 1, 2: 1, 3: 1}),
        (1, {1: 1}),
    ],
)
@pytest.mark.parametrize("name", DISTILLERS)
def test_warm_up(name: str, epochs: int, ramps: dict[int, float]) -> None:
    distiller = build(name)
    assert distiller.warmup_factor == 1
    for epoch, ramp in ramps.items():
        distiller.start_epoch(epoch, epochs)
        assert distiller.warmup_factor == pytest.approx(ramp if name in ("dkd", "reviewkd") else 1)
