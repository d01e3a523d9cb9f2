"""Every strategy with every distiller: steps, resumption to the bit, and weights that are formulas."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from spotkd import DISTILLERS, STRATEGIES, Batch, SpotKD, SpotkdError, Strategy
from spotkd.routing import Combined, make_strategy
from spotkd.routing.strategies import Always
from tests.conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller

from .test_strategies import make_evidence

Pair = tuple[TinyNet, TinyNet]
NAMES = [
    *STRATEGIES,
    "trust+balance",
    "trust:graded=true",
    "random:0.3",
    "trust:labels=false+adaptive",
    "constant:2",
    "cohort+balance",
]


def build(pair: Pair, distiller: str, strategy: str | Strategy, seed: int = 1, **options: Any) -> SpotKD:
    torch.manual_seed(seed)
    teacher, student = for_distiller(pair, distiller)
    method = SpotKD(
        teacher, student, distiller, strategy, image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS,
        options=OPTIONS.get(distiller), **options,
    )  # fmt: skip
    return method.double().train()


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(30, generator=generator)[:8]
    images = torch.randn(8, *IMAGE_SHAPE, generator=generator, dtype=torch.float64)
    return Batch(images, TRAINING_LABELS[indices], indices)


def take_step(method: SpotKD, seed: int, lr: float = 0.01) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    losses = method(make_batch(seed))
    method.zero_grad()
    losses.total.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(lr * parameter.grad.clamp(-1, 1))
    return dict(losses._asdict())


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("distiller", DISTILLERS)
def test_two_steps_and_a_third_after_resuming(pair: Pair, distiller: str, strategy: str) -> None:
    method = build(pair, distiller, strategy)
    method.start_epoch(1, 4)
    for seed in (1, 2):
        losses = take_step(method, seed)
        assert all(torch.isfinite(value).all() for value in losses.values())
        assert losses["mask"].shape == (8, len(method.spot_names))
    state = copy.deepcopy(method.state_dict())
    third = take_step(method, 3)
    resumed = build(pair, distiller, strategy, seed=9)
    resumed.load_state_dict(state)
    resumed.start_epoch(1, 4)
    again = take_step(resumed, 3)
    for name, value in third.items():
        assert torch.equal(again[name], value), name
    for key, value in method.state_dict().items():
        assert torch.equal(resumed.state_dict()[key].nan_to_num(-9), value.nan_to_num(-9)), key


@pytest.mark.parametrize("distiller", DISTILLERS)
def test_losses_that_are_looked_at_do_not_change_the_step(pair: Pair, distiller: str) -> None:
    """A strategy that sees the losses and distils everybody gives the gradients of `always`."""

    class Looks(Always):
        needs_losses = True

        def weigh(self, evidence: Any) -> Any:
            self.seen = evidence.require_losses()
            return super().weigh(evidence)

    gradients = []
    for strategy in ("always", Looks()):
        method = build(pair, distiller, strategy)
        method.start_epoch(2, 4)
        torch.manual_seed(3)
        losses = method(make_batch(3))
        losses.student.backward()
        gradients.append([p.grad for p in method.student_parameters()])
    for plain, looked in zip(*gradients, strict=True):
        assert (plain is None) == (looked is None)
        if plain is not None:
            torch.testing.assert_close(looked, plain, rtol=1e-9, atol=1e-12)


def test_combined_weights_are_the_product() -> None:
    evidence = make_evidence(100)
    both = make_strategy("constant:0.5+wsl")
    both.build(3, (), ())
    assert isinstance(both, Combined)
    torch.testing.assert_close(both.weigh(evidence).mask, 0.5 * make_strategy("wsl").weigh(evidence).mask)
    torch.testing.assert_close(both.expected_weights(evidence), both.weigh(evidence).mask)
    assert make_strategy("trust+balance").balances
    assert make_strategy("trust+balance").needs_losses


def test_weighted_soft_labels_and_entropies_are_their_formulas() -> None:
    evidence = make_evidence(50)
    s, t = evidence.student[-1], evidence.teacher[-1]
    for row, label, wsl, ea in zip(
        range(50), evidence.labels.tolist(), make_strategy("wsl").weigh(evidence).mask,
        make_strategy("ea").weigh(evidence).mask, strict=True,
    ):  # fmt: skip
        loss_s, loss_t = (-math.log(F.softmax(x[row].double(), 0)[label]) for x in (s, t))
        assert wsl.tolist() == pytest.approx([1 - math.exp(-loss_s / (loss_t + 1e-7))] * 3, rel=1e-5)
        h_s, h_t = (-sum(p * math.log(p) for p in F.softmax(x[row].double() / 3, 0).tolist()) for x in (s, t))
        assert ea.tolist() == pytest.approx([(h_t + h_t * h_s / math.log(5)) / 2] * 3, rel=1e-5)


@pytest.mark.parametrize("name", ["entropy_topk", "loss_topk", "loss_bottom"])
def test_the_chosen_share_has_the_extreme_scores(name: str) -> None:
    strategy, largest = make_strategy(f"{name}:0.25"), name != "loss_bottom"
    strategy.build(3, (), ())
    evidence = make_evidence(2000)
    chosen = strategy.weigh(evidence).mask.bool()
    assert chosen.float().mean(0).tolist() == pytest.approx([0.25] * 3, abs=0.002)
    q = F.softmax(evidence.student[-1], 1)
    entropy = -(q * q.log()).sum(1, keepdim=True).expand(-1, 3)
    scores = entropy if name.startswith("entropy") else evidence.require_losses()
    for spot in range(3):
        inside, outside = scores[chosen[:, spot], spot], scores[~chosen[:, spot], spot]
        assert inside.min() >= outside.max() if largest else inside.max() <= outside.min()


def test_first_half_ends_with_the_half() -> None:
    strategy = make_strategy("first_half")
    shares = [strategy.weigh(make_evidence(4, progress=epoch / 6)).mask.mean().item() for epoch in range(6)]
    assert shares == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random:1.5", "1.5 is no share"),
        ("constant:-1", "-1 is no weight"),
        ("random:x", "'x' is no number"),
        ("trust:label=true", "cannot be made"),
        ("always:3", "cannot be made"),
        ("adaptive+anti", "both learn a policy"),
        ("trust+balanc", "did you mean balance"),
        ("trust+", "unknown strategy ''"),
    ],
)
def test_names_that_make_no_sense(name: str, message: str) -> None:
    with pytest.raises(SpotkdError, match=message):
        make_strategy(name)
