"""Networks as people have them: with several outputs, wrapped, compiled, scripted; SqueezeNet's classifier."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from spotkd import SpotKD, SpotkdError, create_model, stage
from spotkd.models import build_model, save_weights
from spotkd.stages import feature_shapes

from .vision import torchvision

SHAPE = (3, 16, 16)


class Answer(NamedTuple):
    features: Tensor
    logits: Tensor


class Net(nn.Module):
    """Two heads on a map; ``give`` says in which form."""

    def __init__(self, give: str = "tensor", classes: int = 5) -> None:
        super().__init__()
        self.give = give
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.other = nn.Linear(8, classes), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Any:
        features = self.pool(self.body(self.stem(x)))
        logits, other = self.head(features), self.other(features)
        if self.give == "tensor" or (self.give == "tuple in train" and not self.training):
            return logits
        forms = {
            "dict": {"aux": other, "logits": logits},
            "nested": {"out": (other, logits)},
            "ordered": OrderedDict(logits=logits, loss=None),
            "named": Answer(features, logits),
        }
        return forms.get(self.give, (logits, other))


OUTPUTS = [("dict", "logits"), ("nested", "out.1"), ("ordered", "logits"), ("tuple", 0), ("tuple in train", "0")]


@pytest.mark.parametrize(("give", "output"), [*OUTPUTS, ("named", "logits"), ("named", 1)])
def test_logits_out_of_any_form(give: str, output: str | int) -> None:
    torch.manual_seed(0)
    net = Net(give)
    plain = Net()
    plain.load_state_dict(net.state_dict())
    images = torch.randn(4, *SHAPE)
    staged, expected = (
        stage(net, ["stem", "body"], image_shape=SHAPE, output=output),
        stage(plain, ["stem", "body"], image_shape=SHAPE),
    )
    for mode in (True, False):
        for mine, theirs in zip(
            staged.train(mode).features(images), expected.train(mode).features(images), strict=True
        ):
            assert torch.equal(mine, theirs)
    assert type(net) is Net  # left as it was
    method = SpotKD(stage(Net(), ["stem", "body"], image_shape=SHAPE), staged, "at", image_shape=SHAPE)
    assert torch.isfinite(method((images, torch.arange(4))).total)


@pytest.mark.parametrize(
    ("give", "output", "told"),
    [
        ("dict", None, r"eval mode but a dictionary of aux \(3, 5\), logits \(3, 5\): name .*such as logits"),
        ("tuple", None, r"eval mode but a tuple of 0 \(3, 5\), 1 \(3, 5\): .*such as 0 .*--student.output"),
        ("tuple in train", None, r"one tensor in train mode but a tuple of"),
        ("dict", "logit", r"output is logit: Net gives a dictionary of aux"),
        ("tuple", 7, r"output is 7: Net gives a tuple"),
        ("ordered", "loss", r"output is loss: Net gives a dictionary of logits \(3, 5\), loss \(NoneType\)"),
        ("tensor", 0, r"output is 0: Net gives one tensor"),
    ],
)
def test_what_is_not_there(give: str, output: str | int | None, told: str) -> None:
    with pytest.raises(SpotkdError, match=told) as caught:
        stage(Net(give), ["stem", "body"], image_shape=SHAPE, output=output)
    assert "\n" not in str(caught.value)


def test_a_weights_file_notes_where_its_logits_are(tmp_path: Path) -> None:
    name = "python:tests.test_outputs.with_dictionary"
    net = with_dictionary(5)
    save_weights(net, tmp_path / "net.safetensors", {"model": name, "output": "logits"})
    images = torch.randn(2, *SHAPE)
    whole = build_model(name, 5, tmp_path / "net.safetensors", SHAPE).eval()
    staged = create_model(name, 5, tmp_path / "net.safetensors", at=["stem", "body"], image_shape=SHAPE).eval()
    expected = net.eval()(images)["logits"]
    assert torch.equal(whole(images), expected)
    assert torch.equal(staged(images), expected)
    assert torch.equal(
        build_model(name, 5, image_shape=SHAPE, output="aux").eval()(images), with_dictionary_output(images)
    )


def with_dictionary(classes: int) -> Net:
    torch.manual_seed(3)
    return Net("dict", classes)


def with_dictionary_output(images: Tensor) -> Tensor:
    found: Tensor = with_dictionary(5).eval()(images)["aux"]
    return found


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # what torch.compile imports
def test_wrappers_are_taken_off() -> None:
    net: Any = Net()
    compiled: Any = torch.compile(net)
    for wrapped in (compiled, nn.DataParallel(net), nn.DataParallel(compiled)):
        staged = stage(wrapped, ["stem", "body"], image_shape=SHAPE)
        assert set(staged.state_dict()) == set(net.state_dict())
        assert next(staged.parameters()) is next(net.parameters())


def test_a_scripted_network_says_what_to_give() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(Net().eval(), torch.zeros(1, *SHAPE))
    with pytest.raises(SpotkdError, match=r"Net is a scripted network \(torch.jit\).*give the nn.Module"):
        stage(scripted, image_shape=SHAPE)


def test_squeezenet() -> None:
    staged = stage(torchvision.models.squeezenet1_1(num_classes=7), image_shape=(3, 64, 64))
    assert feature_shapes(staged, (3, 64, 64))[-2:] == ((7,), (7,))
    teacher = stage(torchvision.models.resnet18(num_classes=7), image_shape=(3, 64, 64))
    losses = SpotKD(teacher, staged, "at", image_shape=(3, 64, 64))((torch.randn(4, 3, 64, 64), torch.arange(4)))
    assert torch.isfinite(losses.total)


def test_the_mean_of_two_heads_is_one_classifier() -> None:
    class Two(Net):
        def forward(self, x: Tensor) -> Tensor:
            features = self.pool(self.body(self.stem(x)))
            mean: Tensor = (self.head(features) + self.other(features)) / 2
            return mean

    torch.manual_seed(0)
    net = Two()
    images = torch.randn(3, *SHAPE)
    for at in (["stem", "body"], None):
        staged = stage(net, at, image_shape=SHAPE)
        assert feature_shapes(staged, SHAPE)[-2:] == ((8,), (5,))
        for mode in (True, False):
            assert torch.equal(staged.train(mode)(images), net.train(mode)(images))


class Changes(nn.Module):
    """Changes the list or the dictionary that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, maps: Any) -> Tensor:
        maps[0] = self.conv(maps[0])
        changed: Tensor = maps[0]
        return changed


class Branches(Net):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.changes = Changes()

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        out: Tensor = self.head(self.pool(self.changes([x] if self.kind is list else {0: x})))
        return out


def test_a_module_may_change_the_list_that_it_is_given() -> None:
    net, images = Branches(list), torch.randn(3, *SHAPE)
    staged = stage(net, ["body", "changes"], image_shape=SHAPE)
    for mode in (True, False):
        assert torch.equal(staged.train(mode)(images), net.train(mode)(images))


def test_a_trace_that_does_not_run_is_one_line() -> None:
    """torch.fx does not let a module change a dictionary."""
    for at in (["body"], None):
        with pytest.raises(SpotkdError, match=r"torch\.fx does not trace Branches rightly") as caught:
            stage(Branches(dict), at, image_shape=SHAPE)
        assert "\n" not in str(caught.value)
