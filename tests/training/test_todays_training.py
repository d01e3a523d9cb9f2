"""What people train with today: each by one option, off by default, and resumed bit for bit."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spotkd import DATASETS, MODELS, Batch, SpotKD, SpotkdError
from spotkd.data import Mixing
from spotkd.errors import Stopped
from spotkd.losses import Supervised
from spotkd.options import EvaluateOptions, ModelOptions, OptimOptions, TrainOptions, with_values
from spotkd.options.values import learning_rate, warmup
from spotkd.runs.checkpoint import read_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.runs.writer import RunWriter
from spotkd.training import distill, evaluate_checkpoint, resume, train
from spotkd.training.optim import make_optimizer
from spotkd.training.trained import AveragedNetwork

from .. import vision  # noqa: F401  # so that torchvision can be imported
from ..conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet
from . import killed_runs
from .killed_runs import configured, differences, what_is_left

Pair = tuple[TinyNet, TinyNet]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for runs, and the names that they use."""
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: killed_runs.tiny_data())
    monkeypatch.setitem(MODELS._entries, "tinynet6", lambda classes: TinyNet(6, classes))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))
    return tmp_path


def plain(place: Path, out: str, **options: Any) -> TrainOptions:
    """A short training of five steps an epoch."""
    common = {"epochs": 3, "batch_size": 8, "quiet": True, "out": str(place / out), "data.name": "tiny"}
    return with_values(TrainOptions(model=ModelOptions("tinynet4")), common | options)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The process is asked to stop, by a real signal, after so many steps from now on."""
    unchanged, left = RunWriter.after_step, [steps]

    def after_step(self: RunWriter, state: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        unchanged(self, state)

    monkeypatch.setattr(RunWriter, "after_step", after_step)


CHOICES: dict[str, dict[str, Any]] = {
    "adamw": {"optim.kind": "adamw"},
    "cosine": {"optim.schedule": "cosine", "optim.warmup": 1.2},
    "clip": {"optim.clip": 0.05},
    "smooth": {"label_smoothing": 0.1},
    "ema": {"ema": 0.9},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "augmentation": {"data.crop_area": 0.5, "data.randaugment": 9, "data.jitter": 0.4},
}


@pytest.mark.parametrize("name", CHOICES)
def test_changes_what_is_learnt_and_is_resumed_bit_for_bit(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(plain(place, "usual"))
    train(plain(place, "whole", **CHOICES[name]))
    with monkeypatch.context() as patched:
        stop_after(patched, 8)
        with pytest.raises(Stopped):
            train(plain(place, "stopped", **CHOICES[name]))
    torch.manual_seed(99)  # whoever goes on has drawn other numbers before
    resume(place / "stopped")
    states = {kind: read_checkpoint(place / kind / "last.ckpt") for kind in ("usual", "whole", "stopped")}
    for part in ("method", "optimizer", "selection"):
        assert differences(states["whole"][part], states["stopped"][part]) == []
    assert RunFolder(place / "whole").metrics["val_loss"] == RunFolder(place / "stopped").metrics["val_loss"]
    assert (place / "whole" / "model.safetensors").read_bytes() == (
        place / "stopped" / "model.safetensors"
    ).read_bytes()
    assert RunFolder(place / "whole").metrics["val_loss"] != RunFolder(place / "usual").metrics["val_loss"]


def test_a_distillation_with_all_of_it_is_resumed_bit_for_bit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {key: value for choice in CHOICES.values() for key, value in choice.items()}
    train(with_values(plain(place, "teacher", epochs=1), {"model.name": "tinynet6"}))
    distill(configured(place, place / "whole", "at", **everything))
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        with pytest.raises(Stopped):
            distill(configured(place, place / "stopped", "at", **everything))
    torch.manual_seed(99)
    resume(place / "stopped")
    assert differences(what_is_left(place / "whole"), what_is_left(place / "stopped")) == []


# ------------------------------------------------------------------------------------------------------------ optimizer


def test_the_learning_rate_follows_the_optimizer_unless_given() -> None:
    assert learning_rate(OptimOptions()) == 0.05
    assert learning_rate(OptimOptions(kind="adamw")) == 0.001
    assert learning_rate(OptimOptions(kind="adamw", lr=0.01)) == 0.01


def test_adamw_has_both_groups_with_decays_of_their_own(pair: Pair) -> None:
    method = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    optimizer, _ = make_optimizer(method, epochs=2, steps_per_epoch=3, kind="adamw", lr=0.001, momentum=0.8)
    assert type(optimizer) is torch.optim.AdamW
    assert [(group["weight_decay"], group["betas"]) for group in optimizer.param_groups] == [
        (5e-4, (0.8, 0.999)),
        (1e-3, (0.8, 0.999)),
    ]


def test_cosine_rises_in_a_line_and_falls_to_nearly_zero(pair: Pair) -> None:
    method = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    optimizer, schedule = make_optimizer(method, epochs=10, steps_per_epoch=5, lr=0.1, warmup=2)
    found = []
    for _ in range(50):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    student = [rate for rate, _ in found]
    assert student[:10] == pytest.approx([0.1 * (step + 1) / 11 for step in range(10)])
    assert student[10] == pytest.approx(0.1)
    assert student[30] == pytest.approx(0.05)  # half of the fall
    assert student[-1] < 0.001
    assert all(policy == pytest.approx(rate / 2) for rate, policy in found)


def test_warmup_belongs_to_cosine_and_fits_the_run() -> None:
    assert warmup(OptimOptions(), 40) is None
    assert warmup(OptimOptions(schedule="cosine"), 40) == 2
    with pytest.raises(SpotkdError, match=r"optim\.warmup belongs to optim\.schedule cosine"):
        warmup(OptimOptions(warmup=3), 40)
    with pytest.raises(SpotkdError, match=r"optim\.warmup is 40: it must be below epochs=40"):
        warmup(OptimOptions(schedule="cosine", warmup=40), 40)


def test_each_side_is_clipped_by_itself(pair: Pair, batch: Batch) -> None:
    method = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    optimizer, _ = make_optimizer(method, epochs=1, steps_per_epoch=1, clip=0.01)
    method(batch).total.backward()
    before = [p.grad.clone() for p in method.student_parameters() if p.grad is not None]
    optimizer.step()
    after = [p.grad for p in method.student_parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(before)
    assert norm > 0.01
    assert torch.nn.utils.get_total_norm(after).item() == pytest.approx(0.01, rel=1e-3)
    for was, now in zip(before, after, strict=True):  # shortened, not turned
        torch.testing.assert_close(now, was * (0.01 / norm), rtol=1e-3, atol=1e-9)


def test_labels_are_smoothed_in_every_cross_entropy(pair: Pair, batch: Batch) -> None:
    method = Supervised(pair[1])
    method.label_smoothing = 0.2
    expected = torch.nn.functional.cross_entropy(pair[1](batch.images), batch.labels, label_smoothing=0.2)
    assert method(batch).task.item() == pytest.approx(expected.item(), rel=1e-6)
    sakd = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    torch.manual_seed(1)
    sharp = sakd(batch)
    sakd.label_smoothing = 0.2
    torch.manual_seed(1)
    smooth = sakd(batch)
    assert (sharp.task != smooth.task, sharp.route != smooth.route) == (True, True)
    assert (sharp.kl == smooth.kl, sharp.distill == smooth.distill) == (True, True)


# -------------------------------------------------------------------------------------------- the network that is kept


def test_the_average_is_evaluated_chosen_and_saved(place: Path) -> None:
    train(plain(place, "usual"))
    summary = train(plain(place, "averaged", ema=0.9))
    states = [read_checkpoint(place / name / "last.ckpt") for name in ("usual", "averaged")]
    assert differences(states[0]["method"], states[1]["method"]) == []  # the student learns as without
    assert (states[0]["trained"], int(states[1]["trained"]["n_averaged"])) == ({}, 15)
    saved = evaluate_checkpoint(EvaluateOptions(str(place / "averaged"), data="tiny"))
    assert saved.loss == pytest.approx(summary.scores.loss, rel=1e-5)
    assert saved.loss != pytest.approx(RunFolder(place / "usual").result.scores.loss, rel=1e-3)


def test_what_is_not_off_is_told_before_the_first_step(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(plain(place, "told", **CHOICES["adamw"], **CHOICES["mixup"], ema=0.9, epochs=1, quiet=False))
    assert "tinynet4 on labels; onecycle with rate 0.001, adamw, mixup 0.4, averaged weights 0.9 (" in (
        capsys.readouterr().out
    )
    train(plain(place, "usual", epochs=1, quiet=False))
    assert "tinynet4 on labels; onecycle with rate 0.05 (" in capsys.readouterr().out


def test_the_average_begins_as_a_copy_and_follows_the_student() -> None:
    student = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(student.weight, 0.0)
    averaged = AveragedNetwork(student, 0.5, torch.device("cpu"))
    expected = []
    for value in (4.0, 8.0, 16.0):
        torch.nn.init.constant_(student.weight, value)
        averaged.update()
        expected.append(next(averaged.network.parameters()).item())
    one = 4 + (8 - 4) * 9 / 11  # the decay is (1 + n) / (10 + n) until that is above 0.5
    assert expected == pytest.approx([4.0, one, one + (16 - one) * 9 / 12])


def test_stops_when_validation_images_are_recognised_no_better(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"epochs": 9, "optim.lr": 1e-9, "patience": 2}  # nothing is learnt
    summary = train(plain(place, "whole", **options))
    assert (summary.epochs, summary.stopped) == (3, "no better on val images for 2 epochs")
    assert str(summary).endswith("; stopped early, after epoch 3: no better on val images for 2 epochs")
    assert RunFolder(place / "whole").result.stopped == summary.stopped
    assert len(RunFolder(place / "whole").metrics["epoch"]) == 3
    with monkeypatch.context() as patched:
        stop_after(patched, 12)
        with pytest.raises(Stopped):
            train(plain(place, "stopped", **options))
    resumed = resume(place / "stopped")
    assert (resumed.epochs, resumed.stopped, resumed.scores) == (3, summary.stopped, summary.scores)
    assert "stopped" not in train(plain(place, "usual", epochs=1)).as_dict()


def test_patience_needs_validation_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: replace(killed_runs.tiny_data(), val=None))
    with pytest.raises(SpotkdError, match=r"patience is 2: tiny has no validation images; .* --data\.val_share 0\.1"):
        train(plain(place, "none", patience=2))
    assert not (place / "none").exists()


# --------------------------------------------------------------------------------------------------------- mixed images


def test_mixup_gives_what_the_paper_says(batch: Batch) -> None:
    images, labels = batch.images, batch.labels
    mixed, soft = Mixing(5, mixup=0.5).mix(images, labels, (1, 2, 3))
    sharp = torch.nn.functional.one_hot(labels, 5).to(soft.dtype)
    own = ((soft - sharp.roll(1, 0)) / (sharp - sharp.roll(1, 0))).nanmean().item()
    assert 0 < own < 1
    torch.testing.assert_close(mixed, own * images + (1 - own) * images.roll(1, 0))
    torch.testing.assert_close(soft, own * sharp + (1 - own) * sharp.roll(1, 0))
    assert torch.equal(mixed, Mixing(5, mixup=0.5).mix(images, labels, (1, 2, 3))[0])
    assert not torch.equal(mixed, Mixing(5, mixup=0.5).mix(images, labels, (1, 2, 4))[0])


def test_cutmix_pastes_one_rectangle_and_labels_it_by_its_area(batch: Batch) -> None:
    images, labels = batch.images, batch.labels
    mixed, soft = Mixing(5, cutmix=1.0).mix(images, labels, (1, 2, 5))
    pasted = (mixed != images).any(1)
    assert torch.equal(mixed[pasted[:, None].expand_as(mixed)], images.roll(1, 0)[pasted[:, None].expand_as(mixed)])
    rows, columns = pasted[0].any(1), pasted[0].any(0)
    assert torch.equal(pasted, (rows[:, None] & columns).expand_as(pasted))
    area = (rows.sum() * columns.sum() / (8 * 8)).item()
    assert 0 < area < 1
    sharp = torch.nn.functional.one_hot(labels, 5).to(soft.dtype)
    torch.testing.assert_close(soft, (1 - area) * sharp + area * sharp.roll(1, 0))


def test_of_mixup_and_cutmix_one_is_drawn_for_each_batch(batch: Batch) -> None:
    kinds = set()
    for number in range(20):
        mixed, _ = Mixing(5, 1.0, 1.0).mix(batch.images, batch.labels, (0, 0, number))
        kinds.add(bool(((mixed == batch.images) | (mixed == batch.images.roll(1, 0))).all()))
    assert kinds == {True, False}


@pytest.mark.parametrize("distiller", ["kd", "dkd", "crd"])
def test_soft_labels_reach_the_cross_entropy_and_their_classes_the_distillers(
    distiller: str, pair: Pair, batch: Batch
) -> None:
    options = OPTIONS.get(distiller, {})
    method = SpotKD(*pair, distiller, image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS, options=options)
    sharp = torch.nn.functional.one_hot(batch.labels, 5).to(batch.images.dtype)
    torch.manual_seed(1)
    hard = copy.deepcopy(method)(batch)
    torch.manual_seed(1)
    soft = method(batch._replace(labels=sharp))
    for term in ("task", "kl", "distill", "route"):
        assert getattr(soft, term).item() == pytest.approx(getattr(hard, term).item(), rel=1e-9), term


def test_a_hazard_and_mixed_images_do_not_go_together(place: Path) -> None:
    with pytest.raises(SpotkdError, match="hazard: pictures that are damaged on purpose are not mixed"):
        distill(configured(place, place / "mixed", "at", mixup=0.2, hazard="wrong:0.4"))


def test_a_cache_of_the_teacher_and_mixed_images_do_not_go_together(place: Path) -> None:
    train(with_values(plain(place, "teacher", epochs=1), {"model.name": "tinynet6"}))
    config = configured(place, place / "cached", "at", mixup=0.2, cache_teacher=1.0)
    monochrome = killed_runs.tiny_data()
    DATASETS._entries["tiny"] = lambda spec: replace(monochrome, augment=False)
    with pytest.raises(SpotkdError, match="cache_teacher: mixed images are other ones in every epoch"):
        distill(config)
