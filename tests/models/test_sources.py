"""Networks from torchvision, timm and the user's own modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from spotkd.errors import SpotkdError
from spotkd.models.sources import build
from spotkd.registry import Registry, import_name
from spotkd.stages import StagedModel

from .. import vision  # noqa: F401  # so that torchvision can be imported

OWN = """
import torch
from torch import nn
from spotkd import create_model

answer = 42

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(12, num_classes))

def staged(num_classes):
    return create_model("resnet8", num_classes)

def broken(num_classes):
    raise RuntimeError("first line\\nsecond line")

def nothing(num_classes):
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory, which is not on the path."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    (tmp_path / f"bad_{name}.py").write_text("import not_there_at_all\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision:resnet18", (3, 64, 64)),
        ("torchvision:googlenet", (3, 64, 64)),  # with auxiliary outputs, if nobody says no
        ("timm:resnet18", (1, 32, 32)),  # takes no image size
        ("timm:mobilenetv3_small_100", (3, 32, 32)),
        ("timm:vit_tiny_patch16_224", (3, 32, 48)),
        ("timm:vit_tiny_patch16_224.augreg_in21k", (3, 32, 32)),
    ],
)
def test_networks_of_the_libraries(name: str, shape: tuple[int, int, int]) -> None:
    model = build(name, 7, shape)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def test_networks_of_one_size() -> None:
    model = build("timm:vit_tiny_patch16_224", 7, None)
    assert model.get_parameter("pos_embed").shape[1] == 14 * 14 + 1
    with torch.device("meta"):
        model = build("torchvision:vit_b_16", 7, (3, 64, 64))
    assert model.get_parameter("encoder.pos_embedding").shape[1] == 4 * 4 + 1


def test_the_users_own(own: str) -> None:
    assert isinstance(build(f"python:{own}.Net", 7, None), nn.Sequential)
    assert isinstance(build(f"python:{own}.staged", 7, (3, 32, 32)), StagedModel)
    assert import_name(f"{own}.answer") == 42
    registry: Registry[object] = Registry("thing")
    assert registry[f"python:{own}.answer"] == 42
    assert f"python:{own}.answer" not in registry


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "unknown source of models 'resnet50': known: torchvision, timm, python"),
        ("tim:resnet18", r"did you mean timm\?"),
        ("torchvision:resnet51", "unknown torchvision model 'resnet51': did you mean resnet"),
        ("torchvision:fasterrcnn_resnet50_fpn", "unknown torchvision model"),
        ("timm:mobilenetv3_smal_100", "unknown timm model 'mobilenetv3_smal_100': did you mean mobilenetv3_small_100"),
        ("timm:q", r"unknown timm model 'q': timm's list_models\(\) gives the \d+ it knows"),
        ("timm:hf-hub:someone/something", "unknown timm model"),
        ("torchvision:maxvit_t", "torchvision:maxvit_t cannot be made .*: "),
        ("python:OWN", "python:own_.*: write python:module.attribute"),
        ("python:", "python:: write python:module.attribute"),
        ("python:not_there_at_all.f", "module 'not_there_at_all' cannot be imported from .*No module named"),
        ("python:bad_OWN.f", "module 'bad_own_.*' cannot be imported from .*No module named 'not_there_at_all'"),
        ("python:OWN.stagd", r"unknown attribute of module 'own_.*' 'stagd': did you mean staged\?"),
        ("python:OWN.answer", r"python:own_.*\.answer is a int, not a function"),
        ("python:OWN.broken", r"python:own_.*\.broken cannot be made \(RuntimeError: first line second line\)"),
        ("python:OWN.nothing", r"python:own_.*\.nothing gives a NoneType, not an nn.Module"),
    ],
)
def test_mistakes_are_told_on_one_line(name: str, message: str, own: str) -> None:
    with pytest.raises(SpotkdError, match=message) as caught:
        build(name.replace("OWN", own), 7, (3, 30, 30))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_libraries_that_are_missing_or_broken(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SpotkdError, match=rf"^{library} is not installed: pip install 'spotkd\[vision\]'$"):
        build(f"{library}:resnet18", 7, None)
    monkeypatch.delitem(sys.modules, library)
    (tmp_path / f"{library}.py").write_text("raise RuntimeError('operator nms\\ndoes not exist')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(
        SpotkdError, match=f"^{library} is installed but cannot be imported .operator nms does not exist"
    ):
        build(f"{library}:resnet18", 7, None)
