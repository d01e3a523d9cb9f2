"""Watches for numbers that are not finite, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SpotkdError
from ..losses import Losses
from ..runs.writer import RunWriter
from ..runtime.collectives import all_reduce_sum
from ..stages import Batch
from .hooks import Hook, Start, Step


class _Pending(NamedTuple):
    """One step: its values on their way to the processor, and which samples it was made from."""

    names: tuple[str, ...]
    values: Tensor
    arrived: torch.cuda.Event | None
    batch: Batch
    place: tuple[int, int]  # epoch and step, counted from 1

    def has_arrived(self) -> bool:
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]


class Guard(Hook):
    """Stops a run at the first loss term or gradient that is not finite, or skips the step.

    On the CPU a step is judged before it changes anything. On a GPU no step waits: its values are copied while it goes
    on, and judged when they have arrived; :meth:`before_save` waits for them, so that nothing is saved before it is
    known to be sound. Skipping must know at once, and so waits at every step.

    Args:
        run: where ``nonfinite.json`` is left for inspection.
        steps: steps of an epoch, for the message.
        skip: how many steps of the run may be skipped.
        parameters: what is trained.
        buffers: what the forward pass changes, put back when a step is skipped.
        phase: what is guarded, for the message; empty for the training itself.
    """

    def __init__(
        self,
        run: RunWriter,
        steps: int,
        skip: int,
        parameters: Iterable[Tensor],
        buffers: Iterable[Tensor],
        phase: str = "",
    ) -> None:
        self.run, self.steps, self.skip, self.skipped, self.phase = run, steps, skip, 0, phase
        self._parameters = list(parameters)
        self._buffers = list(buffers) if skip else []
        self._before: list[Tensor] = []
        self._pending: list[_Pending] = []

    def on_start(self, start: Start) -> None:
        self.skipped = start.skipped

    def before_step(self) -> None:
        self._before = [buffer.clone() for buffer in self._buffers]

    def allows_step(self, step: Step) -> bool:
        """Whether the step may change the networks; called between the backward pass and the optimizer.

        Raises:
            SpotkdError: a number is not finite, and no more steps may be skipped.
        """
        terms = dict(zip(Losses.terms(), step.losses, strict=False))
        return self.allows(terms, step.batch, (step.epoch, step.number))

    def allows(self, terms: Mapping[str, Tensor], batch: Batch, place: tuple[int, int]) -> bool:
        """As :meth:`allows_step`, of a step with any terms: scalars by name.

        Raises:
            SpotkdError: as there.
        """
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        values = torch.stack([*(term.detach() for term in terms.values()), norm])
        values = all_reduce_sum(values)  # where one process has a number that is not finite, all know
        arrived = None
        if values.device.type == "cuda" and not self.skip:
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        without_images = batch._replace(images=batch.images[:0])
        self._pending.append(_Pending((*terms, "gradient"), values, arrived, without_images, place))
        while self._pending and self._pending[0].has_arrived():
            if self._judge(self._pending.pop(0)):
                return False
        return True

    def before_save(self) -> int:
        """Judge all steps so far; returns how many have been skipped.

        Raises:
            SpotkdError: a number was not finite.
        """
        for step in self._pending:
            if step.arrived is not None:
                step.arrived.synchronize()
            self._judge(step)
        self._pending = []
        return self.skipped

    def _judge(self, step: _Pending) -> bool:
        numbers = dict(zip(step.names, step.values.tolist(), strict=True))
        bad = [name for name, value in numbers.items() if not math.isfinite(value)]
        if not bad:
            return False
        epoch, number = step.place
        self.skipped += 1
        if self.skipped <= self.skip:
            for buffer, before in zip(self._buffers, self._before, strict=True):
                buffer.copy_(before)
            return True
        samples = None if step.batch.indices is None else step.batch.indices.tolist()
        content = {
            "epoch": epoch,
            "step": number,
            "values": {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()},
            "indices": samples,
            "labels": step.batch.classes.tolist(),
        }
        kept = self.run.keep_nonfinite(content)
        after = f" after {self.skip} skipped steps" if self.skip else ""
        rate = "--preparation.lr" if self.phase else "--optim.lr or the weight of that loss"
        where = f"{self.phase and f'{self.phase}, '}epoch {epoch}, step {number} of {self.steps}"
        raise SpotkdError(
            f"{where}: not finite{after}: {', '.join(bad)}; its samples are in {kept}; {self.run.last_good()}; lower "
            f"{rate}, or leave such steps out: --skip_nonfinite 10"
        )
