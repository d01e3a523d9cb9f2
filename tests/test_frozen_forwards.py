"""What tracing would fix for ever: it runs right, or is refused with its line."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spotkd import SpotKD
from spotkd.errors import SpotkdError
from spotkd.models.sources import build as build_network
from spotkd.staging import stage

SMALL = (3, 16, 16)
GENERATOR = np.random.default_rng(0)


class Net(nn.Module):
    """A network whose forward has a step of its own between its blocks."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()) for _ in range(3))
        self.fc = nn.Linear(6, num_classes)
        self.rate, self.calls, self.rates = 0.5, 0, [0.5]

    def forward(self, x: Tensor) -> Tensor:
        x = self.step(self.stem(x))
        return self.fc(x.mean((2, 3)))

    def step(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def make(step: Any) -> Any:
    return type("Made", (Net,), {"step": step, "__module__": __name__})()


def drop_by_python(net: Any, x: Tensor) -> Tensor:
    for block in net.blocks:
        if random.random() < net.rate:  # here
            x = block(x)
    return x


def drop_by_numpy(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) if np.random.rand() < net.rate else x  # noqa: NPY002  # here


def drop_by_own_generator(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) if GENERATOR.random() < net.rate else x  # here


def drop_by_torch(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) if torch.rand(()).item() < net.rate else x  # here


def baked(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) + torch.ones_like(x) * random.uniform(0, 1)  # here


def baked_from_the_system(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) * np.random.default_rng().random()  # here


@pytest.mark.parametrize(
    "step", [drop_by_python, drop_by_numpy, drop_by_own_generator, drop_by_torch, baked, baked_from_the_system]
)
def test_random_numbers_are_refused_with_their_line(step: Any) -> None:
    model = make(step)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    with pytest.raises(SpotkdError, match=rf"{__name__.rpartition('.')[2]}\.py.*\d+.*# here") as caught:
        stage(model, ["stem"], image_shape=SMALL)
    assert "cutting would fix" in str(caught.value)
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_random_block_below_the_cuts_stays_random() -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if random.random() < 0.5 else x + 1

    def step(net: Any, x: Tensor) -> Tensor:
        return net.extra(x)

    model = make(step)
    model.extra = Random()
    staged = stage(model, ["stem", "extra"], image_shape=SMALL)
    images = torch.randn(2, *SMALL)
    assert len({float(staged(images).detach().sum()) for _ in range(40)}) == 2


def scaled(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) * net.rate


def scaled_by_list(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) * net.rates[0]


def dropped(net: Any, x: Tensor) -> Tensor:
    return F.dropout(net.blocks[0](x), net.rate, net.training)


def switched(net: Any, x: Tensor) -> Tensor:
    return net.blocks[0](x) if net.rate > 0.6 else x


@pytest.mark.parametrize("step", [scaled, scaled_by_list, dropped, switched])
@pytest.mark.parametrize("which", ["network", "staged", "copy"])
def test_attributes_are_looked_up_in_each_run(step: Any, which: str) -> None:
    model = make(step)
    staged: Any = stage(model, ["stem"], image_shape=SMALL)
    if which == "copy":
        staged = copy.deepcopy(staged)
        model = vars(staged)["_root"]
    images = torch.randn(2, *SMALL)
    for rate in (0.9, 0.2):
        (staged if which == "staged" else model).rate = rate
        model.rates[0] = rate
        for training in (True, False):
            staged.train(training)
            torch.manual_seed(1)
            expected = model(images)
            torch.manual_seed(1)
            assert torch.equal(staged(images), expected)


def test_an_attribute_that_the_forward_sets_is_refused() -> None:
    def step(net: Any, x: Tensor) -> Tensor:
        net.calls += 1
        return net.blocks[0](x) * net.calls

    model = make(step)
    with pytest.raises(SpotkdError, match="Made sets 'calls'"):
        stage(model, ["stem"], image_shape=SMALL)
    assert model.calls == 0


class LayerDrop(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if not self.training or random.random() >= self.rate:
                x = block(x)
        return self.fc(x.mean((2, 3)))


def test_the_error_shows_stages_by_hand_that_stay_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpotkdError) as caught:
        stage(LayerDrop(), image_shape=SMALL)
    (tmp_path / "pasted_stages.py").write_text(str(caught.value).split("\n\n", 1)[1])
    monkeypatch.syspath_prepend(tmp_path)
    student: Any = build_network("python:pasted_stages.build", num_classes=5, image_shape=SMALL)
    ran = [0, 0, 0]
    for k, block in enumerate(student.blocks):
        block.register_forward_hook(lambda *_, k=k: ran.__setitem__(k, ran[k] + 1))
    method = SpotKD(copy.deepcopy(student), student, "at", "adaptive", image_shape=SMALL).train()
    method((torch.randn(4, *SMALL), torch.arange(4))).total.backward()
    ran[:] = [0, 0, 0]
    student.train()
    random.seed(0)
    for _ in range(200):
        student(torch.zeros(2, *SMALL))
    assert all(70 < count < 130 for count in ran)
    student.eval()
    plain = LayerDrop().eval()
    plain.load_state_dict(student.state_dict())
    images = torch.randn(2, *SMALL)
    assert torch.equal(student(images), plain(images))


# Variables of files and classes

FACTOR, PLAN, SEEN = 0.5, {"blocks": [0, 2]}, {"count": 0}


class Settings:
    factor = 0.5


def halve(x: Tensor) -> Tensor:
    return FACTOR * x


def scale_by_a_variable(net: Any, x: Tensor) -> Tensor:
    return x + FACTOR * net.blocks[0](x)


def scale_in_a_function(net: Any, x: Tensor) -> Tensor:
    return halve(net.blocks[0](x))


def scale_by_a_class(net: Any, x: Tensor) -> Tensor:
    return x * Settings.factor


def count_in_a_variable(net: Any, x: Tensor) -> Tensor:
    SEEN["count"] += 1
    return x * (1 + SEEN["count"] / 10)


@pytest.mark.parametrize(
    ("step", "where"),
    [
        (scale_by_a_variable, (globals(), "FACTOR")),
        (scale_in_a_function, (globals(), "FACTOR")),
        (scale_by_a_class, (Settings, "factor")),
    ],
)
def test_variables_are_looked_up_in_each_run(step: Any, where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(step)
    staged, x = copy.deepcopy(stage(net, ["stem"], image_shape=SMALL)), torch.randn(4, *SMALL)
    torch.testing.assert_close(staged(x), net(x))
    before = staged(x)
    if isinstance(where[0], dict):
        monkeypatch.setitem(*where, 0.9)
    else:
        monkeypatch.setattr(*where, 0.9)
    torch.testing.assert_close(staged(x), net(x))
    assert not torch.allclose(staged(x), before)


def test_a_variable_that_the_forward_sets_is_refused() -> None:
    with pytest.raises(SpotkdError, match=r"sets 'tests.test_frozen_forwards.SEEN' \(\('count', \d\), now"):
        stage(make(count_in_a_variable), ["stem"], image_shape=SMALL)


def stochastic_depth(net: Any, x: Tensor) -> Tensor:
    """As many write it: noise of the batch's size, made by the forward itself."""
    if net.training:
        kept = (torch.rand(x.shape[0], 1, 1, 1, device=x.device) < net.rate).to(x.dtype)
        return x + kept / net.rate * net.blocks[0](x)
    return x + net.blocks[0](x) + torch.zeros(x.size(0), 6, 1, 1)


def test_noise_of_the_batchs_size_stays_random() -> None:
    net = make(stochastic_depth)
    staged, x = stage(net, ["stem"], image_shape=SMALL), torch.randn(8, *SMALL)
    for training in (True, False):
        staged.train(training)
        found = []
        for network in (staged, net, net):
            torch.manual_seed(len(found) // 2)  # the same for the first two
            found.append(network(x))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[1], found[2]) is not training
    assert torch.rand.__name__ == "rand"
    assert not hasattr(torch.rand, "__wrapped__")


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_a_scripted_part_is_called_as_it_is() -> None:
    net = make(lambda net, x: net.blocks[0](x))
    net.blocks[0] = torch.jit.script(net.blocks[0])
    staged, x = stage(net, ["stem"], image_shape=SMALL), torch.randn(4, *SMALL)
    torch.testing.assert_close(staged(x), net(x))
