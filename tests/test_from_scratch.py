"""The method in plain PyTorch, ``examples/sakd_from_scratch.py``, computes what ``SpotKD`` does, to the last bit."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spotkd import SpotKD, StagedModel

FILE = Path(__file__).parents[1] / "examples" / "sakd_from_scratch.py"
EXAMPLE = SimpleNamespace(**runpy.run_path(str(FILE)))
SPOTS = {"at": [1, 2, 3], "sp": [3]}
BETA = {"at": 1000.0, "sp": 3000.0}
GAMMA, POLICY_BIAS = 1.5, -0.25
TERMS = ("task", "kl", "distill", "route", "balance")

Result = dict[str, Tensor]  # the terms and the mask of every step, all parameters and buffers after the last


class Staged(StagedModel):
    """A network of the example, which is a chain of stages already."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network
        self.stage_names = tuple(f"stage{index}" for index in range(len(network)))

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        return tuple(self.network)


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """A teacher and a student in float64, with running statistics that differ from those of any batch."""
    torch.manual_seed(0)
    pair = EXAMPLE.network(3).double(), EXAMPLE.network(2).double()
    for module in (module for network in pair for module in network.modules()):
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    torch.manual_seed(1)  # the policy and the adapters, which both initialise in the same order
    return pair


def batches() -> Iterator[tuple[int, Tensor, Tensor]]:
    """Five numbered batches, the last one smaller; before each, the noise of the decisions is seeded."""
    generator = torch.Generator().manual_seed(2)
    for step, size in enumerate((11, 11, 11, 11, 7)):
        images = torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.float64)
        torch.manual_seed(step)
        yield step, images, torch.arange(size) % 10


def named(what: str, tensors: Iterable[Tensor]) -> Result:
    return {f"{what} {index}": tensor.detach() for index, tensor in enumerate(tensors)}


def by_spotkd(distiller: str, **options: Any) -> Result:
    """Five steps of the library."""
    teacher, student = networks()
    options = {"gamma": GAMMA, "policy_bias": POLICY_BIAS} | options
    method = SpotKD(Staged(teacher), Staged(student), distiller, "adaptive", image_shape=(3, 8, 8), **options).train()
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
    result: Result = {}
    for step, images, labels in batches():
        losses = method((images, labels))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        result |= {f"{name} in step {step}": getattr(losses, name).detach() for name in (*TERMS, "mask")}
    result |= named("student parameter", student.parameters()) | named("student buffer", student.buffers())
    buffers = [buffer for name, buffer in method.named_buffers() if not name.startswith(("teacher.", "student."))]
    return result | named("router parameter", method.policy_parameters()) | named("router buffer", buffers)


@cache
def by_example(distiller: str) -> Result:
    """Five steps of the example."""
    teacher, student = networks()
    router = EXAMPLE.Router(teacher, student, torch.zeros(1, 3, 8, 8, dtype=torch.float64), SPOTS[distiller])
    router.policy.bias.data[::2] += POLICY_BIAS
    router.double()
    optimizer = EXAMPLE.make_optimizer(student, router)
    distiller_loss = getattr(EXAMPLE, f"{distiller}_loss")
    result: Result = {}
    for step, images, labels in batches():
        losses, mask = router.losses(teacher, student, images, labels, distiller_loss, BETA[distiller], GAMMA)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        result |= {f"{name} in step {step}": losses[name].detach() for name in TERMS} | {f"mask in step {step}": mask}
    result |= named("student parameter", student.parameters()) | named("student buffer", student.buffers())
    parameters = [*router.policy.parameters(), *router.hints.parameters(), *router.antihints.parameters()]
    return result | named("router parameter", parameters) | named("router buffer", router.buffers())


def differences(result: Result, other: Result) -> list[str]:
    """What is not equal to the last bit."""
    assert result.keys() == other.keys()
    return [name for name, tensor in result.items() if not torch.equal(tensor, other[name])]


@pytest.mark.parametrize("distiller", SPOTS)
def test_five_steps_are_equal_to_the_last_bit(distiller: str) -> None:
    assert differences(by_example(distiller), by_spotkd(distiller)) == []


@pytest.mark.parametrize("distiller", SPOTS)
def test_every_part_of_the_method_takes_part(distiller: str) -> None:
    """In float64, some samples are selected at every spot and some are not, and no term is always zero."""
    result = by_example(distiller)
    assert all(tensor.is_floating_point() is (tensor.dtype is torch.float64) for tensor in result.values())
    share = torch.cat([result[f"mask in step {step}"] for step in range(5)]).mean(0)
    assert share.shape == (len(SPOTS[distiller]) + 1,)
    assert share.min() > 0.2
    assert share.max() < 0.9
    for term in TERMS:
        assert any(result[f"{term} in step {step}"] > 0 for step in range(5)), term


@pytest.mark.parametrize(
    ("distiller", "changed", "first", "trains"),
    [
        ("at", {"beta": BETA["at"] * (1 + 1e-12)}, "distill in step 0", "student parameter"),
        ("sp", {"beta": BETA["sp"] * (1 + 1e-12)}, "distill in step 0", "student parameter"),
        ("at", {"gamma": GAMMA * (1 + 1e-12)}, "route in step 0", "router parameter"),
        ("at", {"policy_bias": POLICY_BIAS + 1e-6}, "router parameter 0", "router parameter"),
    ],
)
def test_the_slightest_change_is_seen(distiller: str, changed: dict[str, float], first: str, trains: str) -> None:
    found = differences(by_example(distiller), by_spotkd(distiller, **changed))
    assert found[0] == first
    assert any(name.startswith(trains) for name in found)


def test_it_fits_on_a_few_pages_and_needs_torch_alone() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {"torch", *sys.stdlib_module_names}


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FILE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(name in line for line in lines for name in (*TERMS, "share at 1", "share at logits"))
