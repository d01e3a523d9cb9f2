"""What is not a number, makes no sense or is too little to tell, in training and in options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from spotkd import DISTILLERS, Batch, SpotKD, SpotkdError
from spotkd.cli import main
from spotkd.data import Dataset, ImageSet, Loader, count_batches
from spotkd.errors import refused_memory_as_error
from spotkd.options import DataOptions, DistillOptions, PolicyOptions, TrainOptions
from spotkd.options.values import check_values
from spotkd.runs import layout
from spotkd.runtime.device import Device, make_fabric
from spotkd.training import distill, resume
from spotkd.training.build import check_devices, open_data
from spotkd.training.teacher import check_teacher

from ..conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller
from .killed_runs import configured, differences, what_is_left
from .test_resume import place  # noqa: F401  # a fixture

Pair = tuple[TinyNet, TinyNet]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("distiller", DISTILLERS)
def test_a_broken_teacher_is_seen_by_the_guard(distiller: str, bad: float, pair: Pair, batch: Batch) -> None:
    """Every distiller: the loss is not finite, and nothing is raised on the way."""
    teacher, student = for_distiller(pair, distiller)
    with torch.no_grad():
        teacher.fc.bias[0] = bad
        torch.nn.init.constant_(teacher.layer1.get_parameter("0.bias"), bad)
    method = SpotKD(
        teacher, student, distiller, "always", image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS,
        options=OPTIONS.get(distiller),
    ).double()  # fmt: skip
    method.start_epoch(2, 4)
    assert not method(batch).total.isfinite()


def test_a_decomposition_that_fails_is_seen_by_the_guard(
    pair: Pair, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(matrices: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: (Batch element 3): The algorithm failed to converge")  # type: ignore[attr-defined]

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    teacher, student = for_distiller(pair, "kdsvd")
    method = SpotKD(teacher, student, "kdsvd", "always", image_shape=IMAGE_SHAPE).double()
    total = method(batch).total
    total.backward()
    assert not total.isfinite()


def images(count: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = ImageSet(pixels, torch.arange(count) % 2)
    return Dataset("some", split, split, ("a", "b"), (0.5,), (0.5,), padding=1)


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(9, 4, 2), (8, 4, 2), (10, 4, 3), (1, 4, 1), (3, 1, 3)])
def test_a_last_batch_of_one_is_left_out_in_training(count: int, batch_size: int, batches: int) -> None:
    data = images(count)
    loader = Loader(data, data.train, batch_size, training=True)
    sizes = [len(batch.labels) for batch in loader.epoch(1)]
    assert len(sizes) == len(loader) == count_batches(count, batch_size) == batches
    assert [len(batch.labels) for batch in loader.epoch(1, skip=1)] == sizes[1:]
    evaluation = Loader(data, data.test, batch_size, training=False)
    assert sum(len(batch.labels) for batch in evaluation.epoch(0)) == count


def test_another_image_is_left_out_in_another_epoch() -> None:
    data = images(9)
    loader = Loader(data, data.train, 4, training=True)
    seen = [{i for batch in loader.epoch(epoch) for i in batch.indices.tolist()} for epoch in range(1, 9)]  # type: ignore[union-attr]
    assert {len(one) for one in seen} == {8}
    assert set.union(*seen) == set(range(9))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (DistillOptions(alpha=-1), "alpha"),
        (DistillOptions(beta=-0.1), "beta"),
        (DistillOptions(policy=PolicyOptions(target_weight=-1)), "policy.target_weight"),
        (DistillOptions(policy=PolicyOptions(share_cost=-1)), "policy.share_cost"),
        (TrainOptions(batch_size=2**63), "batch_size"),
        (TrainOptions(epochs=2**31), "epochs"),
        (TrainOptions(data=DataOptions(limit=2**40)), "data.limit"),
    ],
)
def test_values_that_make_no_sense(options: TrainOptions | DistillOptions, key: str) -> None:
    with pytest.raises(SpotkdError, match=f"^{key} is "):
        check_values(options)


def test_more_devices_than_any_machine_has() -> None:
    with pytest.raises(SpotkdError, match="devices is 5000: this machine takes at most"):
        check_devices(TrainOptions(devices=5000, batch_size=100_000))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["strategy", "distiller"])
@pytest.mark.parametrize("name", ["function", "number", "other"])
def test_names_of_the_wrong_kind(
    option: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "wrong_kinds.py").write_text("def function(*_, **__): return 3\nnumber = 3\nclass other: pass\n")
    common = ["--data.limit", "94", "--epochs", "1", "--quiet", "true"]
    torch.save({}, "x.pt")
    assert main(["train", "--model", "resnet8", *common, "--out", "t"]) == 0
    capsys.readouterr()
    taught = ["--teacher", "resnet8", "--teacher.checkpoint", "t", "--min_teacher_top1", "0"]
    assert main(["distill", *taught, *common, f"--{option}", f"python:wrong_kinds.{name}", "--out", "s"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"spotkd: {option} is python:wrong_kinds.{name}: it")
    assert error.count("\n") == 1
    sys.modules.pop("wrong_kinds")


def test_a_data_set_of_ones_own_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "failing_data.py").write_text("def make(): raise KeyError('no such column')\n")
    with pytest.raises(SpotkdError, match=r"python:failing_data\.make cannot be made \(KeyError: 'no such column'\)"):
        open_data(TrainOptions(data=DataOptions("python:failing_data.make")))


@pytest.mark.parametrize(("negatives", "holds"), [(16384, True), (16385, False), (2**31, False), (2**63, False)])
def test_more_negatives_than_there_are_images(negatives: int, holds: bool, pair: Pair) -> None:
    teacher, student = pair

    def make() -> SpotKD:
        return SpotKD(
            teacher, student, "crd", image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS, options={"negatives": negatives}
        )

    if holds:
        make()
    else:
        with pytest.raises(SpotkdError, match=rf"negatives .*is {negatives}: (there are 30 training|it must be)"):
            make()


def ask_too_much(how: str) -> object:
    if how == "torch":
        return torch.empty(2**60)
    if how == "sizes":
        return torch.empty(2**62, 2**62)
    if how == "python":
        return bytearray(2**62)
    if how == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")
    raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("how", "amount"), [("torch", r" \(4.29e\+09 GiB\)"), ("sizes", ""), ("python", ""), ("cuda", ".*")]
)
def test_memory_that_is_refused_is_one_line(how: str, amount: str) -> None:
    words = f"^there is not enough memory for what .* asked for{amount}; half of it is done; take smaller"
    with pytest.raises(SpotkdError, match=words), refused_memory_as_error(lambda: "half of it is done"):
        ask_too_much(how)


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="something else"), refused_memory_as_error():
        ask_too_much("otherwise")


def test_a_run_without_memory_names_its_last_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    plain, left = SpotKD.forward, [4]

    def forward(self: SpotKD, given: Batch) -> object:
        left[0] -= 1
        if not left[0]:
            torch.empty(2**60)
        return plain(self, given)

    monkeypatch.setattr(SpotKD, "forward", forward)
    words = r"enough memory for what training/.* asked for \(.*last\.ckpt holds step 2 of epoch 1; take smaller batches"
    with pytest.raises(SpotkdError, match=words):
        distill(configured(place, place / "run", "at"))


def break_preparation(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    plain, count = SpotKD.preparation_loss, [0]

    def preparation_loss(self: SpotKD, batch: Batch) -> torch.Tensor:
        count[0] += 1
        return plain(self, batch) * (float("inf") if count[0] == step else 1.0)

    monkeypatch.setattr(SpotKD, "preparation_loss", preparation_loss)


@pytest.mark.parametrize("distiller", ["ft", "ab"])
def test_a_preparation_saves_nothing_that_is_broken(
    distiller: str,
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        break_preparation(patched, 4)
        with pytest.raises(
            SpotkdError,
            match=r"^preparation, epoch 1, step 4 of 5: not finite: loss, gradient; its samples are in .*; "
            r".*last\.ckpt holds step 2 of epoch 1 of the preparation; lower --preparation\.lr",
        ):
            distill(configured(place, place / "run", distiller))
    resume(place / "run")
    distill(configured(place, place / "whole", distiller))
    assert differences(what_is_left(place / "whole"), what_is_left(place / "run")) == []


def test_steps_of_a_preparation_may_be_skipped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    break_preparation(monkeypatch, 4)
    distill(configured(place, place / "run", "ft", skip_nonfinite=1))
    losses = (place / "run" / layout.PREPARATION_LOSSES).read_text()
    assert "inf" not in losses
    assert "nan" not in losses


class Answers(TinyNet):
    """Right on so many of the images, in order; always the first class after that."""

    def __init__(self, right: int) -> None:
        super().__init__(4, 2)
        self.right = right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        labels = torch.arange(len(x)) % 2
        labels[self.right :] = 1 - labels[self.right :]
        return torch.nn.functional.one_hot(labels, 2).float()


@pytest.mark.parametrize(
    ("count", "right", "answer"),
    [
        (4, 4, "too few"),
        (8, 8, ""),
        (100, 100, ""),
        (100, 50, "refused"),
        (100, 75, ""),
        (8, 4, "refused"),
        (4, 2, "too few"),
    ],
)
def test_a_teacher_that_may_be_guessing(count: int, right: int, answer: str, tmp_path: Path) -> None:
    data = images(count)
    loader = Loader(data, data.test, 1000, training=False)
    device = Device(make_fabric("cpu", "32"), torch.contiguous_format)
    torch.save({}, tmp_path / "t.pt")
    said: list[str] = []

    def check() -> None:
        check_teacher(
            Answers(right), loader, 2, device, checkpoint=str(tmp_path / "t.pt"), data_name="some", warn=said.append
        )

    if answer == "refused":
        with pytest.raises(SpotkdError, match="is it the wrong checkpoint"):
            check()
    else:
        check()
        assert [answer in line for line in said] == [True] * bool(answer)
