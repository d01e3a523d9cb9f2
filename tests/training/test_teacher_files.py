"""The teacher's outputs on disk, and for images that are augmented: the same figures, found again, and never wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spotkd import DATASETS, MODELS, SpotkdError
from spotkd.data import EpochSpec, ImageSet, Loader, Split
from spotkd.data.images import RawBatch
from spotkd.models import save_weights
from spotkd.options import DataOptions, DistillOptions, ModelOptions, with_values
from spotkd.runs.folder import RunFolder
from spotkd.runs.writer import RunWriter
from spotkd.stages import StagedModel
from spotkd.teacher_cache import pack_logits, unpack_logits
from spotkd.training import distill, resume
from spotkd.training.launch import launch

from ..conftest import TinyNet
from .killed_runs import configured, differences, tiny_data, what_is_left

HERE = "python:tests.training.distributed_runs."
CROPS: dict[str, Any] = {"cache_teacher": 1.0, "cache.crops": 3}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a teacher; the data set and the networks have names."""
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: tiny_data())
    monkeypatch.setitem(MODELS._entries, "tinynet6", lambda classes: TinyNet(6, classes))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))
    (tmp_path / "teacher").mkdir()
    torch.manual_seed(0)
    save_weights(TinyNet(6, 5), tmp_path / "teacher" / "model.safetensors", {"model": "tinynet6"})
    return tmp_path


def run(place: Path, out: str, distiller: str = "at", /, **options: Any) -> dict[str, list[float]]:
    """The metrics of a run, but for its time."""
    distill(configured(place, place / out, distiller, logger="none", **options))
    found = dict(RunFolder(place / out).metrics)
    found.pop("seconds")
    return found


@pytest.fixture
def teacher_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the passes of networks in eval mode through all stages."""
    passes, plain = [0], StagedModel.features

    def counted(network: StagedModel, x: Tensor) -> object:
        passes[0] += not network.training
        return plain(network, x)

    monkeypatch.setattr(StagedModel, "features", counted)
    return passes


@pytest.mark.slow
def test_as_many_crops_as_epochs_are_what_a_run_sees_without(place: Path, teacher_passes: list[int]) -> None:
    counts, rows = [], []
    for out, options in (
        ("without", {}),
        ("memory", CROPS),
        ("filling", CROPS | {"cache.folder": str(place / "kept")}),
        ("finding", CROPS | {"cache.folder": str(place / "kept")}),
    ):
        teacher_passes[0] = 0
        rows.append(run(place, out, inspect_every=0, **options))
        counts.append(teacher_passes[0])
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert counts[0] == counts[1] == counts[2] == counts[3] + 3 * 5  # three epochs of five batches
    assert differences(what_is_left(place / "without"), what_is_left(place / "finding")) == []
    names = {path.name for path in (place / "kept").iterdir()}
    assert len(names) == 3 * 5
    assert "crop0002-stage1.safetensors" in names


def test_another_distiller_finds_what_is_there(place: Path, teacher_passes: list[int]) -> None:
    folder: dict[str, Any] = {
        "cache.folder": str(place / "kept"),
        "data.augment": False,
        "cache_teacher": 1.0,
        "inspect_every": 0,
    }
    run(place, "kd", "kd", **folder)
    before = {path.name: path.stat().st_mtime_ns for path in (place / "kept").iterdir()}
    assert run(place, "at", **folder) == run(place, "plain", inspect_every=0, **{"data.augment": False})
    after = {path.name: path.stat().st_mtime_ns for path in (place / "kept").iterdir()}
    assert before.items() < after.items()  # the embedding and the logits are not written again


@pytest.mark.slow
@pytest.mark.parametrize("crops", [0, 1, 2])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(crops: int, place: Path) -> None:
    options: dict[str, Any] = {"cache_teacher": 1.0, "cache.crops": crops, "data.augment": crops > 0}
    run(place, "whole", **options)
    options["cache.folder"] = str(place / "kept")

    def stop(writer: RunWriter, state: Callable[[], Any]) -> None:
        plain(writer, state)
        stops.append(0)
        if len(stops) == 8:
            raise KeyboardInterrupt

    stops: list[int] = []
    plain = RunWriter.after_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(place, "stopped", **options)
    resume(place / "stopped")
    assert differences(what_is_left(place / "whole"), what_is_left(place / "stopped")) == []


def test_crops_are_each_sample_s_own_and_the_order_is_not(place: Path) -> None:
    loader = Loader(tiny_data(), tiny_data().train, 8, training=True, crops=2, crop_seed=7)
    usual = Loader(tiny_data(), tiny_data().train, 8, training=True, seed=7)

    def epoch(loader: Loader, number: int) -> tuple[Tensor, Tensor]:
        batches = list(loader.epoch(number))
        order = torch.cat([batch.indices for batch in batches if batch.indices is not None])
        return order, torch.cat([batch.images for batch in batches])[order.argsort()]

    epochs = [epoch(loader, number) for number in (1, 2, 3, 4)]
    for (order, images), (later_order, later_images) in zip(epochs, epochs[2:], strict=False):
        assert images.equal(later_images)
        assert not order.equal(later_order)
    assert not epochs[0][1].equal(epochs[1][1])
    assert epochs[1][1].equal(epoch(usual, 2)[1])


def test_a_cache_of_something_else_is_refused(place: Path) -> None:
    kept: dict[str, Any] = {"cache.folder": str(place / "kept"), "epochs": 1, **CROPS}
    run(place, "first", **kept)
    torch.manual_seed(1)
    (place / "other").mkdir()
    save_weights(TinyNet(6, 5), place / "other" / "model.safetensors", {"model": "tinynet6"})
    for changes, message in (
        ({"teacher.checkpoint": str(place / "other")}, "was made with other teacher's weights; give another --cache.f"),
        ({"cache.seed": 3}, r"was made with other cache.seed \(1029, and here 3\); give"),
        ({"seed": 3}, r"was made with other cache.seed \(1029, and here 3\); give"),
        ({"batch_size": 10}, r"was made with other batch_size \(8, and here 10\); give"),
        ({"data.flip": False, "data.mean": [0.5]}, r"was made with other normalisation of images"),
        ({"data.limit": 30}, "was made with other training images; give"),
        ({"hazard": ["shift:1"]}, "was made with other hazards; give"),
        ({"data.augment": False, "cache.crops": 0}, r"was made with other augmentation"),
    ):
        with pytest.raises(SpotkdError, match=message) as error:
            distill(configured(place, place / "refused", "at", **(kept | changes)))
        assert "\n" not in str(error.value)
    run(place, "same-crops", **kept, **{"seed": 3, "cache.seed": 1029})


def test_damage_and_strangers_are_one_line(place: Path) -> None:
    kept: dict[str, Any] = {"cache.folder": str(place / "kept"), "epochs": 1, **CROPS}
    run(place, "first", **kept)
    path = place / "kept" / "crop0001-stage1.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(SpotkdError, match=r"stage1.safetensors: damaged, its checksum is another; delete it"):
        run(place, "damaged", **kept)
    save_file(load_file(path), path)
    with pytest.raises(SpotkdError, match=r"stage1.safetensors: holds no teacher's outputs; give another"):
        run(place, "strange", **kept)
    path.unlink()
    run(place, "again", **kept)
    assert path.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache.crops": 2}, "cache.crops has no effect: --cache_teacher says how many GiB"),
        ({"cache_teacher": 1.0, "cache.crops": 2, "data.augment": False}, "cache.crops has no effect: data.augment is"),
        ({"cache_teacher": 1.0}, r"say in how many augmentations each is seen \(--cache.crops 8\), or leave it out"),
        (CROPS | {"cache.top": 5}, "cache.top is 5, and there are 5 classes"),
        (CROPS | {"cache_teacher": 1e-6}, r"outputs for 40 images in 3 crops take 0.00015: allow"),
        (CROPS | {"cache.folder": __file__}, r"cache.folder is .*: cannot be made"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(SpotkdError, match=message) as error:
        distill(configured(place, place / "refused", "at", **options))
    assert "\n" not in str(error.value)


def test_a_split_of_ones_own_may_augment_in_its_own_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Split):
        def __init__(self, split: ImageSet) -> None:
            self.split, self.labels, self.size = split, split.labels, split.size

        def __len__(self) -> int:
            return len(self.split)

        def subset(self, indices: Tensor) -> Split:
            return Own(self.split.subset(indices))

        def batches(self, epoch: EpochSpec) -> Iterator[RawBatch]:
            return self.split.batches(epoch)

    data = tiny_data()
    assert isinstance(data.train, ImageSet)
    data = replace(data, train=Own(data.train))
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: data)
    with pytest.raises(SpotkdError, match=r"cache.crops: Own of tiny may augment images in its own way; leave it out"):
        run(place, "own", **CROPS)


def test_a_full_disk_is_told_before_it_is_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with pytest.raises(SpotkdError, match=r"GiB more are needed there, and 0 are free"):
        run(place, "full", **CROPS, **{"cache.folder": str(place / "kept")})


def test_packed_logits_keep_the_largest_and_the_probability_of_the_rest() -> None:
    logits = 5 * torch.randn(7, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    packed = pack_logits(logits, 6)
    assert (packed.shape, packed.dtype) == ((7, 13), torch.int16)
    found = unpack_logits(packed, 50)
    values, classes = logits.topk(6)
    assert found.gather(1, classes).equal(values.half().float())
    assert (found.softmax(1) - logits.softmax(1)).gather(1, classes).abs().max() < 5e-3
    rest = found.scatter(1, classes, float("-inf")).logsumexp(1)
    assert (rest - logits.scatter(1, classes, float("-inf")).logsumexp(1)).abs().max() < 5e-3


@pytest.mark.slow
def test_the_largest_logits_alone_give_the_same_run_from_a_new_and_a_filled_folder(place: Path) -> None:
    kept: dict[str, Any] = {"cache.folder": str(place / "kept"), "cache.top": 2, **CROPS}
    first, second = run(place, "first", **kept), run(place, "second", **kept)
    assert first == second
    assert first["loss_kl"] != run(place, "all", **CROPS)["loss_kl"]
    assert sum("-top2" in path.name for path in (place / "kept").iterdir()) == 3


def test_a_file_is_mapped_not_read(place: Path) -> None:
    from spotkd.untrusted.safetensors_files import read_tensors

    path = place / "large.safetensors"
    save_file({"values": torch.ones(1 << 20)}, path)
    values = read_tensors(path)["values"]
    if Path("/proc/self/maps").exists():
        address = values.data_ptr()
        spans = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
        owners = [
            words[-1] for words in spans if int(words[0].split("-")[0], 16) <= address < int(words[0].split("-")[1], 16)
        ]
        assert owners == [str(path)]


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    """65 images by 12: the last batch has five, which two processes share unequally."""
    torch.manual_seed(0)
    save_weights(TinyNet(6, 5), tmp_path / "teacher.safetensors", {"model": f"{HERE}wide"})
    common = DistillOptions(
        teacher=ModelOptions(f"{HERE}wide", str(tmp_path / "teacher.safetensors")),
        student=ModelOptions(f"{HERE}narrow"),
        data=DataOptions(f"{HERE}data"),
        distiller="at",
        strategy="adaptive",
    )
    numbers = {"batch_size": 12, "epochs": 4, "devices": 2, "min_teacher_top1": 0}
    common = with_values(common, {"accelerator": "cpu", "quiet": True, "logger": "none", **numbers})
    rows = []
    for out, folder in (("memory", None), ("filling", str(tmp_path / "kept")), ("finding", str(tmp_path / "kept"))):
        cache = {"cache_teacher": 1.0, "cache.crops": 2, "cache.folder": folder}
        launch("distill", with_values(common, {"out": str(tmp_path / out), **cache}))
        rows.append({k: v for k, v in RunFolder(tmp_path / out).metrics.items() if k != "seconds"})
    assert rows[0] == rows[1] == rows[2]
    for path in (tmp_path / "kept").glob("*.safetensors"):
        assert load_file(path)["known"].all()
