"""Weights of torchvision and timm: from their caches, by download from a server on this machine, or one line."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spotkd import DATASETS, Dataset, SpotkdError
from spotkd.data import DataSpec, ImageSet, load_data
from spotkd.models import build_model, create_model
from spotkd.models.pretrained import find_pretrained
from spotkd.models.sources import build
from spotkd.options import DistillOptions, EvaluateOptions, ModelOptions, TrainOptions, with_values
from spotkd.runs.folder import RunFolder
from spotkd.training import distill, evaluate_checkpoint, restore, train
from spotkd.untrusted.names import looking

from .. import vision

TORCHVISION, TIMM = "torchvision:shufflenet_v2_x0_5", "timm:mobilenetv3_small_050"
FILE = "shufflenetv2_x0.5-f707e7126e.pth"
Weights: Any = vision.torchvision.models.ShuffleNet_V2_X0_5_Weights


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty caches of both libraries, and no network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small data set of colour images by the name of colours."""
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    split = ImageSet(images, torch.arange(20) % 5)
    data = Dataset("colours", split, split, tuple("abcde"), (0.5,) * 3, (0.25,) * 3)
    monkeypatch.setitem(DATASETS._entries, "colours", lambda spec: data)


def put_torchvision(folder: Path, name: str = FILE) -> nn.Module:
    """A network with 1000 classes, whose weights lie in the folder now."""
    folder.mkdir(parents=True, exist_ok=True)
    model = build(TORCHVISION, 1000, None)
    torch.save(model.state_dict(), folder / name)
    return model


def put_timm(cache: Path) -> nn.Module:
    """As the Hub's client lays its files out."""
    model = build(TIMM, 1000, None)
    repository = cache / "models--timm--mobilenetv3_small_050.lamb_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    return model


def same(one: nn.Module, two: nn.Module, but: str) -> None:
    """All weights are the same but those of the classifier."""
    mine, theirs = one.state_dict(), two.state_dict()
    for key, tensor in mine.items():
        if not key.startswith(but):
            assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("weights", [True, "IMAGENET1K_V1"])
def test_torchvisions_weights_are_taken_from_its_cache(weights: bool | str, caches: Path) -> None:
    theirs = put_torchvision(caches / "hub" / "checkpoints")
    mine: Any = build_model(TORCHVISION, 5, pretrained=weights)
    same(mine, theirs, "fc.")
    assert mine.fc.weight.shape == (5, 1024)
    same(build_model(TORCHVISION, 1000, pretrained=weights), theirs, "nothing")


@pytest.mark.parametrize("weights", [True, "lamb_in1k"])
def test_timms_weights_are_taken_from_the_hubs_cache(weights: bool | str, caches: Path) -> None:
    theirs = put_timm(caches / "hf")
    mine: Any = build_model(TIMM, 5, pretrained=weights)
    same(mine, theirs, "classifier.")
    assert mine.classifier.weight.shape[0] == 5
    assert "state_dict" not in mine.pretrained_cfg
    same(build_model(f"{TIMM}.lamb_in1k", 1000, pretrained=True), theirs, "nothing")
    create_model(TIMM, 5, pretrained=weights, at=["blocks.1"])


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_what_is_not_in_the_cache_is_fetched_once(
    server: tuple[Path, str], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    theirs = put_torchvision(folder, "mine.pth")
    monkeypatch.setattr(Weights.DEFAULT.value, "url", f"{address}/mine.pth")
    with looking(), pytest.raises(SpotkdError, match=r"nothing is fetched here.*mine\.pth"):
        build_model(TORCHVISION, 5, pretrained=True)
    same(build_model(TORCHVISION, 5, pretrained=True), theirs, "fc.")
    assert (caches / "hub" / "checkpoints" / "mine.pth").is_file()
    (folder / "mine.pth").unlink()
    same(build_model(TORCHVISION, 5, pretrained=True), theirs, "fc.")


def test_a_file_that_is_not_what_it_says_is_refused(
    server: tuple[Path, str], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    put_torchvision(folder, "mine-00000000.pth")
    monkeypatch.setattr(Weights.DEFAULT.value, "url", f"{address}/mine-00000000.pth")
    with pytest.raises(SpotkdError, match="cannot be fetched, invalid hash value"):
        build_model(TORCHVISION, 5, pretrained=True)
    assert not list((caches / "hub" / "checkpoints").iterdir())


def test_without_a_network_the_line_names_the_file_and_its_place(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights.DEFAULT.value, "url", "http://127.0.0.1:9/weights.pth")
    place = caches / "hub" / "checkpoints" / "weights.pth"
    with pytest.raises(SpotkdError) as caught:
        build_model(TORCHVISION, 5, pretrained=True)
    assert f"put http://127.0.0.1:9/weights.pth there, as {place}" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SpotkdError) as caught:
        build_model(TIMM, 5, pretrained=True)
    wanted = "'hf download timm/mobilenetv3_small_050.lamb_in1k model.safetensors' puts them into"
    assert f"{wanted} {caches / 'hf'}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "weights", "message"),
    [
        (TORCHVISION, "IMAGENET1K_V3", r"unknown weights of torchvision:shufflenet_v2_x0_5 'IMAGENET1K_V3'"),
        (TIMM, "lamb_in2k", r"unknown weights of timm:mobilenetv3_small_050 'lamb_in2k': did you mean lamb_in1k\?"),
        ("torchvision:resnet19", True, "unknown torchvision model 'resnet19'"),
        ("resnet20", True, "pretrained has no effect on resnet20"),
    ],
)
def test_mistakes_are_one_line(network: str, weights: bool | str, message: str) -> None:
    with pytest.raises(SpotkdError, match=message):
        find_pretrained(network, weights)


def test_pretrained_and_a_checkpoint_exclude_each_other() -> None:
    with pytest.raises(SpotkdError, match=r"its weights are those of mine\.pt; leave one out"):
        build_model(TORCHVISION, 5, "mine.pt", pretrained=True)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_data_set_is_normalised_as_asked(colours: None) -> None:
    data = load_data(DataSpec("colours", mean=[0.1, 0.2, 0.3], std=[0.5]))
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (0.5,))
    for wrong in ([0.1, 0.2], [1.5]):
        with pytest.raises(SpotkdError, match=r"data\.mean is .*: give one number or three"):
            load_data(DataSpec("colours", mean=wrong))
    with pytest.raises(SpotkdError, match=r"data\.std is \[0\.0\]"):
        load_data(DataSpec("colours", std=[0.0]))


@pytest.mark.slow
def test_fine_tuned_as_teacher_and_as_student(
    colours: None, caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_torchvision(caches / "hub" / "checkpoints")
    common = {"epochs": 1, "batch_size": 10, "data.name": "colours", "logger": "none", "optim.lr": 1e-4}
    teacher = TrainOptions(model=ModelOptions(TORCHVISION, pretrained=True))
    summary = train(with_values(teacher, common | {"out": str(caches / "teacher")}))
    told = capsys.readouterr().err
    assert "its weights are for images of 224 x 224, and these have 32 x 32 (--data.image_size)" in told
    assert "mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225 (--data.mean, --data.std)" in told
    assert RunFolder(caches / "teacher").options.data.mean == [0.485, 0.456, 0.406]
    again = evaluate_checkpoint(EvaluateOptions(str(caches / "teacher" / "model.safetensors")))
    assert again.loss == pytest.approx(summary.scores.loss, rel=1e-4)
    student = DistillOptions(
        teacher=ModelOptions(TORCHVISION, str(caches / "teacher")), student=ModelOptions("resnet8"), min_teacher_top1=0
    )
    distill(with_values(student, common | {"out": str(caches / "student")}))
    assert RunFolder(caches / "student").options.data.mean == [0.485, 0.456, 0.406]  # its teacher's
    own = with_values(student, common | {"out": str(caches / "pretrained"), "student.name": TORCHVISION})
    distill(with_values(own, {"student.pretrained": True}))
    (caches / "hub" / "checkpoints" / FILE).unlink()
    restore(caches / "pretrained")  # looks, and fetches nothing
    with pytest.raises(SpotkdError, match=r"teacher\.pretrained: fine-tune it on these images first"):
        distill(with_values(own, {"teacher.pretrained": True, "teacher.checkpoint": None, "out": str(caches / "no")}))
