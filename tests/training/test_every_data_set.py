"""A teacher and its student on every kind of data set, from files to evaluated weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spotkd import Loader, SpotkdError
from spotkd.data import load_data
from spotkd.options import DataOptions, DistillOptions, EvaluateOptions, ModelOptions, TrainOptions, with_values
from spotkd.training import distill, evaluate_checkpoint, train
from spotkd.training.build import data_spec

from ..data.formats import write_cifar10, write_cifar100, write_folder, write_hub, write_imagenet, write_tiny_imagenet
from ..vision import torchvision


def folder(root: Path) -> DataOptions:
    write_folder(root / "pictures", count=6)
    return DataOptions(f"folder:{root / 'pictures'}", val_share=0.2)


def large_folder(root: Path) -> DataOptions:
    assert torchvision
    write_folder(root / "pictures", count=4, sizes=((120, 140),))
    return DataOptions(f"folder:{root / 'pictures'}", image_size=104, workers=1)


def cifar10(root: Path) -> DataOptions:
    write_cifar10(root)
    return DataOptions("cifar10", str(root))


def cifar100(root: Path) -> DataOptions:
    write_cifar100(root)
    return DataOptions("cifar100", str(root), limit=20)


def tiny_imagenet(root: Path) -> DataOptions:
    write_tiny_imagenet(root)
    return DataOptions("tiny-imagenet", str(root))


def imagenet(root: Path) -> DataOptions:
    write_imagenet(root / "imagenet")
    return DataOptions("imagenet", str(root), image_size=32, workers=0)


def hub(root: Path) -> DataOptions:
    write_hub(root / "set", {"train": [0, 1, 2] * 4, "test": [0, 1, 2]})
    return DataOptions(f"hf:{root / 'set'}")


def stream(root: Path) -> DataOptions:
    write_hub(root / "set", {"train": [0, 1, 2] * 4, "test": [0, 1, 2]})
    return DataOptions(f"hf:{root / 'set'}", streaming=True, limit=9, image_size=32)


KINDS = [folder, large_folder, cifar10, cifar100, tiny_imagenet, imagenet, hub, stream]


# Images that are decoded as they are needed are decoded by processes of their own; the other sets but one are slow.
PROCESSES, FAST = (large_folder, imagenet), (folder,)


def marks_of(kind: Callable[[Path], DataOptions]) -> list[pytest.MarkDecorator]:
    return [pytest.mark.process] if kind in PROCESSES else [] if kind in FAST else [pytest.mark.slow]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks_of(kind), id=kind.__name__) for kind in KINDS])
def test_from_files_to_evaluated_weights(kind: Callable[[Path], DataOptions], tmp_path: Path) -> None:
    data = kind(tmp_path / "files")
    common = {"data": data, "epochs": 1, "batch_size": 8, "quiet": True}
    teacher = tmp_path / "teacher"
    taught = train(TrainOptions(**common, out=str(teacher), model=ModelOptions("resnet8")))  # type: ignore[arg-type]
    config = DistillOptions(**common, out=str(tmp_path / "student"), distiller="at", strategy="adaptive")  # type: ignore[arg-type]
    config = with_values(config, {"teacher": ModelOptions("resnet8", str(teacher)), "student": ModelOptions("resnet8")})
    summary = distill(config)
    for folder_of, scores in ((teacher, taught.scores), (tmp_path / "student", summary.scores)):
        again = evaluate_checkpoint(EvaluateOptions(str(folder_of)))  # the folder notes where the data are
        assert again.images == scores.images > 0
        assert again.top1 == pytest.approx(scores.top1)
        assert again.loss == pytest.approx(scores.loss, rel=1e-2)


def test_a_memory_of_the_training_set_needs_its_labels(tmp_path: Path) -> None:
    data = stream(tmp_path / "files")
    common = {"data": data, "epochs": 1, "batch_size": 8, "quiet": True}
    train(TrainOptions(**common, out=str(tmp_path / "t"), model=ModelOptions("resnet8")))  # type: ignore[arg-type]
    config = DistillOptions(**common, out=str(tmp_path / "s"), distiller="crd")  # type: ignore[arg-type]
    config = with_values(config, {"teacher": ModelOptions("resnet8", str(tmp_path / "t"))})
    with pytest.raises(SpotkdError, match="labels"):
        distill(config)


def test_another_number_of_classes_than_the_teachers(tmp_path: Path) -> None:
    data = folder(tmp_path / "files")
    common = {"epochs": 1, "batch_size": 8, "quiet": True}
    train(TrainOptions(**common, data=data, out=str(tmp_path / "t"), model=ModelOptions("resnet8")))  # type: ignore[arg-type]
    config = DistillOptions(**common, data=cifar10(tmp_path / "files"), out=str(tmp_path / "s"))  # type: ignore[arg-type]
    config = with_values(config, {"teacher": ModelOptions("resnet8", str(tmp_path / "t"))})
    with pytest.raises(SpotkdError, match="trained on 3 classes, and cifar10 has 10"):
        distill(config)


def test_negative_workers(tmp_path: Path) -> None:
    with pytest.raises(SpotkdError, match=r"data\.workers is -1: it must be at least 0"):
        train(TrainOptions(data=DataOptions(workers=-1), out=str(tmp_path / "t")))


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_goes_on_in_the_middle(kind: Callable[[Path], DataOptions], tmp_path: Path) -> None:
    """What is left of an epoch is what it would have been, whatever is skipped."""
    data = load_data(data_spec(kind(tmp_path)))
    loader = Loader(data, data.train, 4, training=True, seed=3, workers=0)
    whole = list(loader.epoch(2))
    for skip in (0, 1, len(whole) - 1, len(whole)):
        rest = list(loader.epoch(2, skip=skip))
        assert len(rest) == len(whole) - skip
        for one, two in zip(whole[skip:], rest, strict=True):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.labels, two.labels)
