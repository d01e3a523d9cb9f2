"""A policy that goes on deciding: a start without routing, bounded gradients, decay in the run's measure, budgets."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spotkd import SpotKD, create_model
from spotkd.data import Loader
from spotkd.models import save_weights
from spotkd.options import DistillOptions, ModelOptions, PolicyOptions, learning_rate
from spotkd.routing import PolicyPace, make_strategy, scaled_decay
from spotkd.training.build import build_distillation, policy_decay
from spotkd.training.policy import LARGEST_BIAS, choose_pace
from tests.conftest import TinyNet, few_glyphs

from .test_every_strategy import build, take_step

Pair = tuple[TinyNet, TinyNet]


def test_nothing_is_routed_in_the_start_and_everybody_is_distilled(pair: Pair) -> None:
    method = build(pair, "at", "adaptive", pace=PolicyPace(settling=2))
    before = copy.deepcopy(method.policy.state_dict())
    for seed in (1, 2):
        losses = take_step(method, seed)
        assert losses["route"].item() == 0
        assert losses["mask"].min() == 1
    assert all(torch.equal(value, before[key]) for key, value in method.policy.state_dict().items())
    assert take_step(method, 3)["route"].item() > 0
    assert any(not torch.equal(value, before[key]) for key, value in method.policy.state_dict().items())


def test_the_start_ends_where_it_would_have_after_resuming(pair: Pair) -> None:
    method = build(pair, "at", "adaptive", pace=PolicyPace(settling=3))
    take_step(method, 1)
    resumed = build(pair, "at", "adaptive", seed=5, pace=PolicyPace(settling=3))
    resumed.load_state_dict(method.state_dict())
    routed = [[take_step(each, seed)["route"].item() for seed in (2, 3, 4, 5)] for each in (method, resumed)]
    assert routed[0] == routed[1]
    assert [loss > 0 for loss in routed[0]] == [False, False, True, True]


def test_the_gradient_is_bounded_and_small_ones_stay() -> None:
    for scale, expected in ((100.0, 0.1), (0.001, 0.001 * math.sqrt(12))):
        logits = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
        (scale * PolicyPace(bound=0.1).attach(logits).sum()).backward()
        assert logits.grad is not None
        assert logits.grad.norm().item() == pytest.approx(expected, rel=1e-9)
        assert logits.grad.std().item() == pytest.approx(0, abs=1e-12)  # its direction is the loss's


@pytest.mark.parametrize("steps", [500, 6000, 187_680])
def test_the_policy_forgets_as_much_as_in_the_papers_run(steps: int) -> None:
    assert scaled_decay(steps, 0.025) * 0.025 / 0.1 * steps == pytest.approx(0.025 * 1e-3 / 0.1 * 240 * 782, rel=1e-12)


def test_sgd_forgets_as_said() -> None:
    parameter = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.025, momentum=0.9, weight_decay=scaled_decay(20_000, 0.025))
    parameter.grad = torch.zeros_like(parameter)
    for _ in range(2000):
        optimizer.step()
    assert math.log(parameter.item()) == pytest.approx(-4.69, rel=0.03)  # a tenth of 46.9


def test_options_make_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_weights(create_model("resnet8", 94), tmp_path / "teacher.safetensors", {"model": "resnet8"})
    options = DistillOptions(
        teacher=ModelOptions("resnet8", str(tmp_path / "teacher.safetensors")),
        strategy="adaptive",
        policy=PolicyOptions(bias=10.0),
        epochs=5,
        batch_size=47,
    )
    data = few_glyphs(188, 94)
    method = build_distillation(options, data, quiet=True)
    assert method.pace is not None
    assert method.pace.settling == 2  # of 20 steps
    assert method.policy.normalise
    assert method.policy.linear.bias.view(-1, 2)[:, 0].mean().item() == pytest.approx(LARGEST_BIAS, abs=0.2)
    assert policy_decay(options, data) == scaled_decay(20, learning_rate(options.optim) / 2)
    published = build_distillation(
        replace(options, policy=PolicyOptions(schedule="published", bias=10.0)), data, quiet=True
    )
    assert published.pace is None
    assert published.policy.linear.bias.view(-1, 2)[:, 0].mean().item() == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize(("steps", "settling"), [(1, 1), (20, 2), (499, 50), (500, 50), (187_680, 50)])
def test_the_start_is_a_tenth_of_a_short_run(steps: int, settling: int) -> None:
    pace = choose_pace(True, 3, steps)
    assert pace is not None
    assert (pace.settling, pace.every) == (settling, 3)
    assert choose_pace(False, 1, steps) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet56", "resnet110"])
@pytest.mark.parametrize("bias", [0.0, 10.0])
@pytest.mark.parametrize("epochs", [1, 30])
def test_by_default_a_deep_student_leaves_the_policy_open(name: str, bias: float, epochs: int, tmp_path: Path) -> None:
    """P(teacher) of every sample at every spot after the first steps of a run of 2 steps, or of 60."""
    save_weights(create_model("resnet20", 94), tmp_path / "teacher.safetensors", {"model": "resnet20"})
    options = DistillOptions(
        teacher=ModelOptions("resnet20", str(tmp_path / "teacher.safetensors")),
        student=ModelOptions(name),
        distiller="at",
        strategy="adaptive",
        policy=PolicyOptions(bias=bias),
        epochs=epochs,
        batch_size=16,
        fold=False,
    )
    data = few_glyphs(32, 94)
    torch.manual_seed(0)
    method = build_distillation(options, data, quiet=True).train()
    optimizer = torch.optim.SGD(method.parameter_groups(0.05), momentum=0.9)
    for step in range(min(2 * epochs, 9)):
        batch = next(Loader(data, data.train, 16, training=True, seed=step).epoch(1))
        optimizer.zero_grad()
        method(batch).total.backward()
        optimizer.step()
        if step in (0, 1, 8):
            for mode in (True, False):
                method.train(mode)
                with torch.no_grad():
                    features = [network.features(batch.images) for network in (method.teacher, method.student)]
                    found = method.teacher_probability(*features)
                assert 0.01 <= found.min() <= found.max() <= 0.99, (step, mode)
            method.train()


@pytest.mark.parametrize("settling", [0, 2])
def test_a_policy_that_learns_in_every_third_step(pair: Pair, settling: int) -> None:
    method = build(pair, "at", "adaptive", pace=PolicyPace(settling, math.inf, every=3))
    learnt = []
    for seed in range(8):
        before = copy.deepcopy(method.policy.state_dict())
        losses = take_step(method, seed)
        moved = any(not torch.equal(value, before[key]) for key, value in method.policy.state_dict().items())
        assert moved == (losses["route"].item() > 0)
        learnt.append(moved)
        assert seed < settling or 0 < losses["mask"].mean() < 1  # it decides in every step
    assert learnt == [step >= settling and (step - settling) % 3 == 0 for step in range(8)]


def test_in_the_steps_in_which_it_learns_nothing_is_approximate(pair: Pair) -> None:
    """The first step, in which it learns, is the paper's to the bit."""
    paper, pace = build(pair, "at", "adaptive"), build(pair, "at", "adaptive", pace=PolicyPace(0, math.inf, every=4))
    for losses, expected in zip(take_step(pace, 1).values(), take_step(paper, 1).values(), strict=True):
        assert torch.equal(losses, expected)
    for (name, value), other in zip(pace.named_parameters(), paper.parameters(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_expert_choice_takes_exactly_its_share(share: float) -> None:
    strategy = make_strategy(f"expert_choice:{share}")
    strategy.build(3, (), ())
    torch.manual_seed(0)
    logits = torch.randn(64, 3, 2) * 5 + torch.tensor([20.0, 0.0])  # a policy that wants everybody
    decisions = strategy.decide(logits.requires_grad_())
    assert decisions.mask.mean(0).tolist() == [share] * 3
    assert decisions.route is not None
    assert decisions.route.requires_grad


def test_expert_choice_prefers_whom_the_policy_prefers() -> None:
    strategy = make_strategy("expert_choice:0.5")
    strategy.build(1, (), ())
    torch.manual_seed(0)
    logits = torch.zeros(1000, 1, 2)
    logits[:500, :, 0] = 12.0
    assert strategy.decide(logits).mask[:500].mean() > 0.99


@pytest.mark.parametrize("wanted", [8.0, -8.0])
def test_dual_holds_its_share_against_a_policy(wanted: float) -> None:
    strategy = make_strategy("dual:0.3")
    strategy.build(2, (), ())
    torch.manual_seed(0)
    logits = torch.zeros(64, 2, 2)
    logits[..., 0] = wanted
    shares = torch.stack([strategy.decide(logits).mask.mean(0) for _ in range(900)])
    assert shares[-200:].mean(0).tolist() == pytest.approx([0.3] * 2, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet56", "resnet110"])
def test_a_deep_student_does_not_pin_the_scaled_policy(name: str) -> None:
    """As published, the very first step of a deep student makes P(teacher) 1 (or 0) for every sample."""
    for pace, steps in ((None, 1), (PolicyPace(), 1), (PolicyPace(settling=25), 30)):
        torch.manual_seed(0)
        teacher, student = create_model("resnet20", 10), create_model(name, 10)
        method = SpotKD(teacher, student, "at", "adaptive", image_shape=(3, 8, 8), beta=10.0, pace=pace).train()
        optimizer = torch.optim.SGD(method.parameter_groups(0.05), momentum=0.9)
        for _ in range(steps):
            images, labels = torch.randn(16, 3, 8, 8), torch.randint(10, (16,))
            optimizer.zero_grad()
            method((images, labels)).total.backward()
            optimizer.step()
        for mode in (True, False):
            method.train(mode)
            with torch.no_grad():
                found = method.teacher_probability(method.teacher.features(images), method.student.features(images))
            decided = (found < 0.01) | (found > 0.99)
            if pace is not None:
                assert not decided.any()
            elif not mode:
                assert decided.float().mean() > 0.7
