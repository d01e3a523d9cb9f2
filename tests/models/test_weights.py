"""Checkpoints in every accepted layout, and in layouts that must be refused."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from spotkd import MODELS, SpotkdError, create_model
from spotkd.models.weights import load_weights, read_metadata, save_weights
from spotkd.stages import StagedModel

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(3)
    return create_model("resnet8", 10).state_dict()


def parallel(state: State) -> State:
    return {f"module.{key}": value for key, value in state.items()}


SCHEDULES: dict[str, Callable[[optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "multistep": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 150, 180, 180]),
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 30),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 240),
    "onecycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10),
    "plateau": lr_scheduler.ReduceLROnPlateau,
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (epoch + 1)),
    "warm-up": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.MultiStepLR(optimizer, [3, 5])], [2]
    ),
}


def with_schedule(state: State, schedule: str = "multistep") -> dict[str, Any]:
    """A checkpoint from which training can continue: an optimizer and its scheduler have taken a step."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([weight], 0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = SCHEDULES[schedule](optimizer)
    weight.grad = torch.ones(2)
    optimizer.step()
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(0.5)
    else:
        scheduler.step()
    return {
        "epoch": 240,
        "model": state,
        "best_acc": torch.tensor(72.3),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
    }


# What torch.save gets; both numbers beside the weights are tensors in files that were written on a GPU.
LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "bare": lambda state: state,
    "parallel": parallel,
    "repdistiller": lambda state: {
        "epoch": 240,
        "model": state,
        "accuracy": torch.tensor(72.3),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "with a schedule": with_schedule,
    "mdistiller": lambda state: {"epoch": 240, "model": parallel(state), "best_acc": torch.tensor(72.3)},
    "state_dict": lambda state: {"state_dict": state, "arch": "resnet", "best_acc1": 72.3},
    "model_state_dict": lambda state: {"epoch": 5, "model_state_dict": state, "loss": 0.4},
    "net": lambda state: {"net": parallel(state), "acc": 93.0, "epoch": 200},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pytorch_layouts(layout: str, state: State, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](state), tmp_path / "x.pth")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pth").state_dict(), state)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_checkpoint_with_a_schedulers_state(schedule: str, new_format: bool, state: State, tmp_path: Path) -> None:
    content = with_schedule(state, schedule)
    if schedule == "multistep":
        assert type(content["lr_scheduler"]["milestones"]) is Counter
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    assert_same(create_model("resnet8", 10, tmp_path / "x.pth").state_dict(), state)


def test_safetensors_bare_and_with_prefix(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    save_file({key: value.clone() for key, value in parallel(state).items()}, tmp_path / "b.safetensors")
    for name in ("a", "b"):
        assert_same(create_model("resnet8", 10, tmp_path / f"{name}.safetensors").state_dict(), state)


@cache
def on_meta(name: str) -> StagedModel:
    with torch.device("meta"):
        return create_model(name, 2)


def marked(name: str, first: int = 0) -> State:
    """A state dict of the network in which every tensor holds its own number, all from two tensors: a small file."""
    tensors = on_meta(name).state_dict()
    marks = {dtype: torch.arange(first, first + len(tensors), dtype=dtype) for dtype in (torch.float32, torch.int64)}
    return {key: marks[tensor.dtype][i].expand(tensor.shape) for i, (key, tensor) in enumerate(tensors.items())}


@pytest.fixture(scope="module", params=sorted(name for name in MODELS if not name.endswith("-imagenet")))
def uninitialised(request: pytest.FixtureRequest) -> tuple[str, StagedModel]:
    """A name and its network, with whatever stands in memory: to draw the weights would take longer than all else."""
    return request.param, copy.deepcopy(on_meta(request.param)).to_empty(device="cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_network_loads_every_layout(layout: str, uninitialised: tuple[str, StagedModel], tmp_path: Path) -> None:
    name, model = uninitialised
    wanted = marked(name, first=list(LAYOUTS).index(layout))  # not what another layout has left in the network
    torch.save(LAYOUTS[layout](wanted), tmp_path / "x.pth")
    load_weights(model, tmp_path / "x.pth", name)
    assert_same(model.state_dict(), wanted)


def test_every_network_loads_safetensors(uninitialised: tuple[str, StagedModel], tmp_path: Path) -> None:
    name, model = uninitialised
    path, wanted = tmp_path / "x.safetensors", marked(name, first=len(LAYOUTS))
    save_file({key: value.contiguous() for key, value in wanted.items()}, path)
    load_weights(model, path, name)
    path.unlink()  # pytest keeps its folders, and some of these files are large
    assert_same(model.state_dict(), wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", sorted(name for name in MODELS if name.endswith("-imagenet")))
def test_networks_of_half_a_gigabyte_accept_every_layout(name: str, layout: str, tmp_path: Path) -> None:
    """On the meta device: names and shapes are checked as always, only the copy at the end goes nowhere."""
    torch.save(LAYOUTS[layout](marked(name)), tmp_path / "x.pth")
    with pytest.warns(UserWarning, match="no-op"):
        load_weights(on_meta(name), tmp_path / "x.pth", name)


def test_run_folder_and_metadata(state: State, tmp_path: Path) -> None:
    model = create_model("resnet8", 10)
    model.load_state_dict(state)
    save_weights(model, tmp_path / "model.safetensors", {"model": "resnet8", "classes": ["<a>", "é"]})
    assert_same(create_model("resnet8", 10, tmp_path).state_dict(), state)
    assert read_metadata(tmp_path) == {"model": "resnet8", "classes": ["<a>", "é"]}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]  # no temporary file stays


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def without(state: State, *keys: str) -> State:
    return {name: value for name, value in state.items() if name not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: without(s, "fc.bias"),
            r"not a checkpoint of resnet8: it lacks fc\.bias: --model\.replace_head true",
        ),
        (lambda s: s | {"head.bias": torch.zeros(3)}, r"it has unexpected head\.bias: name the network"),
        (lambda s: s | {"fc.bias": torch.zeros(3)}, r"it has another shape for fc\.bias \(3,\) instead of \(10,\): "),
        (
            lambda s: without(s, "fc.bias", "bn1.weight") | {"a": s["fc.bias"], "b": s["fc.bias"]},
            r"it lacks bn1\.weight, fc\.bias; has unexpected a, b: ",
        ),
        (lambda s: {"state": 3}, r"holds no state dict"),
        (lambda s: {"model": {"epoch": 3}}, r"holds no state dict"),
        (lambda s: [s], r"holds no state dict"),
        (lambda s: s | {"module.fc.bias": s["fc.bias"]}, r"holds fc\.bias twice, with and without 'module\.'"),
    ],
)
def test_every_mismatch_is_named(change: Any, message: str, state: State, tmp_path: Path) -> None:
    torch.save(change(state), tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match=message) as error:
        create_model("resnet8", 10, tmp_path / "x.pt")
    assert "x.pt" in str(error.value)
    assert "\n" not in str(error.value)


def words(error: pytest.ExceptionInfo[SpotkdError]) -> set[str]:
    """The message's words, which its keys are among."""
    message = str(error.value)
    assert "\n" not in message
    return set(message.replace(",", " ").replace(";", " ").split())


def test_all_three_kinds_are_named_together_with_their_counts(state: State, tmp_path: Path) -> None:
    keys = list(state)
    lacking, reshaped, unexpected = keys[6:12], keys[13:17], [f"extra.{i}" for i in range(12)]
    wrong = without(state, *lacking) | dict.fromkeys([*reshaped, *unexpected], torch.zeros(7, 7))
    torch.save(wrong, tmp_path / "x.pt")
    with pytest.raises(
        SpotkdError, match=r"it lacks .* and \d more; has unexpected .* and 9 more; has another shape for "
    ) as error:
        create_model("resnet8", 10, tmp_path / "x.pt")
    assert words(error) >= {*unexpected[:3]}
    assert len(str(error.value)) < 480 + len(str(tmp_path))


def test_a_shallower_network_of_the_family(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match="not a checkpoint of resnet20: it lacks ") as error:
        create_model("resnet20", 10, tmp_path / "x.pt")
    deeper = create_model("resnet20", 10).state_dict()
    lacking = [key for key in deeper if key not in state and not key.endswith("num_batches_tracked")]
    assert words(error) & set(deeper) == set(lacking[:3])  # conv2 and bn2 of the first blocks are in both
    assert f" and {len(lacking) - 3} more" in str(error.value)


def test_mobilenet_of_half_the_width_is_refused_by_its_shapes(tmp_path: Path) -> None:
    half, full = create_model("MobileNetV2_0_5", 10).state_dict(), create_model("MobileNetV2", 10).state_dict()
    assert list(half) == list(full)
    torch.save({"model": half}, tmp_path / "half.pth")
    with pytest.raises(SpotkdError, match=r"not a checkpoint of MobileNetV2: it has another shape for ") as error:
        create_model("MobileNetV2", 10, tmp_path / "half.pth")
    differing = [key for key in full if half[key].shape != full[key].shape]
    assert words(error) & set(full) == set(differing[:3])
    for key in differing[:3]:
        assert f"{key} {tuple(half[key].shape)} instead of {tuple(full[key].shape)}" in str(error.value)
    assert not {"lacks", "unexpected"} & words(error)


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", "student.", "model.module.net."]
)
def test_a_prefix_of_all_names_is_left_out(prefix: str, state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": behind(prefix, state)}, tmp_path / "x.pt")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt").state_dict(), state)


def test_counters_that_are_no_weights(state: State, tmp_path: Path) -> None:
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(behind("module.", kept) | {"n_averaged": torch.tensor(3)}, tmp_path / "x.pt")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt").state_dict(), state)
    torch.save(kept | {"total_ops": torch.ones(1), "conv1.total_params": torch.ones(1)}, tmp_path / "x.pt")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt").state_dict(), state)


def test_misfits_begin_with_what_they_share(tmp_path: Path) -> None:
    torch.save({f"model.layers.{i}.w": torch.zeros(2) for i in range(122)}, tmp_path / "x.pt")
    with pytest.raises(
        SpotkdError, match=r"resnet8: all 122 keys begin with `model\.layers\.`, and it lacks .* 119 more"
    ):
        create_model("resnet8", 10, tmp_path / "x.pt")


def test_averaged_weights_beside_raw_ones(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, averaged = tmp_path / "x.pt", {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict_ema": averaged, "state_dict": state}, path)
    assert_same(create_model("resnet8", 10, path).state_dict(), state)
    assert "x.pt: also holds averaged (EMA) weights, state_dict_ema; the raw ones are taken" in capsys.readouterr().err
    for key in ("ema", "state_dict_ema"):
        assert_same(create_model("resnet8", 10, path, checkpoint_key=key).state_dict(), averaged)
    assert_same(create_model("resnet8", 10, path, checkpoint_key="raw").state_dict(), state)
    assert capsys.readouterr().err == ""
    with pytest.raises(SpotkdError, match=r"by the checkpoint_key other; it holds state_dict, state_dict_ema$"):
        create_model("resnet8", 10, path, checkpoint_key="other")


def test_two_networks_in_one_file(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "x.pt", {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict": behind("student.", state) | behind("teacher.", other)}, path)
    with pytest.raises(
        SpotkdError, match=r"several networks that fit, student\., teacher\.: choose one by checkpoint_key"
    ):
        create_model("resnet8", 10, path)
    assert_same(create_model("resnet8", 10, path, checkpoint_key="teacher").state_dict(), other)
    assert "left out: student.conv1.weight" in capsys.readouterr().err


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}


@pytest.mark.parametrize("keys", [("my_net",), ("result", "best", "generator")])
def test_weights_under_a_key_of_ones_own(keys: tuple[str, ...], state: State, tmp_path: Path) -> None:
    content: Any = state
    for key in reversed(keys):
        content = {"epoch": 3, "optimizer": OPTIMIZER, key: content}
    torch.save(content, tmp_path / "x.pt")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt").state_dict(), state)


def test_several_networks_under_keys_of_ones_own(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {key: value + 1 for key, value in state.items()}
    torch.save({"first_net": state, "second_net": changed}, tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match="holds several networks, first_net, second_net: choose one by"):
        create_model("resnet8", 10, tmp_path / "x.pt")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt", checkpoint_key="second_net").state_dict(), changed)
    torch.save({"my_net": state, "my_net_ema": changed}, tmp_path / "x.pt")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt").state_dict(), state)
    assert "also holds averaged (EMA) weights, my_net_ema" in capsys.readouterr().err
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt", checkpoint_key="ema").state_dict(), changed)
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match="it has 'epoch', 'lr'"):
        create_model("resnet8", 10, tmp_path / "x.pt")


def test_a_classifier_of_another_size(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pt"
    torch.save(state, path)
    with pytest.raises(SpotkdError, match=r"--model\.replace_head true takes all but the classifier$"):
        create_model("resnet8", 7, path)
    model = create_model("resnet8", 7, path, replace_head=True)
    assert model.state_dict()["fc.weight"].shape == (7, 64)
    assert_same(without(model.state_dict(), "fc.weight", "fc.bias"), without(state, "fc.weight", "fc.bias"))
    assert "x.pt: new in resnet8: fc.weight, fc.bias" in capsys.readouterr().err
    with pytest.raises(SpotkdError, match="not a checkpoint of resnet20: it lacks"):
        create_model("resnet20", 10, path, replace_head=True)
    with pytest.raises(SpotkdError, match="no checkpoint is named"):
        create_model("resnet8", 10, replace_head=True)


class Tagged(OrderedDict[str, Any]):
    """A dictionary of the field, such as mmengine's ConfigDict."""


Tagged.__module__, Tagged.__qualname__ = "mmengine.config", "Tagged"


@pytest.mark.parametrize("new_format", [True, False])
def test_harmless_objects_beside_the_weights(
    new_format: bool, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mmengine.config")
    module.Tagged = Tagged  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmengine", ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.config", module)
    parameter = nn.Parameter(torch.ones(2))
    parameter.tag = "x"  # type: ignore[attr-defined]
    content = {
        "state_dict": Tagged(state),
        "args": Namespace(lr=0.1, out=Path("x"), shape=(1, 2)),
        "best": np.float64(3),
        "curve": np.arange(3),
        "losses": defaultdict(int, a=1),
        "parameter": parameter,
    }
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new_format)
    monkeypatch.delitem(sys.modules, "mmengine.config")
    assert_same(create_model("resnet8", 10, tmp_path / "x.pt").state_dict(), state)


def test_a_parameters_attributes_are_its_own(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.__dict__["requires_grad_"] = 1
    torch.save({"a": parameter}, tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match="refused, it holds a parameter that changes more"):
        create_model("resnet8", 10, tmp_path / "x.pt")


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_no_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb()}, "bomb.pt")
    Path("bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "bomb.pkl"):
        with pytest.raises(SpotkdError, match=rf"{name}: refused"):
            create_model("resnet8", 10, name)
    assert not Path("exploded").exists()


def calling(name: bytes, argument: bytes, calls: int = 1) -> bytes:
    """A pickle: a list of ``name``, an argument, and what the one makes of the other, again and again."""
    return b"\x80\x02](c%sq\x01%sq\x02" % (name, argument) + b"h\x01h\x02\x85R" * calls + b"e."


def write_pickle(content: bytes, path: Path) -> None:
    """A file of ``torch.save`` with one storage, number 0, and this pickle."""
    torch.save({"a": torch.zeros(2)}, path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, content if name.endswith("data.pkl") else whole.read(name))


NUMBERS = b"".join(b"M" + number.to_bytes(2, "little") for number in range(1000))
COUNTS = b"}(" + b"".join(b"M" + number.to_bytes(2, "little") + b"K\x01" for number in range(1000)) + b"u"
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ"
LONG_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(%sK\0J\0\0\0\x7f\x85K\0\x85\x89ccollections\nOrderedDict\n)RtR" % STORAGE
)


@pytest.mark.parametrize(
    ("name", "argument", "calls", "message"),
    [
        (b"collections\nCounter\n", COUNTS, 1, "holds no state dict"),  # read, and no checkpoint
        (b"collections\nCounter\n", LONG_TENSOR, 1, "refused, it holds a Counter of something else"),
        (b"collections\nCounter\n", b"(" + NUMBERS + b"t", 1, "refused, it holds a Counter of something else"),
        (b"collections\nCounter\n", b"}K\1]s", 1, "refused, it holds a Counter of something else"),
        (b"collections\nCounter\n", COUNTS, 1000, "refused, its calls copy more than it holds"),
        (b"collections\nOrderedDict\n", COUNTS, 1000, "refused, its calls copy more than it holds"),
        (b"builtins\nset\n", b"(" + NUMBERS + b"t", 1000, "refused, its calls copy more than it holds"),
        (b"torch\nSize\n", b"(" + NUMBERS + b"t", 1000, "refused, its calls copy more than it holds"),
    ],
)
def test_containers_take_no_more_memory_than_the_file(
    name: bytes, argument: bytes, calls: int, message: str, tmp_path: Path
) -> None:
    """A few bytes can ask for a lot: a tensor of 2 ** 31 times the same number, or a thousand copies of one tuple."""
    write_pickle(calling(name, argument, calls), tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match=message):
        create_model("resnet8", 10, tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_damaged_files(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpotkdError, match=name):
        create_model("resnet8", 10, tmp_path / name)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SpotkdError, match="no such checkpoint"):
        create_model("resnet8", 10, tmp_path / "none.pt")
    with pytest.raises(SpotkdError, match=r"holds no student\.safetensors"):
        create_model("resnet8", 10, tmp_path)
