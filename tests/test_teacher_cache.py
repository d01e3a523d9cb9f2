"""The frozen teacher's outputs looked up instead of computed: the same bits, and refused where they would not be."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spotkd import DISTILLERS, STRATEGIES, Batch, SpotKD, SpotkdError
from spotkd.data import DATASETS, Dataset, DataSpec, Loader, load_data
from spotkd.models import MODELS
from spotkd.options import DataOptions, DistillOptions, ModelOptions, TrainOptions, with_values
from spotkd.stages import StagedModel
from spotkd.training import distill, train

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller

FROZEN = [name for name in STRATEGIES if name != "joint"]


@pytest.fixture
def tiny(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data set and two networks by name, and a trained teacher's run folder."""
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: tiny_data)
    monkeypatch.setitem(MODELS._entries, "tinynet6", lambda classes: TinyNet(6, classes))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))
    config = TrainOptions(model=ModelOptions("tinynet6"), epochs=1, batch_size=12, quiet=True)
    config = with_values(config, {"data": DataOptions("tiny"), "out": str(tmp_path / "teacher")})
    train(config)
    return tmp_path


def distilled(folder: Path, out: str, **options: object) -> list[dict[str, str]]:
    """The rows of a run's metrics, but for its time."""
    config = DistillOptions(
        teacher=ModelOptions("tinynet6", str(folder / "teacher")),
        student=ModelOptions("tinynet4"),
        distiller="at",
        strategy="adaptive",
    )
    config = with_values(config, {"data": DataOptions("tiny", augment=False)})
    config = dataclasses.replace(config, epochs=3, batch_size=12, quiet=True, out=str(folder / out), **options)  # type: ignore[arg-type]
    distill(config)
    with (folder / out / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("distiller", "strategy"),
    [*(("at", strategy) for strategy in FROZEN), ("kd", "adaptive"), ("ofd", "adaptive"), ("sp", "adaptive")],
)
def test_a_run_gives_the_same_figures(
    distiller: str, strategy: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0  # of a network in eval mode

    def counted(run: Callable[[StagedModel, Tensor], object]) -> Callable[[StagedModel, Tensor], object]:
        def wrapped(network: StagedModel, x: Tensor) -> object:
            nonlocal passes
            passes += not network.training
            return run(network, x)

        return wrapped

    for name in ("features", "features_and_preactivations"):
        monkeypatch.setattr(StagedModel, name, counted(getattr(StagedModel, name)))
    rows, counts = [], []
    needs = STRATEGIES[strategy]().needs_held_out
    data = DataOptions("tiny", augment=False, val_share=0.2 if needs else 0.0)
    for gib in (0.0, 1.0):
        passes = 0
        given = {"distiller": distiller, "strategy": strategy, "cache_teacher": gib, "data": data}
        rows.append(distilled(tiny, f"run{gib}", **given))
        counts.append(passes)
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3
    # Two of three epochs are looked up: 40 images by 12, or 30 where some are held out.
    assert counts[0] - counts[1] == 2 * (3 if needs else 4)


@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_losses_from_the_cache(distiller: str, pair: tuple[TinyNet, TinyNet]) -> None:
    """Every distiller finds what it looks at: the same bits in the epoch that looks up, channels last."""
    losses = []
    for cached in (False, True):
        torch.manual_seed(7)
        teacher, student = for_distiller(pair, distiller)
        method = SpotKD(
            teacher,
            student,
            distiller,
            image_shape=IMAGE_SHAPE,
            labels=TRAINING_LABELS,
            options=OPTIONS.get(distiller),
        ).train()
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if cached:
            method.cache_teacher(30, itemsize=8)
        images = torch.randn(30, *IMAGE_SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        images = images.to(memory_format=torch.channels_last)
        for epoch in (1, 2):
            method.start_epoch(epoch, 2)
            torch.manual_seed(epoch)
            order = torch.randperm(30)
            for indices in order.split(11):
                total = method(Batch(images[indices], TRAINING_LABELS[indices], indices)).total
                losses.append(total.detach())
        assert method.teacher_cache is None or method.teacher_cache.complete
    assert torch.stack(losses[:6]).equal(torch.stack(losses[6:]))


def test_a_cache_that_lacks_a_sample_computes(pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    teacher, student = pair
    method = SpotKD(teacher, student, "sp", image_shape=IMAGE_SHAPE).train()
    method.cache_teacher(30, itemsize=8)
    method.start_epoch(1, 2)
    method(batch)  # 11 of 30
    method.start_epoch(2, 2)
    assert method.teacher_cache is not None
    assert not method.teacher_cache.complete
    with pytest.raises(SpotkdError, match=r"indices"):
        method(Batch(batch.images, batch.labels))


def test_where_it_would_be_wrong_it_is_refused(tiny: Path) -> None:
    for options, message in (
        ({"data": DataOptions("tiny")}, r"other images in every epoch; set data.augment to false"),
        ({"strategy": "joint"}, r"this strategy trains the teacher"),
        ({"cache_teacher": 1e-6}, r"cache_teacher is 1e-06 GiB, and the teacher's outputs for 40 images take .*e-05"),
        ({"cache_teacher": -1.0}, r"cache_teacher is -1.0: it must be at least 0"),
    ):
        config = DistillOptions(
            teacher=ModelOptions("tinynet6", str(tiny / "teacher")),
            student=ModelOptions("tinynet4"),
            distiller="at",
            strategy="adaptive",
            data=DataOptions("tiny", augment=False),
            cache_teacher=1.0,
            precision="bf16-mixed",  # two bytes a number on every machine
            quiet=True,
            out=str(tiny / "refused"),
        )
        with pytest.raises(SpotkdError, match=message) as error:
            distill(dataclasses.replace(config, **options))
        assert "\n" not in str(error.value)
    assert not (tiny / "refused").exists()


def test_without_augmentation_every_epoch_has_the_same_images(tiny: Path, tiny_data: Dataset) -> None:
    for augment in (False, True):
        loader = Loader(load_data(DataSpec("tiny", augment=augment)), tiny_data.train, 40, training=True)
        epochs = []
        for number in (1, 2):
            batch = next(loader.epoch(number))
            assert batch.indices is not None
            epochs.append(batch.images[batch.indices.argsort()])
            assert not batch.indices.equal(torch.arange(40))  # shuffled all the same
        assert epochs[0].equal(epochs[1]) != augment
