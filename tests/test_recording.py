"""Recorded steps do what plain steps do; on a CPU with a recorder of our own, on a GPU with CUDA graphs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spotkd import DISTILLERS, STRATEGIES, Losses, SpotKD, SpotkdError, Supervised
from spotkd.options import TrainOptions
from spotkd.recording import WARM_UP, Counter, RecordedSteps
from spotkd.routing import Decisions, Evidence, PolicyPace, Strategy
from spotkd.stages import Batch
from spotkd.training import train

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller

Pair = tuple[TinyNet, TinyNet]


Repeated = tuple[Losses, Callable[[], None]]


def repeat(method: nn.Module, function: Callable[[], Losses], _: object = None) -> Repeated:
    """In place of a graph: runs the function again on the memory that it gave first; nothing counts."""
    parameters = list(method.parameters())
    counters = [module for module in method.modules() if isinstance(module, Counter)]
    losses = Losses(*(term.detach() for term in function()))
    gradients = [parameter.grad for parameter in parameters]

    def replay() -> None:
        counts = [counter.get_extra_state() for counter in counters]
        for old, new in zip(losses, function(), strict=True):
            old.copy_(new.detach())
        for gradient, parameter in zip(gradients, parameters, strict=True):
            if gradient is not None:
                assert parameter.grad is not None
                gradient.copy_(parameter.grad)
            parameter.grad = gradient
        for counter, count in zip(counters, counts, strict=True):
            counter.set_extra_state(count)

    return losses, replay


class Run:
    """A method with its optimizer, whose steps are recorded or not."""

    def __init__(self, method: Any, recorded: bool, log: Callable[[str], None], record: Any = None) -> None:
        self.method = method.train()
        self.optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01), momentum=0.9)
        self.plain, self.recorded = 0, recorded
        if record is None and not next(method.parameters()).is_cuda:
            record = partial(repeat, method)
        self.take = RecordedSteps(method, self.compute, log, record) if recorded else self.compute

    def compute(self, batch: Batch, weight: float) -> Losses:
        self.plain += 1
        losses: Losses = self.method(batch)
        self.optimizer.zero_grad()
        (losses.total * weight).backward()
        return losses

    def epoch(self, number: int, batches: list[Batch]) -> list[Tensor]:
        self.method.start_epoch(number, 2)
        if isinstance(self.take, RecordedSteps):
            self.take.start_epoch()
        seen = []
        for batch in batches:
            losses = self.take(batch, 1.0)
            self.optimizer.step()
            seen.append(torch.stack(losses[: len(Losses.terms())]).detach().clone())
        return seen


def batches_of(dtype: torch.dtype, device: str = "cpu") -> list[Batch]:
    """Eight full batches and a last one that is not."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for size in (*[10] * 8, 4):
        indices = torch.randperm(30, generator=generator)[:size]
        images = torch.randn(size, *IMAGE_SHAPE, generator=generator, dtype=torch.float64).to(dtype)
        found.append(Batch(images.to(device), TRAINING_LABELS[indices].to(device), indices.to(device)))
    return found


def build(pair: Pair, distiller: str, strategy: str | Strategy, **options: Any) -> SpotKD:
    torch.manual_seed(7)
    common = {"image_shape": IMAGE_SHAPE, "labels": TRAINING_LABELS, "options": OPTIONS.get(distiller)}
    return SpotKD(*for_distiller(copy.deepcopy(pair), distiller), distiller, strategy, **(common | options))  # type: ignore[arg-type]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("distiller", ["at", "kd", "vid"])
def test_recorded_steps_are_plain_steps(distiller: str, balanced: bool, pair: Pair, told: list[str]) -> None:
    """Two epochs with a last batch that is smaller, and a balance that measures every tenth step."""
    runs = [
        Run(build(pair, distiller, "always", balanced=balanced), recorded, told.append) for recorded in (True, False)
    ]
    for number in (1, 2):
        seen, expected = (run.epoch(number, batches_of(torch.float64)) for run in runs)
        torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=0, atol=0)
    assert not told
    for (name, value), other in zip(
        runs[0].method.state_dict().items(), runs[1].method.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_supervised_steps_are_recorded(pair: Pair, told: list[str]) -> None:
    runs = [Run(Supervised(copy.deepcopy(pair[1])), recorded, told.append) for recorded in (True, False)]
    seen, expected = (run.epoch(1, batches_of(torch.float64)) for run in runs)
    assert torch.equal(torch.stack(seen), torch.stack(expected))
    assert not told


def test_what_counts_is_known(pair: Pair) -> None:
    """A recorded step of each phase: of the policy's first steps, and of those in which it learns."""
    pace = PolicyPace(settling=4, every=2)
    phases = []
    for _ in range(8):
        phases.append(pace.phase)
        pace.advance()
    assert phases == [(True, False)] * 4 + [(False, True), (False, False)] * 2


class ByNumber(Strategy):
    """Distils ever less, by a number that no recording would see."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def weigh(self, evidence: Evidence) -> Decisions:
        self.number += 1
        return Decisions(torch.full_like(evidence.policy_logits[..., 0], 1 / self.number))


class ByChance(Strategy):
    def weigh(self, evidence: Evidence) -> Decisions:
        return Decisions(torch.full_like(evidence.policy_logits[..., 0], random.random()))


@pytest.mark.parametrize(("strategy", "what"), [(ByNumber, "strategy.number"), (ByChance, "Python's random numbers")])
def test_steps_that_differ_are_not_recorded(strategy: Any, what: str, pair: Pair, told: list[str]) -> None:
    run = Run(build(pair, "at", strategy()), True, told.append)
    run.epoch(1, batches_of(torch.float64))
    assert told == [
        f"cuda_graphs: steps are not recorded: every step changes {what}, which a recording would keep as it is"
    ]
    assert run.plain == 9


def test_a_number_that_is_changed_between_steps_is_recorded_anew(pair: Pair, told: list[str]) -> None:
    runs = [Run(build(pair, "at", "always"), recorded, told.append) for recorded in (True, False)]
    batches = batches_of(torch.float64)[:5]
    found = []
    for run in runs:
        first = run.epoch(1, batches)
        run.method.scale_distiller(0.5)
        found.append([*first, run.take(batches[0], 1.0).distill.detach().clone()])
    assert torch.equal(found[0][-1], found[1][-1])


def test_a_recording_that_is_wrong_is_not_used(pair: Pair, told: list[str]) -> None:
    def wrong(function: Callable[[], Losses], _: object) -> Repeated:
        losses = Losses(*(term.detach() for term in function()))
        return losses, lambda: losses.task.mul_(1.1)  # type: ignore[return-value]

    runs = [Run(build(pair, "at", "always"), recorded, told.append, wrong) for recorded in (True, False)]
    seen, expected = (run.epoch(1, batches_of(torch.float64)) for run in runs)
    assert torch.equal(torch.stack(seen), torch.stack(expected))
    assert len(told) == 1
    assert told[0].startswith("cuda_graphs: steps are not recorded: a recorded step would differ by 0.1")


def test_what_cannot_be_recorded_is_not(pair: Pair, told: list[str]) -> None:
    def fails(function: Callable[[], Losses], _: object) -> Repeated:
        function()
        raise RuntimeError("operation not permitted when stream is capturing")

    runs = [Run(build(pair, "at", "always"), recorded, told.append, fails) for recorded in (True, False)]
    seen, expected = (run.epoch(1, batches_of(torch.float64)) for run in runs)
    assert torch.equal(torch.stack(seen), torch.stack(expected))
    assert told == ["cuda_graphs: steps are not recorded: operation not permitted when stream is capturing"]


def test_full_batches_alone_are_recorded(pair: Pair, told: list[str]) -> None:
    method, calls = build(pair, "at", "always"), []

    def record(function: Callable[[], Losses], _: object) -> Repeated:
        calls.append(1)
        return repeat(method, function)

    run = Run(method, True, told.append, record)
    run.epoch(1, batches_of(torch.float64))
    assert len(calls) == 1
    assert WARM_UP < 8


def test_cuda_graphs_need_a_cuda_device() -> None:
    with pytest.raises(SpotkdError, match="cuda_graphs records the steps of one CUDA device"):
        train(TrainOptions(cuda_graphs=True, accelerator="cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are recorded on a GPU")
@pytest.mark.parametrize("strategy", ["adaptive", "always", "trust", "random"])
@pytest.mark.parametrize("distiller", [name for name in DISTILLERS if name != "kdsvd"])  # eigenvectors make CUDA wait
def test_graphs_are_plain_steps(distiller: str, strategy: str, pair: Pair, told: list[str]) -> None:
    runs = []
    for recorded in (True, False):
        method = build(pair, distiller, strategy, balanced=strategy == "always").to("cuda", torch.float32)
        runs.append(Run(method, recorded, told.append, None))
    found = []
    for run in runs:
        torch.manual_seed(5)
        found.append([run.epoch(number, batches_of(torch.float32, "cuda")) for number in (1, 2)])
    for seen, expected in zip(*found, strict=True):
        # Sums of a GPU are in no fixed order, and eighteen steps of training amplify what they differ by.
        torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-2, atol=1e-2)
    assert not told
    assert runs[0].plain < runs[1].plain


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="is about a GPU")
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("distiller", [name for name in DISTILLERS if name not in ("kdsvd", "crd")])  # crd draws
def test_a_gpu_computes_what_the_processor_does(distiller: str, precision: str, pair: Pair) -> None:
    """The student's loss and its gradient: in float32 to 1e-3 of float64, with bfloat16 to a tenth."""
    batch, found = batches_of(torch.float64)[0], []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        method = build(pair, distiller, "always").train().to(device, dtype)
        on_device = Batch(batch.images.to(device, dtype), batch.labels.to(device), batch.indices.to(device))  # type: ignore[union-attr]
        torch.manual_seed(0)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" and precision == "bf16-mixed"):
            losses = method(on_device)
        losses.student.backward()
        gradient = torch.cat(
            [p.grad.flatten().double().cpu() for p in method.student.parameters() if p.grad is not None]
        )
        found.append((losses.student.detach().double().cpu(), gradient))
    (expected, slope), (loss, other) = found
    limit = 1e-3 if precision == "32" else 0.1
    assert abs(loss - expected) <= limit * abs(expected)
    if precision == "32":  # rounded maps that are nearly zero have no direction to compare
        assert (other - slope).norm() <= 2 * limit * slope.norm()


def test_every_strategy_is_the_same_in_every_step(pair: Pair, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or counts its steps: random numbers of the device, which a recording draws anew, aside."""
    monkeypatch.setattr("spotkd.recording._random_states", dict)
    for strategy in STRATEGIES:
        run = Run(build(pair, "at", strategy), True, told.append)
        run.epoch(1, batches_of(torch.float64)[:3])
        assert not told, strategy
