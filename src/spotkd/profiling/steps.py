"""What a training step of each distiller and strategy costs, beside a step of plain KD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from ..errors import SpotkdError
from ..folding import fold_batchnorm
from ..method import SpotKD
from ..models import create_model
from ..routing import make_strategy
from ..stages import Batch, Shape
from ..statistics import MedianRange, median_range
from .timing import Call, interleaved


@dataclass(frozen=True)
class StepCost:
    """A training step of one distiller and strategy.

    Attributes:
        student: which it trains.
        distiller: what is distilled.
        strategy: where.
        milliseconds: of a step; None where the distiller does not fit the pair.
        to_kd: times a step of plain KD in the same round.
        problem: why it does not fit.
    """

    student: str
    distiller: str
    strategy: str
    milliseconds: MedianRange | None
    to_kd: MedianRange | None
    problem: str | None = None


@dataclass(frozen=True)
class StepFactory:
    """Makes training steps of one pair, as the training loop takes them."""

    teacher: str
    student: str
    classes: int
    shape: Shape
    samples: int
    fabric: Fabric

    def make_batch(self, size: int) -> Batch:
        """Random images ``(size, *shape)``, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(size, *self.shape, generator=generator)
        labels, indices = torch.arange(size) % self.classes, torch.arange(size) % self.samples
        device = self.fabric.device
        return Batch(images.to(device, memory_format=torch.channels_last), labels.to(device), indices.to(device))

    def make_step(self, distiller: str, strategy: str, batch: Batch) -> Call:
        """A function that takes one step on ``batch``: forward, backward, optimizer."""
        torch.manual_seed(0)
        with redirect_stdout(None):  # proposed cuts
            teacher, student = (
                create_model(name, self.classes, image_shape=self.shape) for name in (self.teacher, self.student)
            )
        routing = make_strategy(strategy)
        if not routing.trains_teacher:
            teacher = fold_batchnorm(teacher, self.shape).model
        labels = torch.arange(self.samples) % self.classes
        method = SpotKD(teacher, student, distiller, routing, image_shape=self.shape, labels=labels).train()
        method = method.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9)

        def step() -> None:
            with self.fabric.autocast():
                total = method(batch).total
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()

        return step


def _try_step(factory: StepFactory, distiller: str, strategy: str, batch: Batch) -> Call | SpotkdError:
    """A step that has been taken once, or why it cannot be."""
    try:
        step = factory.make_step(distiller, strategy, batch)
        step()
    except SpotkdError as error:
        return error
    return step


def measure_steps(
    factory: StepFactory, distiller: str, strategies: Sequence[str], plain_kd: Call, batch: Batch, rounds: int
) -> Iterator[StepCost]:
    """The steps of one distiller with each strategy."""
    calls: dict[str | None, Call] = {None: plain_kd}
    problems: dict[str, str] = {}
    for strategy in strategies:
        made = _try_step(factory, distiller, strategy, batch)
        if isinstance(made, SpotkdError):
            problems[strategy] = str(made)
        else:
            calls[strategy] = made
    times = interleaved(calls, rounds, factory.fabric.device) if len(calls) > 1 else {}
    for strategy in strategies:
        if strategy in problems:
            yield StepCost(factory.student, distiller, strategy, None, None, problems[strategy])
            continue
        ratios = [own / kd for own, kd in zip(times[strategy], times[None], strict=True)]
        yield StepCost(factory.student, distiller, strategy, median_range(times[strategy]), median_range(ratios))
