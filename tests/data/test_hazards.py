"""Damage done on purpose: exact, the same in every epoch and process, and only where it is meant to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spotkd import SpotKD, SpotkdError
from spotkd.data import Dataset, LazySet, Loader
from spotkd.data.hazards import damage
from spotkd.distillers.mismatch import cross_spots, mismatch
from spotkd.options.grammar import parse_hazards
from tests.conftest import TinyNet, in_memory


def chosen(data: Dataset, **hazards: float) -> torch.Tensor:
    """Which samples the teacher sees another picture of."""
    view = damage(data, hazards, 1).teacher_view
    assert view is not None
    assert view.is_damaged is not None
    return view.is_damaged


def test_wrong_damages_its_share_with_samples_of_other_classes(tiny_data: Dataset) -> None:
    damaged = damage(tiny_data, {"wrong": 0.4}, 1)
    assert damaged.teacher_view is not None
    assert damaged.teacher_view.instead is not None
    is_damaged, labels = chosen(tiny_data, wrong=0.4), in_memory(tiny_data.train).labels
    assert is_damaged.sum() == 16
    strangers = damaged.teacher_view.instead[is_damaged]
    assert (labels[strangers] != labels[is_damaged]).all()
    assert torch.equal(is_damaged, chosen(tiny_data, wrong=0.4))
    other = damage(tiny_data, {"wrong": 0.4}, 2).teacher_view
    assert other is not None
    assert other.is_damaged is not None
    assert not torch.equal(is_damaged, other.is_damaged)
    assert damaged.test is tiny_data.test
    assert damaged.train is tiny_data.train


def test_subgroup_damages_whole_classes(tiny_data: Dataset) -> None:
    labels, is_damaged = in_memory(tiny_data.train).labels, chosen(tiny_data, subgroup=0.4)
    assert len(set(labels[is_damaged].tolist())) == 2
    assert not set(labels[is_damaged].tolist()) & set(labels[~is_damaged].tolist())


def test_noise_replaces_its_share_of_the_training_labels(tiny_data: Dataset) -> None:
    train, damaged = in_memory(tiny_data.train), damage(tiny_data, {"noise": 0.25}, 1)
    assert (in_memory(damaged.train).labels != train.labels).sum() == 10
    assert damaged.teacher_view is None
    assert torch.equal(in_memory(damaged.test).labels, train.labels)


def test_streams_and_pictures_on_the_disk_are_refused(tiny_data: Dataset) -> None:
    lazy = replace(tiny_data, train=LazySet([], torch.arange(5), torch.arange(5)))
    with pytest.raises(SpotkdError, match="hazard is wrong: the images of tiny are not kept in memory"):
        damage(lazy, {"wrong": 0.5}, 1)
    noisy = damage(lazy, {"noise": 0.4}, 1).train.labels
    assert noisy is not None
    assert (noisy != torch.arange(5)).sum() == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_the_teacher_sees_the_same_stranger_in_every_epoch_and_process(tiny_data: Dataset, processes: int) -> None:
    data = damage(tiny_data, {"wrong": 0.4}, 1)
    assert data.teacher_view is not None
    assert data.teacher_view.instead is not None
    whole = next(Loader(data, data.train, 40, training=False).epoch(0)).images
    is_damaged = chosen(tiny_data, wrong=0.4)
    for rank in range(processes):
        loader = Loader(data, data.train, 16, training=True, rank=rank, processes=processes)
        for batch in (*loader.epoch(1), *loader.epoch(2)):
            assert batch.indices is not None
            seen, mine = loader.teacher_images(batch.images, batch.indices), is_damaged[batch.indices]
            assert torch.equal(seen[mine], whole[data.teacher_view.instead[batch.indices]][mine])
            assert torch.equal(seen[~mine], batch.images[~mine])


def test_what_is_evaluated_is_seen_by_the_teacher_as_it_is(tiny_data: Dataset) -> None:
    data = damage(tiny_data, {"wrong": 1.0, "shift": 3.0}, 1)
    loader = Loader(data, data.test, 16, training=False)
    batch = next(loader.epoch(0))
    assert torch.equal(loader.teacher_images(batch.images, batch.indices), batch.images)


def test_shift_adds_the_same_noise_to_every_image(tiny_data: Dataset) -> None:
    loader = Loader(damage(tiny_data, {"shift": 2.0}, 1), tiny_data.train, 16, training=True)
    batch = next(loader.epoch(1))
    noise = loader.teacher_images(batch.images, batch.indices) - batch.images
    torch.testing.assert_close(noise, noise[:1].expand_as(noise))
    assert noise[0].std() == pytest.approx(2.0, abs=0.4)


def test_the_students_loss_is_made_of_the_strangers_outputs(tiny_data: Dataset, pair: tuple[TinyNet, TinyNet]) -> None:
    teacher, student = (network.float() for network in pair)
    method = SpotKD(teacher, student, "at", "always", image_shape=(3, 8, 8))
    loader = Loader(damage(tiny_data, {"wrong": 0.5}, 1), tiny_data.train, 16, training=True)
    batch = next(loader.epoch(1))
    method.teacher_view = loader.teacher_images
    seen = loader.teacher_images(batch.images, batch.indices)
    expected = teacher.features(seen)
    for one, other in zip(method.observe(batch).teacher, expected, strict=True):
        torch.testing.assert_close(one, other)
    # What is held out of training is seen as it is.
    torch.testing.assert_close(method.observe(batch, cached=False).teacher[-1], teacher.features(batch.images)[-1])


def test_scale_multiplies_the_weight_of_the_distiller(pair: tuple[TinyNet, TinyNet]) -> None:
    at, kd = (SpotKD(*pair, name, "always", image_shape=(3, 8, 8)) for name in ("at", "kd"))
    before = at.beta
    for method in (at, kd):
        method.scale_distiller(30)
    assert (at.alpha, at.beta) == (1, 30 * before)
    assert kd.alpha == 30


def test_mismatch_faces_each_spot_with_the_feature_of_the_next(pair: tuple[TinyNet, TinyNet]) -> None:
    crossed = SpotKD(*pair, mismatch("at"), "always", image_shape=(3, 8, 8))
    plain = SpotKD(*pair, "at", "always", image_shape=(3, 8, 8))
    assert [s for s, _ in crossed.spots] == [s for s, _ in plain.spots]
    theirs = [t for _, t in plain.spots]
    assert [t for _, t in crossed.spots] == [*theirs[1:], theirs[0]]
    shapes = ((4, 8, 8), (4, 4, 4), (4,), (5,))
    assert cross_spots(((0, 1), (1, 2)), shapes) == ((0, 0), (1, 2))
    with pytest.raises(SpotkdError, match="hazard is mismatch: the teacher has no other feature"):
        cross_spots(((1, 2),), shapes)
    with pytest.raises(SpotkdError, match="hazard is mismatch: this distiller compares the logits alone"):
        SpotKD(*pair, mismatch("kd"), "always", image_shape=(3, 8, 8))


def test_hazards_are_read_from_words() -> None:
    assert parse_hazards("wrong:0.4, scale:30") == {"wrong": 0.4, "scale": 30.0}
    assert parse_hazards(["mismatch"]) == {"mismatch": 1.0}
    assert parse_hazards(None) == {}


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("fog:1", "hazard is fog:1: it must be wrong, subgroup"),
        ("wrong:1.5", "hazard is wrong:1.5: wrong takes a share above 0 and up to 1"),
        ("wrong", "hazard is wrong: wrong takes a share above 0 and up to 1, as wrong:0.4"),
        ("scale:nan", "hazard is scale:nan: scale takes a number above 0"),
        ("mismatch:2", "hazard is mismatch:2: mismatch takes no number"),
        ("wrong:0.1,wrong:0.2", "wrong is given twice"),
    ],
)
def test_words_that_are_no_hazards(words: str, answer: str) -> None:
    with pytest.raises(SpotkdError, match=answer):
        parse_hazards(words)
