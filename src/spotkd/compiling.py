"""The networks' passes as programs of ``torch.compile``, each used only after it gave what the plain pass gives.

Nearly all of a step's time goes into the passes of student, teacher and routing network; a compiler saves some of what
lies between their convolutions. Compilers have their faults: on torch 2.13 a step compiled as a whole ran, with the
right loss and wrong gradients. So the passes are compiled one by one, the losses stay as they are written, and at the
first batch each program's outputs and gradients are compared with the plain pass's.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .errors import one_line
from .method import Method
from .stages import FrozenTwin

Function = Callable[..., Any]
_TOLERANCE = 0.01  # what a program may differ from float64 anyhow: a ReLU may fall on the other side of its kink
_SLACK = 2.0  # times what the plain pass does
_FLOOR = 0.05  # of the length of all gradients: of what is shorter (a bias before BatchNorm) only that much counts
_TINY = 1e-30
_ROUNDS = 5  # of which the fastest is reported


@contextmanager
def compile_method(method: Method, size: int, log: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, training batches of ``size`` images go through compiled passes.

    Each is compiled at its first such batch and then compared with the plain pass in float64, in its outputs and in the
    gradients of everything that it trains. Where it is further from that than twice the plain pass, and further than
    1 %, or where there is no program, the plain pass is kept and a line says why. Batches of another size, such as the
    last one of an epoch, and evaluation take the plain passes, so that nothing is compiled twice.

    Args:
        method: whose passes; they are restored at the end.
        size: images in a full batch, of this process.
        log: is called with a line for each pass: how long compiling took, and after how many steps that is paid back.
    """
    options: dict[str, Any] = {"fallback_random": True}  # a network's own random numbers stay what they are
    calls = [
        (owner, name, _CompiledCall(owner, name, method, size, options, log))
        for owner, name in method.compilable_calls()
    ]
    before = [vars(owner).get(name) for owner, name, _ in calls]  # mostly none: methods are their class's
    for owner, name, call in calls:
        setattr(owner, name, call)
    try:
        yield
    finally:
        for (owner, name, _), own in zip(calls, before, strict=True):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        torch.compiler.reset()


class _CompiledCall:
    """A network's method, compiled once it is first called with a full batch."""

    def __init__(
        self,
        owner: nn.Module,
        name: str,
        method: Method,
        size: int,
        options: dict[str, Any],
        log: Callable[[str], None],
    ) -> None:
        self.plain: Function = getattr(owner, name)
        self.owner, self.method, self.size, self.options, self.log = owner, method, size, options, log
        self.label = next(key for key, module in method.named_modules() if module is owner)
        self.compiled: Function | None = None
        self.attempted = False

    def __call__(self, images: Tensor, *rest: Any) -> Any:
        if not self.method.student.training or len(images) != self.size:
            return self.plain(images, *rest)
        if not self.attempted:
            self.attempted = True
            self._compile_and_compare((images, *rest))
        return (self.compiled or self.plain)(images, *rest)

    def _compile_and_compare(self, arguments: tuple[Any, ...]) -> None:
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own, about code that is not ours
                fast = torch.compile(self.plain, dynamic=False, options=self.options)
                found = self._outcome(fast, arguments)
            spent = time.perf_counter() - started
            exact = self._reference_outcome(arguments)
        except Exception as error:  # whatever the compiler, or the network in float64, could not do
            why = one_line(error)[:300]
            self.log(f"compile: {self.label} stays as it is, it cannot be compiled and compared here ({why})")
            return
        # The plain pass is rounded too, in a deep network by a few percent: it is what a program may not be worse than.
        allowed = max(_TOLERANCE, _SLACK * _relative_difference(self._outcome(self.plain, arguments), exact))
        difference = _relative_difference(found, exact)
        if not difference <= allowed:
            measured = f"{difference:.2g} (up to {allowed:.2g})"
            self.log(f"compile: {self.label} stays as it is, compiled it would differ by {measured}")
            return
        self.compiled = fast
        rounds = [[self._outcome(one, arguments).seconds for one in (self.plain, fast)] for _ in range(_ROUNDS)]
        before, after = map(min, zip(*rounds, strict=True))
        line = f"compiled {self.label} in {spent:.0f} s: {1e3 * after:.0f} ms instead of {1e3 * before:.0f}"
        self.log(f"{line}, paid back after {spent / (before - after):.0f} steps" if after < before else line)

    def _reference_outcome(self, arguments: tuple[Any, ...]) -> _Outcome:
        """The plain pass's outcome in float64."""
        twins = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, FrozenTwin)]
        device = arguments[0].device.type
        wide = torch.float32 if device == "mps" else torch.float64  # Apple's GPUs have no float64
        held = [t for t in (*self.method.parameters(), *self.method.buffers()) if t.is_floating_point()]
        kept = [tensor.data for tensor in held]

        def set_data(values: Sequence[Tensor]) -> None:
            for tensor, value in zip(held, values, strict=True):
                tensor.data = value
            for twin in twins:
                twin.refresh()

        def to_wide(value: Any) -> Any:
            return value.to(wide) if isinstance(value, Tensor) and value.is_floating_point() else value

        set_data([value.to(wide) for value in kept])
        try:
            with torch.autocast(device, enabled=False):
                return self._outcome(lambda *given: self.plain(*tree_map(to_wide, given)), arguments)
        finally:
            set_data(kept)

    def _outcome(self, function: Function, arguments: tuple[Any, ...]) -> _Outcome:
        """Outputs for ``arguments`` and the gradients of a random sum of them; what the pass changes is restored."""
        device = arguments[0].device
        trained = [p for p in (*self.owner.parameters(), *tree_leaves(arguments)) if _requires_grad(p)]
        with _preserve_buffers_and_rng(self.owner, device):
            started = _now(device)
            outputs = [leaf for leaf in tree_leaves(function(*arguments)) if isinstance(leaf, Tensor)]
            forward = _now(device) - started
            torch.manual_seed(0)
            weights = [torch.randn_like(output, dtype=torch.float32).to(output.dtype) for output in outputs]
            ends = [pair for pair in zip(outputs, weights, strict=True) if pair[0].requires_grad]
            gradients: Sequence[Tensor | None] = ()
            started = _now(device)
            if ends:
                gradients = torch.autograd.grad(
                    [end for end, _ in ends], trained, [weight for _, weight in ends], allow_unused=True
                )
            backward = _now(device) - started
        return _Outcome(_copies(outputs), _copies(gradients), forward + backward)


class _Outcome(NamedTuple):
    outputs: list[Tensor]
    gradients: list[Tensor]
    seconds: float


def _copies(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """In float32, so that nothing that follows changes them."""
    return [tensor.detach().to(torch.float32, copy=True) for tensor in tensors if tensor is not None]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _preserve_buffers_and_rng(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Statistics and random numbers are afterwards what they were, whatever happens."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _relative_difference(found: _Outcome, expected: _Outcome) -> float:
    """The largest relative difference of an output, or of a gradient; infinite where their shapes differ."""
    distances = [0.0]
    for some, others in ((found.outputs, expected.outputs), (found.gradients, expected.gradients)):
        if [tensor.shape for tensor in some] != [tensor.shape for tensor in others]:
            return float("inf")
        floor = _FLOOR * sum(float(other.norm()) ** 2 for other in others) ** 0.5
        for one, other in zip(some, others, strict=True):
            distances.append(float((one - other).norm()) / max(float(other.norm()) + floor, _TINY))
    return float(torch.tensor(distances).max())  # which, unlike Python's, passes on what is no number
