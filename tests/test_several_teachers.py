"""Several teachers: losses and weights against sums over single teachers, caches, and what cannot be asked of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from spotkd import DISTILLERS, Batch, SpotKD, SpotkdError
from spotkd.cli.arguments import read
from spotkd.committee import Committee
from spotkd.data import Dataset
from spotkd.models import create_model
from spotkd.options.values import describe_teachers
from spotkd.training.state import learned_state
from spotkd.training.teacher import load_teacher

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller, randomise_statistics

Pair = tuple[TinyNet, TinyNet]


def make_teachers(pair: Pair, distiller: str) -> tuple[list[TinyNet], TinyNet]:
    """Two teachers that disagree, and the student."""
    first, student = for_distiller(pair, distiller)
    torch.manual_seed(5)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    randomise_statistics(second)
    return [first, second], student


def build(
    teachers: list[TinyNet] | TinyNet, student: TinyNet, distiller: str, strategy: str, **options: object
) -> SpotKD:
    torch.manual_seed(1)
    method = SpotKD(
        teachers, student, distiller, strategy, image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS,
        options=OPTIONS.get(distiller), **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return method.double().train()


def confidence(logits: list[Tensor], labels: Tensor) -> Tensor:
    """CA-MKD's formula, number by number: ``(B, K)``."""
    rows = []
    for b, label in enumerate(labels.tolist()):
        losses = [-torch.log(F.softmax(each[b].double(), 0)[label]) for each in logits]
        whole = sum(loss.exp() for loss in losses)
        rows.append([(1 - loss.exp() / whole).item() / (len(logits) - 1) for loss in losses])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("strategy", ["always", "confidence"])
def test_loss_is_the_weighted_mean_of_what_single_teachers_give(pair: Pair, batch: Batch, strategy: str) -> None:
    teachers, student = make_teachers(pair, "at")
    method = build(teachers, student, "at", strategy, beta=10.0)
    losses = method(batch)
    shares = confidence([teacher(batch.images) for teacher in teachers], batch.labels)
    if strategy == "always":
        shares = torch.full_like(shares, 0.5)
    maps = [f"layer{i}@{k}" for k in (1, 2) for i in (1, 2, 3)]
    assert method.spot_names == (*maps, "logits@1", "logits@2")
    columns = [0, 0, 0, 1, 1, 1, 0, 1]
    torch.testing.assert_close(losses.mask.double(), 2 * shares[:, columns], rtol=1e-5, atol=1e-6)
    kl, distill = 0.0, 0.0
    for k, teacher in enumerate(teachers):
        seen = build(teacher, student, "at", "always").observe(batch)
        t, s = seen.teacher[-1] / 4, seen.student[-1] / 4
        kd = 16 * (F.softmax(t, 1) * (F.log_softmax(t, 1) - F.log_softmax(s, 1))).sum(1)
        kl += (shares[:, k] * kd).mean().item()
        for f_s, f_t in zip(seen.student_at_spots, seen.teacher_at_spots, strict=True):
            a_s, a_t = (F.normalize(f.pow(2).mean(1).flatten(1)) for f in (f_s, f_t))
            distill += 10 * (shares[:, k] * (a_s - a_t).pow(2).mean(1)).mean().item()
    assert losses.kl.item() == pytest.approx(kl, rel=1e-5)
    assert losses.distill.item() == pytest.approx(distill, rel=1e-5)


@pytest.mark.parametrize("distiller", DISTILLERS)
@pytest.mark.parametrize("strategy", ["confidence", "trust+balance"])
def test_every_distiller_learns_from_two_and_goes_on_to_the_bit(
    pair: Pair, batch: Batch, distiller: str, strategy: str
) -> None:
    teachers, student = make_teachers(pair, distiller)
    method = build(copy.deepcopy(teachers), copy.deepcopy(student), distiller, strategy)
    method.start_epoch(1, 2)
    torch.manual_seed(3)
    losses = method(batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert losses.mask.shape[1] == len(method.spot_names) == len(set(method.spot_names))
    state = copy.deepcopy(method.state_dict())
    assert not [key for key in learned_state(method) if key.startswith("teacher.")]
    again = build(teachers, student, distiller, strategy)
    again.load_state_dict(state)
    again.start_epoch(1, 2)
    found = []
    for each in (method, again):
        torch.manual_seed(4)
        found.append(each(batch).total)
    assert torch.equal(*found)


def test_trust_asks_the_teachers_who_are_right(pair: Pair, batch: Batch) -> None:
    teachers, student = make_teachers(pair, "at")
    mask = build(teachers, student, "at", "trust")(batch).mask
    right = [teacher(batch.images).argmax(1) == batch.labels for teacher in teachers]
    assert not torch.equal(*right)
    assert torch.equal(mask.bool(), torch.stack([right[k] for k in (0, 0, 0, 1, 1, 1, 0, 1)], dim=1))


@pytest.mark.parametrize("strategy", ["wsl", "ea"])
def test_each_teacher_has_the_weights_that_it_would_have_alone(pair: Pair, batch: Batch, strategy: str) -> None:
    teachers, student = make_teachers(pair, "at")
    mask = build(teachers, student, "at", strategy)(batch).mask
    alone = [build(teacher, student, "at", strategy)(batch).mask[:, 0] for teacher in teachers]
    assert not torch.allclose(*alone)
    torch.testing.assert_close(mask, torch.stack([alone[k] for k in (0, 0, 0, 1, 1, 1, 0, 1)], dim=1))


def test_one_in_a_list_is_the_plain_case(pair: Pair, batch: Batch) -> None:
    teacher, student = pair
    plain, listed = build(teacher, student, "at", "always"), build([teacher], student, "at", "confidence")
    assert listed.teacher is teacher
    assert listed.spot_names == plain.spot_names
    assert torch.equal(plain(batch).total, listed(batch).total)


def test_cached_outputs_are_those_of_all_teachers(pair: Pair, batch: Batch) -> None:
    teachers, student = make_teachers(pair, "at")
    totals = []
    for cached in (False, True):
        method = build(copy.deepcopy(teachers), copy.deepcopy(student), "at", "confidence")
        if cached:
            method.cache_teacher(30, 8)
            assert method.teacher_cache is not None
            assert batch.indices is not None
            everything = torch.zeros(30, *IMAGE_SHAPE, dtype=torch.float64)
            everything[batch.indices] = batch.images
            method.eval()(Batch(everything, TRAINING_LABELS[:30], torch.arange(30)))
            method.train().start_epoch(2, 2)
            assert method.teacher_cache.complete
        torch.manual_seed(2)
        totals.append(method(batch).total)
    torch.testing.assert_close(*totals)


def test_joint_logits_are_the_mean_of_probabilities(pair: Pair, batch: Batch) -> None:
    teachers, _ = make_teachers(pair, "kd")
    both = Committee(teachers).eval()
    mean = torch.stack([F.softmax(teacher.eval()(batch.images), 1) for teacher in teachers]).mean(0)
    torch.testing.assert_close(F.softmax(both(batch.images), 1), mean)
    torch.testing.assert_close(both.features(batch.images)[-1], both(batch.images))


@pytest.mark.parametrize("strategy", ["adaptive", "joint"])
def test_a_policy_routes_through_one_teacher(pair: Pair, strategy: str) -> None:
    teachers, student = make_teachers(pair, "at")
    with pytest.raises(SpotkdError, match="routes through one teacher"):
        build(teachers, student, "at", strategy)


def test_each_teacher_must_fit(pair: Pair) -> None:
    teachers, student = make_teachers(pair, "at")
    with pytest.raises(SpotkdError, match="the student has 5 classes and the teacher 7"):
        build([teachers[0], TinyNet(6, 7).double()], student, "at", "always")


def test_teacher_may_be_given_more_than_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        weights = create_model("resnet8", 5).state_dict()
        save_file(weights, tmp_path / f"{name}.safetensors", {"spotkd": json.dumps({"model": "resnet8"})})
    a, b, c = (str(tmp_path / f"{name}.safetensors") for name in "abc")
    options = read("distill", ["--teacher", a, "--strategy", "confidence", "--teacher", b, f"--teacher={c}"])
    assert (options.teacher.name, options.teacher.checkpoint, options.more_teachers) == ("resnet8", a, [b, c])
    assert read("distill", ["--teacher", a]).more_teachers is None
    assert describe_teachers(options) == "resnet8 and 2 others"


def test_a_further_teacher_must_be_of_these_classes_and_note_its_network(tmp_path: Path, tiny_data: Dataset) -> None:
    path = str(tmp_path / "b.safetensors")
    for noted, message in (
        ({}, "notes no network"),
        ({"model": "python:module.network"}, "is a network of python:"),
        ({"model": "resnet8", "classes": ["0", "1"]}, "trained on 2 classes, and tiny has 5"),
    ):
        save_file(create_model("resnet8", 5).state_dict(), path, {"spotkd": json.dumps(noted)})
        with pytest.raises(SpotkdError, match=message):
            load_teacher(path, tiny_data, "tiny", False)
