"""The acceptance checks of one training step."""

from __future__ import annotations

import copy
import inspect
import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spotkd import DISTILLERS, STRATEGIES, Distiller, Losses, SpotKD, SpotkdError
from spotkd.routing import Decisions, Strategy
from spotkd.stages import Batch

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller

Pair = tuple[TinyNet, TinyNet]
FROZEN = [name for name in STRATEGIES if not STRATEGIES[name]().trains_teacher]
LEARNING = [name for name in FROZEN if STRATEGIES[name]().learns]


def build(pair: Pair, distiller: str = "at", strategy: str | Strategy = "adaptive", **options: Any) -> SpotKD:
    torch.manual_seed(7)
    common = {"image_shape": IMAGE_SHAPE, "labels": TRAINING_LABELS, "options": OPTIONS.get(distiller)}
    return SpotKD(*for_distiller(pair, distiller), distiller, strategy, **(common | options)).train()  # type: ignore[arg-type]


def losses_of(method: SpotKD, batch: Batch) -> Losses:
    torch.manual_seed(11)  # the noise of the decisions
    losses: Losses = method(batch)
    return losses


def gradients(method: SpotKD, loss: Tensor) -> dict[str, Tensor | None]:
    method.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in method.named_parameters()}


def is_policy_side(name: str) -> bool:
    return name.startswith(("policy.", "routing."))


def is_constant(method: SpotKD, name: str) -> bool:
    """Parts of a distiller that are not trained here: FT's paraphraser, CC's projection of the teacher."""
    return not method.get_parameter(name).requires_grad


@pytest.mark.parametrize("strategy", LEARNING)
@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_one_backward_is_two(distiller: str, strategy: str, pair: Pair, batch: Batch) -> None:
    """The total gives each side bit for bit the gradients of its own loss; the teacher gets none."""
    method = build(pair, distiller, strategy, gamma=2.0)
    total = gradients(method, losses_of(method, batch).total)
    for name, gradient in total.items():
        if name.startswith("teacher.") or is_constant(method, name):
            assert gradient is None
        else:
            assert gradient is not None, name
            assert torch.isfinite(gradient).all(), name
    for side in ("student", "policy"):
        fresh = build(pair, distiller, strategy, gamma=2.0)
        found = gradients(fresh, getattr(losses_of(fresh, batch), side))
        for name, gradient in found.items():
            constant = name.startswith("teacher.") or is_constant(fresh, name)
            if constant or is_policy_side(name) != (side == "policy"):
                assert gradient is None, f"{side}'s loss reaches {name}"
            else:
                expected = total[name]
                assert expected is not None
                assert gradient is not None
                assert torch.equal(gradient, expected), name


@pytest.mark.parametrize("strategy", FROZEN)
@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_two_steps_leave_the_teacher_alone(distiller: str, strategy: str, pair: Pair, batch: Batch) -> None:
    method = build(pair, distiller, strategy)
    before = copy.deepcopy(method.teacher.state_dict())
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
    for _ in range(2):
        losses = losses_of(method, batch)
        assert torch.isfinite(losses.total)
        optimizer.zero_grad()
        losses.total.backward()
        assert all(torch.isfinite(p.grad).all() for p in method.student.parameters() if p.grad is not None)
        optimizer.step()
    assert not method.teacher.training
    assert all(torch.equal(value, before[key]) for key, value in method.teacher.state_dict().items())


SEPARABLE = ["kd", "dkd", "fitnet", "at", "nst", "vid", "ft", "ab", "ofd", "reviewkd", "semckd"]


@pytest.mark.parametrize("distiller", SEPARABLE)
def test_adaptive_and_anti_make_always(distiller: str, pair: Pair, batch: Batch) -> None:
    """Student losses of SAKD and of anti add up to the fixed one and a cross entropy, for separable distillers."""
    by = {name: losses_of(build(pair, distiller, name), batch) for name in ("adaptive", "anti", "always")}
    assert torch.equal(by["adaptive"].mask + by["anti"].mask, by["always"].mask.double())
    both = by["adaptive"].student + by["anti"].student
    torch.testing.assert_close(both, by["always"].student + by["always"].task, rtol=1e-12, atol=0)


def batch_of(batch: Batch, size: int) -> Batch:
    """The first images of a batch."""
    assert batch.indices is not None
    return Batch(batch.images[:size], batch.labels[:size], batch.indices[:size])


def test_never_is_cross_entropy(pair: Pair, batch: Batch) -> None:
    losses = losses_of(build(pair, "at", "never"), batch)
    assert losses.total.item() == losses.task.item() == F.cross_entropy(losses.logits, batch[1]).item()


class Fixed(Strategy):
    """Routes as told: a user's strategy is one small class."""

    learns = True

    def __init__(self, route: Tensor) -> None:
        self.route = route

    def decide(self, logits: Tensor) -> Decisions:
        route = self.route + 0 * logits.sum(-1)
        return Decisions(self.route, route)


@pytest.mark.parametrize("routed", range(12))
def test_balance(routed: int, pair: Pair, batch: Batch) -> None:
    """Half of the batch minus the routed samples, never below zero; slope -1 below half and 0 from there on."""
    route = torch.zeros(11, 4, dtype=torch.float64)
    route[:routed, -1] = 1
    route.requires_grad_()
    strategy = Fixed(route)
    losses = losses_of(build(pair, "at", strategy), batch)
    assert losses.balance.item() == max(0.0, 5.5 - routed)
    (slope,) = torch.autograd.grad(losses.balance, route)
    assert torch.all(slope[:, :-1] == 0)
    assert torch.all(slope[:, -1] == (-1 if routed < 5.5 else 0))


def test_balance_has_no_slope_at_exactly_half(pair: Pair, batch: Batch) -> None:
    route = torch.zeros(10, 4, dtype=torch.float64)
    route[:5, -1] = 1
    route.requires_grad_()
    losses = losses_of(build(pair, "at", Fixed(route)), batch_of(batch, 10))
    assert losses.balance.item() == 0
    assert not torch.autograd.grad(losses.balance, route)[0].any()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gamma_rule(gamma: float, pair: Pair) -> None:
    """Decided once from the unscaled values: with gamma below 1 a second look would undo the first."""
    method = build(pair, gamma=gamma)
    student = torch.tensor(2.0, dtype=torch.float64)
    for routed, factor in ((3.0, gamma), (1.0, 1 / gamma), (2.0, 1.0), (2.1, gamma)):
        value = torch.tensor(routed, dtype=torch.float64, requires_grad=True)
        weighted = method.gamma_weighted(value, student)
        weighted.backward()
        assert weighted.item() == routed * factor
        assert value.grad is not None
        assert value.grad.item() == factor


def test_gamma_one_leaves_the_cross_entropy(pair: Pair, batch: Batch) -> None:
    plain = losses_of(build(pair, gamma=1.0), batch)
    doubled = losses_of(build(pair, gamma=2.0), batch)
    assert doubled.route.item() / plain.route.item() in (2.0, 0.5)


def test_share_options_are_off_by_default_and_do_what_they_say(pair: Pair, batch: Batch) -> None:
    off = losses_of(build(pair), batch)
    assert off.share.item() == 0
    shares = off.mask.mean(0)
    cost = losses_of(build(pair, share_cost=0.1), batch)
    assert cost.share.item() == pytest.approx(0.1 * shares.sum().item())
    target = losses_of(build(pair, target_share=0.6, target_weight=3.0), batch)
    assert target.share.item() == pytest.approx(3 * (shares - 0.6).square().sum().item())
    assert cost.student.item() == target.student.item() == off.student.item()


def plain_routing(method: SpotKD, images: Tensor, route: Tensor) -> Tensor:
    """The routed logits, both networks run again from the images."""
    x_s = x_t = images
    s_from = t_from = 0
    for i, (s_at, t_at) in enumerate([*method.spots, (5, 5)]):
        h_s, h_t = method.student.run(x_s, s_from, s_at + 1), method.teacher.run(x_t, t_from, t_at + 1)
        s_from, t_from = s_at + 1, t_at + 1
        a = route[:, i].view(-1, *[1] * (h_s.dim() - 1))
        if i < len(method.spots):
            hint, antihint = method.routing.hints[i](h_s), method.routing.antihints[i](h_t)
            x_t, x_s = (1 - a) * hint + a * h_t, (1 - a) * h_s + a * antihint
    return (1 - a) * h_s + a * h_t


def plain_step(method: SpotKD, batch: Batch) -> None:
    """One step written the straightforward way of the paper's code.

    Two optimizers, the real student toggled to eval mode for the routing pass with its full graph, the teacher run
    again from the images, the routing gradients on the student thrown away.
    """
    images, labels, _ = batch
    torch.manual_seed(11)
    agent = torch.optim.SGD(method.policy_parameters(), lr=0.025, momentum=0.9, weight_decay=1e-3)
    learner = torch.optim.SGD(method.student_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    with torch.no_grad():
        t, before_t = method.teacher.features_and_preactivations(images)
    s, before_s = method.student.features_and_preactivations(images)
    z = s[-1]
    decisions = method.strategy.decide(method.policy(t[-2], s[-2]))
    route = decisions.route
    assert route is not None
    loss = F.cross_entropy(s[-1], labels)
    loss = loss + method.logit_distiller(s[-1:], t[-1:], decisions.mask[:, -1:], batch)
    if method.distiller is not None:
        if method.distiller.before_relu:
            s, t = before_s, before_t
        at_s, at_t = [s[i] for i, _ in method.spots], [t[j] for _, j in method.spots]
        loss = loss + method.beta * method.distiller(at_s, at_t, decisions.mask[:, :-1], batch)

    method.student.eval()
    routed = F.cross_entropy(plain_routing(method, images, route), labels)
    method.student.train()
    routed = routed * (method.gamma if routed > F.cross_entropy(z, labels) else 1 / method.gamma)
    routed = routed + max(len(labels) / 2 - route[:, -1].sum(), torch.zeros((), dtype=torch.float64))
    agent.zero_grad()
    routed.backward(retain_graph=True)
    agent.step()
    learner.zero_grad()
    loss.backward()
    learner.step()


@pytest.mark.parametrize("strategy", LEARNING)
@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_the_step_equals_the_straightforward_one_bit_for_bit(
    distiller: str, strategy: str, pair: Pair, batch: Batch
) -> None:
    ours, plain = (build(pair, distiller, strategy, gamma=2.0) for _ in range(2))
    optimizer = torch.optim.SGD(ours.parameter_groups(), lr=0.05, momentum=0.9)
    losses = losses_of(ours, batch)
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()
    plain_step(plain, batch)
    other = plain.state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_short_batches(distiller: str, strategy: str, size: int, pair: Pair, batch: Batch) -> None:
    losses = losses_of(build(pair, distiller, strategy), batch_of(batch, size))
    losses.total.backward()
    assert torch.isfinite(losses.total)


class NoWaiting(TorchDispatchMode):
    """Fails on every operation whose result or shape depends on the values of a tensor, which waits for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name.startswith(("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")):
            raise AssertionError(f"{name} inside a step")
        if name.startswith(("aten::index.", "aten::index_put")) and any(
            index is not None and index.dtype == torch.bool for index in args[1] if isinstance(args[1], (list, tuple))
        ):
            raise AssertionError(f"boolean {name} inside a step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_nothing_waits_for_the_device(distiller: str, strategy: str, pair: Pair, batch: Batch) -> None:
    method = build(pair, distiller, strategy, gamma=2.0, **({"share_cost": 0.1} if strategy in LEARNING else {}))
    with NoWaiting():
        method(batch).total.backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="what waits for a GPU is seen on a GPU")
@pytest.mark.parametrize("distiller", [name for name in DISTILLERS if name != "kdsvd"])  # eigenvectors make CUDA wait
def test_nothing_waits_for_a_gpu(distiller: str, pair: Pair, batch: Batch) -> None:
    on_gpu = Batch(*(tensor.cuda() for tensor in batch if tensor is not None))
    for strategy, mode in product(STRATEGIES, ("default", "error")):  # the first step sets libraries up
        if mode == "default":
            method = build(pair, distiller, strategy).cuda()
            optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            total = method(on_gpu).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("expression", ["mask.sum().item()", "mask[mask > 0]", "mask.nonzero()", "float(mask.sum())"])
def test_the_guard_against_waiting_can_fail(expression: str) -> None:
    mask = torch.ones(3)
    with pytest.raises(AssertionError), NoWaiting():
        eval(expression, {"mask": mask})


def test_groups(pair: Pair) -> None:
    method = build(pair, "fitnet")
    student, policy = method.parameter_groups(lr=0.05)
    assert (student["lr"], student["weight_decay"]) == (0.05, 5e-4)
    assert (policy["lr"], policy["weight_decay"]) == (0.025, 1e-3)
    trained = {id(p) for p in (*student["params"], *policy["params"])}
    assert trained == {id(p) for name, p in method.named_parameters() if not name.startswith("teacher.")}
    assert len(trained) == len(student["params"]) + len(policy["params"])
    assert len(build(pair, "at", "always").parameter_groups()) == 1


def test_method_reads_like_a_page() -> None:
    assert len(inspect.getsource(SpotKD.forward).splitlines()) < 40


class Nothing(Distiller):
    """A user's own distiller, handed in as a class without registering it."""

    spot_rule = DISTILLERS["sp"].spot_rule  # type: ignore[attr-defined]

    def forward(self, student: Any, teacher: Any, mask: Tensor, batch: Any) -> Tensor:
        return mask.sum() * 0


def test_own_distiller(pair: Pair, batch: Batch) -> None:
    losses = losses_of(build(pair, Nothing), batch)  # type: ignore[arg-type]
    assert losses.mask.shape == (11, 2)
    assert losses.distill.item() == 0


def two_maps(shapes: Any) -> tuple[int, ...]:
    """A rule of the user's own, with more than one spot."""
    return 1, 3


class AtTwoMaps(Nothing):
    spot_rule = two_maps


def test_own_rule(pair: Pair) -> None:
    assert SpotKD(*pair, AtTwoMaps, image_shape=IMAGE_SHAPE).spots == ((1, 1), (3, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distiller": "attention"}, "unknown distiller 'attention'"),
        ({"strategy": "sometimes"}, "unknown strategy 'sometimes'"),
        ({"distiller": "kd", "beta": 2.0}, "beta has no effect: KD distils the logits"),
        ({"strategy": "always", "share_cost": 0.1}, "shape a learning policy"),
        ({"distiller": "kd", "spots": [("pool", "pool")]}, "spots has no effect: KD distils the logits"),
        ({"spots": []}, "spots is empty"),
        ({"spots": [("layer1", "layer9")]}, "unknown stage in spots 'layer9': did you mean layer"),
        ({"spots": [("layer1", "fc")]}, "without the classifier"),
        ({"spots": [(1, 2), (1, 3)]}, "from shallow to deep"),
        ({"options": {"power": 2}}, "unknown option of distiller at 'power'"),
        ({"distiller": "crd"}, "give its labels"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str, pair: Pair) -> None:
    with pytest.raises(SpotkdError, match=message):
        SpotKD(*pair, **{"distiller": "at", "image_shape": IMAGE_SHAPE, **change})


def test_own_parts_follow_the_student(pair: Pair) -> None:
    method = SpotKD(*pair, "fitnet", image_shape=IMAGE_SHAPE)
    assert {p.dtype for p in method.parameters()} == {torch.float64}


def test_a_network_cannot_teach_itself(pair: Pair) -> None:
    with pytest.raises(SpotkdError, match="share parameters"):
        SpotKD(pair[0], pair[0], image_shape=IMAGE_SHAPE)


def test_class_counts_must_agree(pair: Pair) -> None:
    with pytest.raises(SpotkdError, match="the student has 4 classes and the teacher 5"):
        SpotKD(pair[0], TinyNet(4, num_classes=4).double(), image_shape=IMAGE_SHAPE)


def test_temperature_reaches_the_logits_either_way(pair: Pair, batch: Batch) -> None:
    for distiller in ("kd", "at"):
        method = build(pair, distiller, "always", temperature=2.0)
        s, t = method.student.features(batch[0])[-1], method.teacher.features(batch[0])[-1]
        expected = 4 * F.kl_div(F.log_softmax(s / 2, 1), F.softmax(t / 2, 1), reduction="batchmean")
        assert losses_of(method, batch).kl.item() == pytest.approx(expected.item())


def test_modules_know_their_mode(pair: Pair) -> None:
    method = build(pair, "fitnet")
    for module in (method.student, method.routing, method.distiller):
        assert isinstance(module, nn.Module)
        assert module.training
    assert not method.train().teacher.training
    assert math.isfinite(method.beta)
