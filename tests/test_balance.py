"""The distiller's pull is bounded by that of labels and logits: closed form, exact resumption, several processes."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spotkd import DISTILLERS, Batch, SpotKD
from spotkd.balance import EVERY, MEMORY, Balance
from spotkd.distillers.base import LogitDistiller
from spotkd.options import DistillOptions
from spotkd.options.parsing import parse_options
from spotkd.recipes import resolved
from spotkd.report.run_charts import metric_charts
from spotkd.routing import Strategy
from spotkd.routing.strategies import Decisions
from spotkd.runs.folder import RunFolder
from spotkd.training import distill
from spotkd.training.build import build_distillation

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller
from .training.killed_runs import configured, differences, tiny_data
from .training.test_resume import broken_at, place, stop_after  # noqa: F401  # a fixture

Pair = tuple[TinyNet, TinyNet]
FEATURES = [
    name
    for name, kind in ((name, DISTILLERS[name]) for name in DISTILLERS)
    if not (isinstance(kind, type) and issubclass(kind, LogitDistiller))
]


def build(pair: Pair, distiller: str, balanced: bool = True, **options: object) -> SpotKD:
    torch.manual_seed(1)
    teacher, student = for_distiller(pair, distiller)
    method = SpotKD(
        teacher, student, distiller, "always", image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS,
        options=OPTIONS.get(distiller), balanced=balanced, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    method.start_epoch(2, 4)
    return method.double()


def student_gradients(method: SpotKD, loss: Tensor) -> list[Tensor]:
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.mark.parametrize("heavy", [1.0, 100.0])
def test_closed_form(heavy: float) -> None:
    """Two linear features, whose gradients are known: the larger pull is cut to the other's, a smaller one stays."""
    balance = Balance(2).double()
    features = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    attached = balance.attach(features)
    reference = 2 * features[0].sum() + 3 * features[1].sum()
    distiller = heavy * 4 * attached[0].sum() + attached[1].sum()
    balance.measure(reference, distiller, features, attached)
    assert balance.weights.tolist() == pytest.approx([2 / (4 * heavy), 1.0], rel=1e-12)
    (reference + distiller).backward()
    assert features[0].grad is not None
    assert torch.allclose(features[0].grad, torch.full((4, 3), 4.0, dtype=torch.float64), rtol=1e-12)  # 2 and 2
    assert features[1].grad is not None
    assert torch.allclose(features[1].grad, torch.full((4, 3), 4.0, dtype=torch.float64), rtol=1e-12)  # 3 and 1


def test_running_means_and_the_steps_between() -> None:
    balance = Balance(1).double()
    reference, pull = 0.0, 0.0
    for step in range(3 * EVERY):
        x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        (attached,) = balance.attach([x])
        ratio = step + 1.0
        balance.measure(x.sum(), ratio * attached.sum(), [x], [attached])
        if step % EVERY == 0:
            memory = MEMORY if step else 0.0
            reference, pull = memory * reference + (1 - memory), memory * pull + (1 - memory) * ratio
        assert balance.weights.item() == pytest.approx(min(1, reference / pull), rel=1e-12)


def test_a_distiller_without_pull_keeps_its_weight() -> None:
    balance = Balance(1)
    x = torch.ones(1, 1, requires_grad=True)
    (attached,) = balance.attach([x])
    balance.measure(x.sum(), 0 * attached.sum(), [x], [attached])
    assert balance.weights.item() == 1


def test_nothing_is_measured_in_evaluation(pair: Pair, batch: Batch) -> None:
    method = build(pair, "at").eval()
    with torch.no_grad():
        method(batch)
    assert method.balance is not None
    assert method.balance.pull.abs().sum() == 0


@pytest.mark.parametrize("distiller", FEATURES)
def test_the_pull_of_any_distiller_is_bounded(distiller: str, pair: Pair, batch: Batch) -> None:
    """An independent computation: gradients of both losses at the spots, by a method without balance."""
    method, plain = build(pair, distiller), build(pair, distiller, balanced=False)
    torch.manual_seed(3)
    losses = method(batch)
    torch.manual_seed(3)
    t, s, t_spots, s_spots = plain.observe(batch)
    mask = torch.ones(len(batch.images), len(plain.spots), dtype=torch.float64)
    task = F.cross_entropy(s[-1], batch.labels)
    kl = 16 * F.kl_div(F.log_softmax(s[-1] / 4, 1), F.softmax(t[-1] / 4, 1), reduction="batchmean")
    assert plain.distiller is not None
    leaves = [x.detach().requires_grad_() for x in s_spots]  # what pulls at a deeper spot is bounded there
    pulled = plain.beta * plain.distiller.warmup_factor * plain.distiller(leaves, t_spots, mask, batch)

    def norms(loss: Tensor, features: Sequence[Tensor]) -> list[float]:
        found = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        return [0.0 if g is None else g.norm().item() for g in found]

    expected = [
        min(1.0, reference / pull) if pull else 1.0
        for reference, pull in zip(norms(task + kl, s_spots), norms(pulled, leaves), strict=True)
    ]
    assert method.balance is not None
    assert method.balance.weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert losses.distill.item() == pytest.approx(pulled.item(), rel=1e-9), "the loss keeps its value"


class Halves(Strategy):
    """At each spot the other half of the batch is distilled."""

    def decide(self, logits: Tensor) -> Decisions:
        mask = torch.zeros(logits.shape[:2], dtype=torch.float64)
        mask[: len(mask) // 2, 0::2] = 1
        mask[len(mask) // 2 :, 1::2] = 1
        return Decisions(mask)


def test_only_distilled_samples_pull(pair: Pair, batch: Batch) -> None:
    """Those that the mask leaves out send no gradient; norms are over the batch, and so is KD beside the labels."""
    torch.manual_seed(1)
    method = SpotKD(*pair, "at", Halves(), image_shape=IMAGE_SHAPE, beta=50.0, balanced=True).double()
    method.start_epoch(1, 2)
    t, s, t_spots, s_spots = method.observe(batch)
    mask = Halves().decide(torch.zeros(len(batch.images), len(method.spots) + 1, 2)).mask
    kl = F.kl_div(F.log_softmax(s[-1] / 4, 1), F.softmax(t[-1] / 4, 1), reduction="none").sum(1)
    reference = F.cross_entropy(s[-1], batch.labels) + 16 * (mask[:, -1] * kl).mean()
    expected = []
    for spot, (mine, other) in enumerate(zip(s_spots, t_spots, strict=True)):
        maps = [F.normalize(x.square().mean(1).flatten(1), dim=1) for x in (mine, other)]
        pulled = 50 * (mask[:, spot] * (maps[0] - maps[1]).square().mean(1)).mean()
        pull, bound = (torch.autograd.grad(loss, mine, retain_graph=True)[0] for loss in (pulled, reference))
        distilled = mask[:, spot] > 0
        assert not pull[~distilled].any()
        expected.append(min(1.0, (bound.norm() / pull[distilled].norm()).item()))
    method(batch)
    assert min(expected) < 1
    assert method.balance is not None
    assert method.balance.weights.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distiller", ["at", "fitnet", "sp"])
def test_a_heavier_weight_changes_nothing_where_it_is_bounded(distiller: str, pair: Pair, batch: Batch) -> None:
    found = []
    for beta in (1e6, 1e8):
        method = build(pair, distiller, beta=beta)
        losses = method(batch)
        found.append(student_gradients(method, losses.total))
        assert method.balance is not None
        assert (method.balance.weights < 1).all()
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-12)


def test_a_light_weight_is_the_published_method(pair: Pair, batch: Batch) -> None:
    method, plain = build(pair, "at", beta=1e-6), build(pair, "at", balanced=False, beta=1e-6)
    for one, other in zip(
        student_gradients(method, method(batch).total), student_gradients(plain, plain(batch).total), strict=True
    ):
        assert torch.equal(one, other)


def test_parts_that_learn_along_keep_their_gradients(pair: Pair, batch: Batch) -> None:
    grads = []
    for balanced in (True, False):
        method = build(pair, "fitnet", balanced=balanced, beta=1e6)
        assert method.distiller is not None
        method(batch).total.backward()
        grads.append([p.grad for p in method.distiller.parameters()])
    assert grads[0]
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_logits_are_bounded_beside_plain_kd(pair: Pair, batch: Batch) -> None:
    method = build(pair, "dist", alpha=100.0)
    t, s, *_ = build(pair, "dist", balanced=False).observe(batch)
    losses = method(batch)
    (logits,) = s[-1:]
    task = F.cross_entropy(logits, batch.labels)
    kl = 100 * 16 * F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(t[-1] / 4, 1), reduction="batchmean")
    mask = torch.ones(len(batch.images), 1, dtype=torch.float64)
    pulled = 100 * method.logit_distiller([logits], t[-1:], mask, batch)
    wanted = (
        torch.autograd.grad(task + kl, logits, retain_graph=True)[0].norm()
        / torch.autograd.grad(pulled, logits)[0].norm()
    )
    assert method.balance is not None
    assert method.balance.weights.item() == pytest.approx(min(1.0, wanted.item()), rel=1e-6)
    assert losses.kl.item() == pytest.approx(pulled.item(), rel=1e-9)
    assert build(pair, "kd").balance is None, "plain KD is what others are measured by"


def test_recipes_and_former_runs_have_none() -> None:
    assert getattr(resolved("cifar100/at/resnet56-resnet20", {}), "balance") == "none"  # noqa: B009
    assert DistillOptions().balance == "auto"
    assert parse_options(DistillOptions, {"teacher": {"name": "resnet20"}}, "a file").balance == "none"


@pytest.mark.slow
def test_a_run_is_resumed_to_the_bit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from spotkd.errors import Stopped
    from spotkd.runs.checkpoint import read_checkpoint

    for name in ("whole", "run"):
        options = configured(place, place / name, "at", balance="auto", beta=1e5)
        if name == "run":
            with monkeypatch.context() as patched:
                stop_after(patched, 8)
                with pytest.raises(Stopped):
                    distill(options)
        distill(options)
    whole, run = (read_checkpoint(place / name / "last.ckpt") for name in ("whole", "run"))
    assert differences(whole["method"], run["method"]) == []
    metrics = RunFolder(place / "run").metrics
    assert 0 < metrics["weight_layer1"][-1] < 1
    for key, column in RunFolder(place / "whole").metrics.items():
        assert key == "seconds" or column == metrics[key]


def test_a_step_that_is_left_out_leaves_no_trace(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The step in which it would have been measured again: what was measured first stays in force."""
    broken_at(monkeypatch, EVERY + 1)
    distill(configured(place, place / "run", "at", balance="auto", beta=1e5, skip_nonfinite=1, strategy="always"))
    metrics = RunFolder(place / "run").metrics
    first, *_, last = metrics["weight_layer1"]
    assert 0 < first < 1
    assert last == pytest.approx(first, rel=1e-12)


def test_what_is_told_is_what_is_in_force(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Weights come once, after the first epoch; plain KD and compiled runs are never called balanced."""
    distill(configured(place, place / "at", "at", balance="auto", beta=1e5, quiet=False, strategy="always"))
    text = capsys.readouterr().out
    assert text.count("weight balanced") == 1
    (line,) = [line for line in text.splitlines() if "the distiller pulled with" in line]
    told = [float(share) for share in re.findall(r"([\d.e-]+) % of its weight at layer", line)]
    metrics = RunFolder(place / "at").metrics
    assert told == pytest.approx([100 * metrics[f"weight_layer{k}"][0] for k in (1, 2, 3)], rel=1e-2)
    distill(configured(place, place / "kd", "kd", balance="auto", quiet=False, strategy="always"))
    text = capsys.readouterr().out
    assert "weight as published" in text
    assert "balanced" not in text
    assert "pulled with" not in text
    for distiller, noted in (("at", True), ("kd", False)):
        options = configured(place, place / "compiled", distiller, balance="auto", compile=True, strategy="always")
        method = build_distillation(options, tiny_data(), quiet=False)
        assert method.balance is None
        assert ("not balanced" in capsys.readouterr().out) == noted


def test_the_report_draws_the_weights() -> None:
    metrics = {"epoch": [1.0, 2.0], "lr": [0.1, 0.1], "val_top1": [1.0, 2.0], "weight_layer1": [0.5, 0.25]}
    charts = {
        chart.key: chart
        for chart in metric_charts(cast(Any, SimpleNamespace(name="r", metrics=metrics, epochs=[1, 2])))
    }
    assert charts["r-weights"].lines == {"layer1": [0.5, 0.25]}


def test_state_travels(pair: Pair, batch: Batch) -> None:
    method = build(pair, "at", beta=1e6)
    for _ in range(3):
        method(batch)
    other = build(pair, "at", beta=1e6)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert method.balance is not None
    assert other.balance is not None
    assert other.balance._steps == 3
    assert torch.equal(other.balance.weights, method.balance.weights)
