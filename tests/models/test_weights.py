"""Checkpoints in every accepted layout, and in layouts that must be refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spotkd import SpotkdError, create_model
from spotkd.models.weights import read_metadata, save_weights


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return create_model("resnet8", 10).state_dict()


LAYOUTS = {
    "bare.pt": lambda state: state,
    "repdistiller.pth": lambda state: {"epoch": 240, "model": state, "accuracy": 72.3, "optimizer": {"lr": 0.1}},
    "parallel.pt": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_pytorch_layouts(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(LAYOUTS[name](state), tmp_path / name)
    assert_same(create_model("resnet8", 10, tmp_path / name).state_dict(), state)


def test_safetensors_bare_and_with_prefix(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    save_file({f"module.{key}": value.clone() for key, value in state.items()}, tmp_path / "b.safetensors")
    for name in ("a", "b"):
        assert_same(create_model("resnet8", 10, tmp_path / f"{name}.safetensors").state_dict(), state)


def test_run_folder_and_metadata(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = create_model("resnet8", 10)
    model.load_state_dict(state)
    save_weights(model, tmp_path / "model.safetensors", {"model": "resnet8", "classes": ["<a>", "é"]})
    assert_same(create_model("resnet8", 10, tmp_path).state_dict(), state)
    assert read_metadata(tmp_path) == {"model": "resnet8", "classes": ["<a>", "é"]}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]  # no temporary file stays


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "fc.bias"), r"lacks fc\.bias"),
        (lambda s: s | {"head.bias": torch.zeros(3)}, r"unexpected head\.bias"),
        (lambda s: s | {"fc.bias": torch.zeros(3)}, r"another shape for fc\.bias \(3,\) instead of \(10,\)"),
        (lambda s: {"state": 3}, r"holds no state dict"),
        (lambda s: {f"x{i}": torch.zeros(1) for i in range(9)}, r"lacks conv1\.weight.* and \d+ more"),
    ],
)
def test_every_mismatch_is_named(change: Any, message: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(change(state), tmp_path / "x.pt")
    with pytest.raises(SpotkdError, match=message) as error:
        create_model("resnet8", 10, tmp_path / "x.pt")
    assert "x.pt" in str(error.value)
    assert "\n" not in str(error.value)


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
