"""The steps of a training as CUDA graphs: forward and backward pass recorded once, then launched at once.

A step of small networks is a thousand short kernels, and launching them one by one takes longer than they do. A
recorded step launches them all together. What is recorded is fixed, so a step must do the same every time: whatever it
reads that is no tensor on the device (a number, a flag, the state of a generator of random numbers) is compared before
a step is recorded, and between steps. A step that counts says so by its :class:`Counter`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from .errors import one_line
from .losses import Losses, Method
from .stages import Batch

Compute = Callable[[Batch, float], Losses]
Record = Callable[[Callable[[], Losses], "torch.cuda.Stream | None"], tuple[Losses, Callable[[], None]]]

WARM_UP = 3  # steps before the first recording, in which libraries set themselves up
_TOLERANCE = 0.01  # relative difference of a recorded step's losses and gradients from those of the plain step
_FLOOR = 0.05  # of the length of all gradients: of what is shorter only that much counts
_TINY = 1e-30
_NETWORKS = ("teacher", "student", "routing", "twin", "teacher_twin")


@runtime_checkable
class Counter(Protocol):
    """A module whose steps differ by their number."""

    @property
    def phase(self) -> Hashable:
        """All that the next step has to know of its number: steps of one phase do the same."""

    def advance(self) -> Any:
        """A step is done. A training step calls it itself, once."""


class _Recording(NamedTuple):
    batch: Batch  # the memory that a replay reads
    losses: Losses  # and the memory that it writes
    gradients: list[Tensor | None]
    replay: Callable[[], None]
    state: dict[str, Hashable]


class RecordedSteps:
    """Losses and gradients of full batches, from recorded steps; of other batches as before.

    A recorded step is compared with the plain one when it is recorded, in its losses and in all gradients. Where it
    differs by more than 1 %, cannot be recorded, or does something else in every step, the plain steps are kept and a
    line says why. At the start of an epoch steps are recorded anew, if something that they read has changed.

    The tensors of the losses are overwritten by the next step.

    Args:
        method: whose steps.
        compute: gives the losses of a batch, which are multiplied by a factor, and sets the gradients.
        log: is called with a line for the user.
        record: runs a function on a stream, gives what it returns, and a function that repeats it on the same memory.
    """

    def __init__(
        self, method: Method, compute: Compute, log: Callable[[str], None], record: Record | None = None
    ) -> None:
        self.method, self.compute, self.log, self.record = method, compute, log, record or record_cuda_graph
        self._recordings: dict[Hashable, _Recording] = {}
        self._taken, self._refused, self._stream = 0, False, _Stream()

    def __call__(self, batch: Batch, weight: float) -> Losses:
        """The losses of a batch; gradients are then in ``grad`` of all parameters, as after a backward pass."""
        counters = [module for module in self.method.modules() if isinstance(module, Counter)]
        key = _shapes(batch), weight, tuple(counter.phase for counter in counters)
        if self._refused or not torch.is_grad_enabled():
            return self._plain(batch, weight)
        if self._taken < WARM_UP:
            return self._warm_up(batch, weight, counters)
        recording = self._recordings.get(key)
        if recording is None or recording.state != _state_of(self.method, [*counters, *_networks(self.method)]):
            if _shapes(batch) != self._full:  # the last batch of an epoch comes once, which pays back no recording
                return self._plain(batch, weight)
            recording = self._record(batch, weight, counters)
            if recording is None:
                return self._plain(batch, weight)
            self._recordings[key] = recording
        _copy_batch(batch, recording.batch)
        recording.replay()
        for parameter, gradient in zip(self.method.parameters(), recording.gradients, strict=True):
            parameter.grad = gradient
        for counter in counters:
            counter.advance()
        return recording.losses

    def start_epoch(self) -> None:
        """Forget what was recorded: what an epoch sets may be in it."""
        self._recordings.clear()

    def _plain(self, batch: Batch, weight: float) -> Losses:
        with self._stream.use(batch.images.device):
            return self.compute(batch, weight)

    def _warm_up(self, batch: Batch, weight: float, counters: Sequence[Counter]) -> Losses:
        """A plain step, after which it is known whether another one would do the same."""
        before = _state_of(self.method, counters) | _random_states()
        losses = self._plain(batch, weight)
        after = _state_of(self.method, counters) | _random_states()
        self._taken, self._full = self._taken + 1, _shapes(batch)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed and self._taken > 1:  # a first step may set things up
            self._refuse(f"every step changes {', '.join(changed[:3])}, which a recording would keep as it is")
        return losses

    def _refuse(self, why: str) -> None:
        self._refused = True
        self._recordings.clear()
        self.log(f"cuda_graphs: steps are not recorded: {why}")

    def _clear_gradients(self) -> None:
        """Of all parameters, in the optimizer or not: a recording makes its own, and lets them stay where they are."""
        for parameter in self.method.parameters():
            parameter.grad = None

    def _record(self, batch: Batch, weight: float, counters: Sequence[Counter]) -> _Recording | None:
        """A recording of the step for batches like this one; None where there is none."""
        indices = None if batch.indices is None else batch.indices.clone()
        static = Batch(batch.images.clone(), batch.labels.clone(), indices)
        self._clear_gradients()
        with _restored(self.method, counters, batch.images.device):
            expected = _outcome(self.method, self._plain(batch, weight))
        state = _state_of(self.method, [*counters, *_networks(self.method)])
        try:
            with _restored(self.method, counters, batch.images.device):
                self._clear_gradients()
                losses, replay = self.record(lambda: self.compute(static, weight), self._stream.stream)
                losses = Losses(*(term.detach() for term in losses))
                gradients = [parameter.grad for parameter in self.method.parameters()]
        except RuntimeError as error:
            self._refuse(one_line(error)[:200])
            return None
        with _restored(self.method, counters, batch.images.device):
            replay()
            found = _outcome(self.method, losses)
        difference = _relative_difference(found, expected)
        if not difference <= _TOLERANCE:
            self._refuse(f"a recorded step would differ by {difference:.2g}")
            return None
        return _Recording(static, losses, gradients, replay, state)


def record_cuda_graph(
    function: Callable[[], Losses], stream: torch.cuda.Stream | None
) -> tuple[Losses, Callable[[], None]]:
    """Record what a function launches on the current CUDA device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        losses = function()
    return losses, graph.replay


class _Stream:
    """The stream on which steps are taken and recorded: gradients remember where they were first added up."""

    stream: torch.cuda.Stream | None = None

    @contextmanager
    def use(self, device: torch.device) -> Iterator[None]:
        """On CUDA the same stream at every call; what comes after it waits for it."""
        if device.type != "cuda":
            yield
            return
        self.stream = self.stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)


def _shapes(batch: Batch) -> tuple[Hashable, ...]:
    return tuple(None if x is None else (x.shape, x.stride(), x.dtype) for x in batch)


def _copy_batch(source: Batch, target: Batch) -> None:
    for one, other in zip(source, target, strict=True):
        if one is not None and other is not None:
            other.copy_(one, non_blocking=True)


@contextmanager
def _restored(method: Method, counters: Sequence[Counter], device: torch.device) -> Iterator[None]:
    """Buffers, counters and random numbers are afterwards what they were; gradients are not."""
    buffers = [(buffer, buffer.clone()) for buffer in method.buffers()]
    counts = [module.get_extra_state() for module in counters if isinstance(module, nn.Module)]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, count in zip(counters, counts, strict=True):
            module.set_extra_state(count)  # type: ignore[attr-defined]


def _outcome(method: Method, losses: Losses) -> list[Tensor]:
    """Copies of the terms of the losses, of the decisions, and of each parameter's gradient."""
    gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    return [x.detach().to(torch.float64, copy=True) for x in (*losses[: len(Losses.terms())], losses.mask, *gradients)]


def _relative_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest of all, of gradients beside a part of all of them together: some are zero but for rounding."""
    if len(found) != len(expected):
        return float("inf")
    terms = len(Losses.terms()) + 1
    length = torch.stack([x.norm() for x in expected[terms:]]).norm() if expected[terms:] else torch.tensor(0.0)
    floors = [torch.full_like(length, _TINY)] * terms + [_FLOOR * length + _TINY] * len(expected[terms:])
    distances = [
        (one - other).norm() / (other.norm() + floor) for one, other, floor in zip(found, expected, floors, strict=True)
    ]
    return float(torch.stack(distances).max())


def _networks(method: Method) -> list[object]:
    """The large parts, in which nothing changes between two steps of an epoch."""
    return [vars(method)["_modules"].get(name) or vars(method).get(name) for name in _NETWORKS]


def _state_of(method: Method, without: Iterable[object] = ()) -> dict[str, Hashable]:
    """All that a step may read and a recording would fix, by its place: numbers, flags, names, where tensors lie.

    Args:
        method: its parts, and the objects of this package that they hold, are looked through.
        without: parts that are left out.
    """
    state: dict[str, Hashable] = {}
    seen = {id(part) for part in without}

    def visit(value: object, place: str) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            state[place] = value
        elif isinstance(value, Tensor):
            state[place] = value.data_ptr(), value.shape, value.dtype
        elif isinstance(value, torch.Generator):
            state[place] = value.get_state().numpy().tobytes()
        elif isinstance(value, (np.random.Generator, random.Random)):
            state[place] = repr(
                value.bit_generator.state if isinstance(value, np.random.Generator) else value.getstate()
            )
        elif id(value) in seen:
            return
        elif isinstance(value, Mapping):
            seen.add(id(value))
            for key, each in value.items():
                visit(each, f"{place}.{key}")
        elif isinstance(value, (list, tuple, set, frozenset)):
            seen.add(id(value))
            for number, each in enumerate(value):
                visit(each, f"{place}.{number}")
        elif isinstance(value, nn.Module) or type(value).__module__.partition(".")[0] == __package__:
            seen.add(id(value))
            for name, each in getattr(value, "__dict__", {}).items():
                inner = name in ("_parameters", "_buffers", "_modules")
                visit(each, place if inner else f"{place}.{name}".lstrip("."))

    visit(method, "")
    return state


def _random_states() -> dict[str, Hashable]:
    """The states of the generators of the host, which no recording draws from."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "Python's random numbers": hash(random.getstate()),
        "NumPy's random numbers": (numpy["state"]["pos"], numpy["has_gauss"]),
        "torch's random numbers of the CPU": torch.get_rng_state().numpy().tobytes(),
    }
