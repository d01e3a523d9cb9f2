"""`spotkd inspect`: the policy's closed form for every image, and the same table every time."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from spotkd import STRATEGIES, Dataset, SpotKD, SpotkdError, Strategy
from spotkd.analysis import inspect, write_tables
from spotkd.cli import main
from spotkd.data import Loader
from spotkd.options import DataOptions, DistillOptions, InspectOptions, ModelOptions, PolicyOptions, TrainOptions
from spotkd.routing import Evidence, make_strategy
from spotkd.routing.strategies import Decisions
from spotkd.runs.folder import RunFolder
from spotkd.training import distill, restore, train

from .. import vision  # noqa: F401  # makes torchvision importable
from ..conftest import TinyNet, in_memory
from ..hostile_runs import CLASSES, IMAGES, RUNS, hostile_data

SPOTS = ["layer1", "layer2", "layer3", "logits"]


@pytest.fixture(scope="module")
def runs(hostile_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with hostile_data(tmp_path_factory.mktemp("inspect")):
        yield {name: hostile_runs / name for name in RUNS}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_probabilities_are_the_policys_closed_form(runs: dict[str, Path], tmp_path: Path) -> None:
    """Against the softmax of the policy's two columns, in float64 and by numpy, from features taken one by one."""
    assert main(["inspect", str(runs["sakd"]), "--split", "test", "--out", str(tmp_path), "--trust"]) == 0
    rows = rows_of(tmp_path / "inspect-test.csv")
    assert len(rows) == IMAGES
    method, data = restore(runs["sakd"])
    method = method.eval().double()
    weight, bias = (p.detach().numpy() for p in (method.policy.linear.weight, method.policy.linear.bias))
    test = in_memory(data.test)
    for row, image, label in zip(rows, test.images, test.labels, strict=True):
        x = ((image.double() / 255 - data.mean[0]) / data.std[0]).expand(1, 3, -1, -1)
        teacher, student = (network.features(x) for network in (method.teacher, method.student))
        embeddings = [features[-2][0].detach().numpy() for features in (teacher, student)]
        embedding = np.concatenate([each / np.linalg.norm(each) for each in embeddings])  # by the scaled schedule
        exponentials = np.exp(weight @ embedding + bias).reshape(-1, 2)
        expected = exponentials[:, 0] / exponentials.sum(1)
        found = np.array([float(row[f"p_{spot}"]) for spot in SPOTS])
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
        assert [int(row[f"teacher_{spot}"]) for spot in SPOTS] == (expected > 0.5).astype(int).tolist()
        for name, logits in (("teacher", teacher[-1][0]), ("student", student[-1][0])):
            assert float(row[f"{name}_loss"]) == pytest.approx(-logits.log_softmax(0)[label].item(), rel=1e-6, abs=1e-5)
            assert int(row[f"{name}_correct"]) == int(logits.argmax() == label)


def test_two_calls_give_the_same_bytes(runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["inspect", str(runs["sakd"]), "--out", str(tmp_path / name), "--trust"]) == 0
    names = {"inspect-train.csv", "inspect-train.parquet", "inspect-train-classes.csv"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_the_batch_size_does_not_matter(runs: dict[str, Path]) -> None:
    (one, _), (other, _) = (inspect(InspectOptions(str(runs["sakd"]), batch_size=size, trust=True)) for size in (7, 64))
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-6, rtol=0)
    assert one.probability.std() > 1e-3  # not all alike: the comparison says something


def test_both_files_hold_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    inspection, _ = inspect(InspectOptions(str(runs["sakd"]), trust=True))
    list(write_tables(inspection, tmp_path))
    rows, table = rows_of(tmp_path / "inspect-train.csv"), parquet.read_table(tmp_path / "inspect-train.parquet")
    assert list(rows[0]) == table.column_names
    for name in ("index", "label", "p_layer1", "student_loss", "teacher_correct"):
        assert [np.float32(row[name]) for row in rows] == [np.float32(v) for v in table[name].to_pylist()]
    assert table["class"].to_pylist() == [CLASSES[i % 5] for i in range(IMAGES)]
    assert {row["class"] for row in rows} == {*CLASSES} - {"=1+1"} | {"'=1+1"}, "no formula in a spreadsheet"
    classes = rows_of(tmp_path / "inspect-train-classes.csv")
    for label, row in enumerate(classes):
        mine = [float(r["p_logits"]) for r in rows if int(r["label"]) == label]
        assert int(row["images"]) == len(mine)
        assert float(row["p_logits"]) == pytest.approx(np.mean(mine), abs=1e-6)


def test_without_pyarrow_one_line_says_what_to_do(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspection, _ = inspect(InspectOptions(str(runs["sakd"]), trust=True))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert list(write_tables(inspection, tmp_path))[-1].endswith("pip install 'spotkd[parquet]'")
    assert not (tmp_path / "inspect-train.parquet").exists()


def test_without_the_newest_checkpoint_the_one_before_is_inspected(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["sakd"], tmp_path / "run")
    assert inspect(InspectOptions(str(tmp_path / "run"), trust=True))[0].epoch == 3
    (tmp_path / "run" / "last.ckpt").unlink()
    assert inspect(InspectOptions(str(tmp_path / "run"), trust=True))[0].epoch == 2


def test_what_a_strategy_without_policy_does_is_said(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(runs["kd"]), "--out", str(tmp_path), "--trust"]) == 0
    assert "strategy always has no policy" in " ".join(capsys.readouterr().out.split())
    assert {row["p_logits"] for row in rows_of(tmp_path / "inspect-train.csv")} == {"1"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_probability_is_the_mean_of_many_decisions(name: str, pair: tuple[TinyNet, TinyNet]) -> None:
    strategy = make_strategy(name)
    strategy.build(2, ((3,), (3,)), ((3,), (3,)))
    strategy.start_epoch(1, 2)
    logits = torch.tensor([[[1.0, 0.0], [-2.0, 0.5]]]) if strategy.learns else torch.zeros(1, 2, 2)
    outputs, labels, losses = torch.tensor([[0.5, 1.0, -1.0]]), torch.tensor([1]), torch.tensor([[0.2, 3.0]])
    evidence = Evidence(logits, [outputs] * 2, [outputs / 2] * 2, labels, losses, 0.0, list)
    teacher, student = outputs.expand(20_000, -1), outputs.expand(20_000, -1) / 2
    torch.manual_seed(0)
    decisions = strategy.weigh(
        Evidence(
            logits.expand(20_000, -1, -1),
            [teacher] * 2,
            [student] * 2,
            labels.expand(20_000),
            losses.expand(20_000, -1),
            0.0,
            list,
        )
    )
    drawn = decisions.mask if decisions.route is None else decisions.route
    torch.testing.assert_close(strategy.expected_weights(evidence)[0], drawn.mean(0), atol=0.015, rtol=0)


def test_a_strategy_that_does_not_say_is_an_error(pair: tuple[TinyNet, TinyNet], tiny_data: Dataset) -> None:
    class Thirds(Strategy):
        def decide(self, logits: torch.Tensor) -> Decisions:
            return Decisions((torch.rand_like(logits[..., 0]) < 1 / 3).to(logits.dtype))

    teacher, student = (network.float() for network in pair)
    method = SpotKD(teacher, student, "at", Thirds(), image_shape=tiny_data.image_shape)
    images = next(iter(Loader(tiny_data, tiny_data.test, 4, training=False).epoch(0))).images
    with pytest.raises(SpotkdError, match=r"Thirds has no policy to ask: give it a teacher_probability\(\)"):
        method.teacher_probability(method.teacher.features(images), method.student.features(images))


def test_the_course_ends_where_inspect_finds_the_policy(runs: dict[str, Path]) -> None:
    decisions = RunFolder(runs["sakd"]).decisions
    spots, rows = decisions.spots, decisions.rows
    assert list(spots) == SPOTS
    assert [row.epoch for row in rows if row.label is None] == [1, 2, 3]
    inspection, _ = inspect(InspectOptions(str(runs["sakd"]), trust=True))
    last = [row for row in rows if row.epoch == 3]
    np.testing.assert_allclose(last[0].means, inspection.means(), atol=1e-5)
    np.testing.assert_allclose([row.means for row in last[1:]], inspection.class_means(), atol=1e-5)
    assert [row.images for row in last] == [IMAGES, *np.bincount(inspection.labels)]
    assert RunFolder(runs["kd"]).decisions.rows == ()


@pytest.mark.slow
def test_watching_changes_nothing_else(runs: dict[str, Path], tmp_path: Path) -> None:
    with hostile_data(tmp_path) as data:
        for every in (0, 2):
            distill(
                DistillOptions(
                    data=data, epochs=3, batch_size=16, quiet=True, precision="32", out=str(tmp_path / str(every)),
                    teacher=ModelOptions("resnet8", str(runs["teacher"])), distiller="at", strategy="adaptive",
                    policy=PolicyOptions(bias="scaled", target_share=0.5), inspect_every=every,
                )
            )  # fmt: skip
    assert not (tmp_path / "0" / "decisions.csv").exists()
    assert {row.epoch for row in RunFolder(tmp_path / "2").decisions.rows} == {2}
    same, every_epoch = RunFolder(tmp_path / "0").metrics, RunFolder(runs["sakd"]).metrics
    for metrics in (same, every_epoch):
        del metrics["seconds"]
    assert same == every_epoch


@pytest.mark.process
def test_files_are_named_and_lazy_images_inspected(tmp_path: Path) -> None:
    """A folder of images that are decoded as they are needed, whose files' names are formulas."""
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("=cmd()", "b"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for number in range(3):
                pixels = noise.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / label / f"{number}.png")
    common: dict[str, Any] = {"epochs": 1, "batch_size": 3, "quiet": True, "precision": "32"}
    for size, lazy in ((16, False), (104, True)):
        data, out = DataOptions(f"folder:{tmp_path / 'images'}", image_size=size, workers=0), tmp_path / str(size)
        train(TrainOptions(**common, data=data, out=str(out / "t"), model=ModelOptions("resnet8")))
        teacher = ModelOptions("resnet8", str(out / "t"))
        distill(DistillOptions(**common, data=data, out=str(out / "s"), teacher=teacher, distiller="at"))
        assert main(["inspect", str(out / "s"), "--split", "test"]) == 0
        rows = rows_of(out / "s" / "inspect-test.csv")
        assert [row["file"] for row in rows] == [f"{c}/{i}.png" for c in ("'=cmd()", "b") for i in range(3)], lazy


def test_mistakes_are_one_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(tmp_path)], "no config.yaml in it; name the folder of a run"),
        ([str(runs["teacher"])], "is a run of 'spotkd train'; name one of 'spotkd distill'"),
        ([str(runs["sakd"]), "--split", "val"], "split is val"),
    ):
        assert main(["inspect", *arguments, "--trust"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
