"""Compiled passes are used for full batches only, and only if they give what the plain ones give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spotkd import Batch, SpotKD, Supervised
from spotkd.compiling import compile_method

from .conftest import IMAGE_SHAPE, TinyNet
from .test_fast_paths import SIZE, Run, Step

Function = Callable[..., Any]


class Compiler:
    """Stands in for torch.compile: programs that do as ``change`` says, and count their calls."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change = change
        self.calls: list[int] = []  # images of each
        self.made: list[dict[str, Any]] = []

    def __call__(self, function: Function, **options: Any) -> Function:
        self.made.append(options)

        def program(*arguments: Any) -> Any:
            self.calls.append(len(arguments[0]))
            return self.change(function(*arguments))

        return program


def faithful(outputs: Any) -> Any:
    return outputs


class WrongGradient(torch.autograd.Function):
    """The identity, whose gradient is 5 % too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 1.05 * gradients[0]


def unfaithful(outputs: Any) -> Any:
    """The right outputs with wrong gradients, as torch 2.13 has had."""
    if isinstance(outputs, tuple):
        return tuple(map(WrongGradient.apply, outputs))
    return WrongGradient.apply(outputs)


def broken(outputs: Any) -> Any:
    raise RuntimeError("no C++ compiler\nfound")


def steps(run: Run, numbers: range) -> list[Step]:
    torch.manual_seed(0)
    return [run.step(number) for number in numbers]


def assert_same(some: list[Step], others: list[Step]) -> None:
    for one, other in zip(some, others, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.mark.parametrize("bf16", [False, True])
def test_a_faithful_program_is_used_for_full_batches(
    bf16: bool, pair: tuple[TinyNet, TinyNet], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Compiler(faithful)
    monkeypatch.setattr(torch, "compile", compiler)
    fast, plain = Run(pair, "at", True, bf16), Run(pair, "at", True, bf16)
    with compile_method(fast.method, SIZE, told.append):
        seen = steps(fast, range(4))
        used = len(compiler.calls)
        fast.method.eval()
        fast.step(5)
        assert len(compiler.calls) == used
    # To the last bit: the comparison has moved no statistic and no random number.
    assert_same(seen, steps(plain, range(4)))
    assert torch.equal(fast.method.student.state_dict()["stem.1.num_batches_tracked"], torch.tensor(4))
    assert set(compiler.calls) == {SIZE}  # and not the seven of the short batch
    assert len(compiler.made) == 3
    assert len(told) == 3


def test_the_passes_are_put_back(pair: tuple[TinyNet, TinyNet]) -> None:
    method = Run(pair, "at", True).method
    before = {name: dict(vars(module)) for name, module in method.named_modules()}
    with compile_method(method, SIZE, print):
        assert "features" in vars(method.student)
    assert {name: dict(vars(module)) for name, module in method.named_modules()} == before


@pytest.mark.parametrize("change", [unfaithful, broken])
def test_an_unfaithful_program_is_not_used(
    change: Function, pair: tuple[TinyNet, TinyNet], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(change))
    fast = Run(pair, "at", True)
    with compile_method(fast.method, SIZE, told.append):
        seen = steps(fast, range(4))
    assert_same(seen, steps(Run(pair, "at", True), range(4)))
    refused = [line for line in told if "stays as it is" in line]
    if change is broken:
        assert len(refused) == 3
        assert "no C++ compiler found" in refused[0]
    else:  # the teacher's pass has no gradient that could be wrong
        assert [line.split()[1] for line in refused] == ["student", "routing"]
        assert "differ by 0.04" in refused[0]


def test_a_program_with_other_outputs_is_not_used(
    pair: tuple[TinyNet, TinyNet], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(outputs: Any) -> Any:
        return tuple(1.1 * x for x in outputs) if isinstance(outputs, tuple) else outputs

    monkeypatch.setattr(torch, "compile", Compiler(shifted))
    method = Run(pair, "kd", True).method
    with compile_method(method, SIZE, told.append):
        method(Batch(torch.randn(SIZE, *IMAGE_SHAPE), torch.arange(SIZE) % 3, torch.arange(SIZE)))
    assert [line.split()[1] for line in told if "stays as it is" in line] == ["teacher", "student"]


def test_a_network_that_knows_one_type_only(
    pair: tuple[TinyNet, TinyNet], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be compared in float64; its run goes on in float32, with nothing changed."""
    monkeypatch.setattr(torch, "compile", Compiler(faithful))
    fast = Run(pair, "kd", True)
    stages = fast.method.student.stages

    def only_float32(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected Float")
        return stages()[0](x)

    monkeypatch.setattr(fast.method.student, "stages", lambda: (only_float32, *stages()[1:]))
    with compile_method(fast.method, SIZE, told.append):
        seen = steps(fast, range(3))
    assert "compile: student stays as it is, it cannot be compiled and compared here (expected Float)" in told
    assert all(p.dtype == torch.float32 for p in fast.method.parameters())
    assert_same(seen, steps(Run(pair, "kd", True), range(3)))


@pytest.mark.parametrize("distiller", ["ofd", "kd"])
def test_what_is_compiled(distiller: str, pair: tuple[TinyNet, TinyNet]) -> None:
    adaptive, fixed = (
        SpotKD(*pair, distiller, strategy, image_shape=IMAGE_SHAPE) for strategy in ("adaptive", "always")
    )
    name = "features_and_preactivations" if distiller == "ofd" else "features"
    assert adaptive.compilable_calls() == [(pair[0], name), (pair[1], name), (adaptive.routing, "forward")]
    assert fixed.compilable_calls() == [(pair[0], name), (pair[1], name)]
    assert Supervised(pair[1]).compilable_calls() == [(pair[1], "forward")]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["joint", "anti"])
def test_other_strategies_compiled(strategy: str, pair: tuple[TinyNet, TinyNet], told: list[str]) -> None:
    """In float64, where nothing hides behind round-off; joint trains the teacher, in train mode, along."""
    found = []
    for fast in (True, False):
        torch.manual_seed(0)
        method = SpotKD(*pair, "fitnet", strategy, image_shape=IMAGE_SHAPE).train()
        state = {key: value.clone() for key, value in method.state_dict().items()}
        batch = Batch(torch.randn(SIZE, *IMAGE_SHAPE, dtype=torch.float64), torch.arange(SIZE) % 3)
        with compile_method(method, SIZE if fast else SIZE + 1, told.append):
            losses = method(batch)
            losses.total.backward()
        found.append([p.grad for p in method.parameters() if p.grad is not None])
        method.load_state_dict(state)
        method.zero_grad()
    assert sum("stays as it is" in line for line in told) == 0
    assert len(told) == 3
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9)
