"""Chains of stages and the frozen twin."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from spotkd import SpotKD
from spotkd.stages import FrozenTwin, feature_shapes

from .conftest import IMAGE_SHAPE, TinyNet


def test_shapes_and_modes_are_left_alone(pair: tuple[TinyNet, TinyNet]) -> None:
    _, student = pair
    student.train()
    student.layer2.eval()
    before = copy.deepcopy(student.state_dict())
    shapes = feature_shapes(student, IMAGE_SHAPE)
    assert shapes == ((4, 8, 8), (4, 8, 8), (8, 4, 4), (12, 2, 2), (12,), (5,))
    assert student.training
    assert student.stem.training
    assert not student.layer2[1].training
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def shares_storage(twin: FrozenTwin, student: nn.Module) -> bool:
    twin.refresh()
    mine = {**dict(twin._body.named_parameters()), **dict(twin._body.named_buffers())}
    # A detached tensor in a parameter's place is not listed by named_parameters(), so look it up by name.
    for name, tensor in [*student.named_parameters(), *student.named_buffers()]:
        module, _, leaf = name.rpartition(".")
        found = mine.get(name, getattr(twin._body.get_submodule(module), leaf))
        if found.data_ptr() != tensor.data_ptr() or found.dtype != tensor.dtype or found.requires_grad:
            return False
    return True


def test_twin_shares_storage_whatever_happens_to_the_student(pair: tuple[TinyNet, TinyNet]) -> None:
    teacher, student = pair
    method = SpotKD(teacher, student, "at", image_shape=IMAGE_SHAPE)
    assert shares_storage(method.twin, student)
    method.float()
    assert shares_storage(method.twin, student)
    student.double()  # behind the method's back
    assert shares_storage(method.twin, student)
    if torch.cuda.is_available():
        method.cuda()
        assert shares_storage(method.twin, student)
        method.cpu()
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert shares_storage(method.twin, student)
    state = {key: torch.zeros_like(value) for key, value in student.state_dict().items()}
    student.load_state_dict(state)
    assert shares_storage(method.twin, student)
    student.load_state_dict({key: value + 1 for key, value in state.items()}, assign=True)
    assert shares_storage(method.twin, student)
    clone = copy.deepcopy(method)
    assert shares_storage(clone.twin, clone.student)
    assert not shares_storage_without_refresh(clone.twin, student)


def shares_storage_without_refresh(twin: FrozenTwin, student: TinyNet) -> bool:
    return twin._body.get_submodule("fc").weight.data_ptr() == student.fc.weight.data_ptr()  # type: ignore[operator]


def test_twin_under_fabric(pair: tuple[TinyNet, TinyNet], batch: tuple[Tensor, Tensor]) -> None:
    teacher, student = (network.float() for network in pair)
    method = SpotKD(teacher, student, "at", image_shape=IMAGE_SHAPE)
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(method, torch.optim.SGD(method.parameter_groups(), momentum=0.9))
    for _ in range(2):
        losses = wrapped((batch[0].float(), batch[1]))
        fabric.backward(losses.total)
        optimizer.step()
        optimizer.zero_grad()
    assert shares_storage(method.twin, method.student)


def test_twin_is_the_student_in_eval_mode_and_a_constant(
    pair: tuple[TinyNet, TinyNet], batch: tuple[Tensor, Tensor]
) -> None:
    _, student = pair
    twin = FrozenTwin(student)
    student.train()
    images = batch[0].clone().requires_grad_()
    statistics = student.stem[1].running_mean.clone()  # type: ignore[operator]
    out = twin.run(images, 0, 6)
    out.sum().backward()
    assert images.grad is not None
    assert all(p.grad is None for p in student.parameters())
    assert torch.equal(statistics, student.stem[1].running_mean)  # type: ignore[arg-type]
    assert torch.equal(out, student.eval()(batch[0]))


def test_twin_owns_no_parameter_of_the_method(pair: tuple[TinyNet, TinyNet]) -> None:
    method = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    assert not [name for name, _ in method.named_parameters() if "twin" in name or "_body" in name]
    assert not [key for key in method.state_dict() if "twin" in key]


@pytest.mark.parametrize("cut", range(7))
def test_two_halves_make_one_whole(cut: int, pair: tuple[TinyNet, TinyNet], batch: tuple[Tensor, Tensor]) -> None:
    model = pair[0].eval()
    assert torch.equal(model.run(model.run(batch[0], 0, cut), cut, 6), model(batch[0]))
    assert all(torch.equal(f, model.run(batch[0], 0, k + 1)) for k, f in enumerate(model.features(batch[0])))
