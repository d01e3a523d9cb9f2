"""Two processes that share every batch, against one."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor

from spotkd import DISTILLERS, Batch, SpotKD, SpotkdError, create_model
from spotkd.data import Dataset, EpochSpec, ImageSet, Loader, load_data
from spotkd.data.images import RawBatch
from spotkd.distributed import Shard, per_rank_generator, uniform, use_shard
from spotkd.errors import STOPPED
from spotkd.models import save_weights
from spotkd.options import (
    DataOptions,
    DistillOptions,
    EvaluateOptions,
    ModelOptions,
    OptimOptions,
    PolicyOptions,
    RunOptions,
    learning_rate,
    milestones,
    read_options,
    with_values,
)
from spotkd.routing import Decisions
from spotkd.routing.strategies import Adaptive
from spotkd.runs.checkpoint import read_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.training import distill, evaluate_checkpoint
from spotkd.training.build import build_distillation, check_devices, data_spec
from spotkd.training.launch import _explain, launch, report
from spotkd.training.optim import make_optimizer

from ..conftest import TRAINING_LABELS, TinyNet, for_distiller, in_memory, made_once, randomise_statistics
from . import distributed_runs
from .killed_runs import differences, what_is_left

ROOT = Path(__file__).parents[2]
HERE = "python:tests.training.distributed_runs."
Case = dict[str, Any]

PUBLISHED = PolicyOptions(schedule="published")
# What each device computes of its own samples, with BatchNorm; and what is to equal the whole batch in one process.
APART: dict[str, Case] = {
    "at": {"distiller": "at", "policy": replace(PUBLISHED, gamma=2.0, share_cost=0.1, target_share=0.4)},
    "sp": {"distiller": "sp"},
    "crd": {"distiller": "crd", "options": {"negatives": 8}},
    "ft": {"distiller": "ft"},
}
HELD_OUT = DataOptions(HERE + "data", val_share=0.3)  # leaves 45 images to train on
SHAPED = replace(PUBLISHED, gamma=2.0, share_cost=0.1, target_share=0.4, lr=0.5)
PLAIN: Case = {"balance": "none", "policy": PUBLISHED, "optim": OptimOptions(lr=0.01, schedule="multistep")}
WHOLE: dict[str, Case] = {
    "at": {"distiller": "at", "policy": SHAPED},
    "at-dot": {"distiller": "at", "optim": OptimOptions(lr=0.01, schedule="multistep", dot_delta=0.075)},
    "at-balanced": {"distiller": "at", "beta": 1e4, "balance": "auto"},
    "rkd-balanced": {"distiller": "rkd", "beta": 1e3, "balance": "auto"},
    "sp": {"distiller": "sp", "beta": 30.0, "policy": SHAPED},
    "rkd": {"distiller": "rkd"},
    "pkt": {"distiller": "pkt", "beta": 300.0, "strategy": "NotedRandom"},
    "cc": {"distiller": "cc", "strategy": "NotedRandom"},
    "dist": {"distiller": "dist", "temperature": 0.2},  # or all probabilities are nearly equal
    "crd": {"distiller": "crd", "options": {"negatives": 8, "relaxed": True}},
    "crd-all": {"distiller": "crd", "options": {"negatives": 60}},  # with replacement: every sample draws its own
    "ofd": {"distiller": "ofd", "beta": 0.1},
    "ab": {"distiller": "ab", "beta": 0.1},
    "at-trust": {"distiller": "at", "strategy": "NotedTrust"},
    "sp-trust": {"distiller": "sp", "strategy": "NotedTrust"},
    "rkd-loss-top": {"distiller": "rkd", "strategy": "NotedLossTop"},
    "at-scaled": {"distiller": "at", "policy": PolicyOptions(lr=0.5)},
    "at-held-out": {"distiller": "at", "policy": replace(SHAPED, held_out=True), "data": HELD_OUT},
    "at-cohort": {"distiller": "at", "strategy": "NotedCohort", "epochs": 4, "data": HELD_OUT},
}


def configured(folder: Path, case: Case, networks: tuple[str, str], devices: int) -> DistillOptions:
    strategy = HERE + case.get("strategy", "NotedAdaptive")
    usual: Case = {"data": DataOptions(HERE + "data"), "epochs": 1}
    config = DistillOptions(
        teacher=ModelOptions(HERE + networks[0], str(folder.parents[1] / f"{networks[0]}.safetensors")),
        student=ModelOptions(HERE + networks[1]),
        out=str(folder / "run"),
        batch_size=12,
        accelerator="cpu",
        precision="32",
        quiet=True,
        fold=False,
        channels_last=False,
        **PLAIN | usual | case | {"strategy": strategy},
    )
    config = with_values(config, {"devices": devices, "gather": True, "min_teacher_top1": 0.0})
    return config


def write(config: RunOptions, folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "options.yaml"
    path.write_text(yaml.safe_dump(asdict(config)), encoding="utf-8")
    return path


def in_processes(count: int, files: Sequence[Path]) -> None:
    """All the runs, one after the other, in ``count`` processes."""
    common = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    if count > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(count), "NODE_RANK": "0"}
    pairs = [word for file in files for word in (str(file), str(find_free_network_port()))]
    command, members = [sys.executable, "-m", "tests.training.distributed_runs", *pairs], []
    for rank in range(count):
        own = common | ({"LOCAL_RANK": str(rank)} if count > 1 else {})
        log = files[0].with_name(f"log-{rank}")
        with log.open("w") as file:
            member = subprocess.Popen(command, cwd=ROOT, env=own, stdout=file, stderr=subprocess.STDOUT)
        members.append((member, log))
    try:
        while any(member.poll() is None for member, _ in members) and not any(m.poll() for m, _ in members):
            time.sleep(0.05)
    finally:
        for member, _ in members:
            member.terminate()
            member.wait()
    failed = [log.read_text() for member, log in members if member.returncode]
    assert not failed, failed


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """All cases, run once: ``apart/NAME``; and ``whole2/NAME`` beside ``whole1/NAME`` by two processes and by one."""
    return made_once("distributed runs", make_runs, tmp_path_factory, request.config)


def make_runs(place: Path) -> None:
    for name in ("wide", "plain_wide"):
        torch.manual_seed(5)
        network = getattr(distributed_runs, name)(5)
        randomise_statistics(network)
        save_weights(network, place / f"{name}.safetensors", {"model": name, "classes": tuple("abcde")})
    several: list[Path] = []
    alone: list[Path] = []
    for name, case in APART.items():
        folder = place / "apart" / name
        config = configured(folder, case, ("wide", "narrow"), 2)
        config = with_values(config, {"gather": False})
        several.append(write(config, folder))
    for name, case in WHOLE.items():
        for files, devices in ((several, 2), (alone, 1)):
            folder = place / f"whole{devices}" / name
            files.append(write(configured(folder, case, ("plain_wide", "plain"), devices), folder))
    in_processes(2, several)
    in_processes(1, alone)


def masks_of(folder: Path, processes: int) -> list[Tensor]:
    """The decisions of every batch, by all processes together."""
    noted = [torch.load(folder / f"masks-{rank}.pt") for rank in range(processes)]
    return [torch.cat(parts) for parts in zip(*noted, strict=True)]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    pairs = {  # NaN stands for nothing seen yet, in both
        key: (found[key].double().nan_to_num(-99), value.double().nan_to_num(-99)) for key, value in expected.items()
    }
    apart = {
        key: float(((mine - value).abs() / value.abs().clamp(min=1)).max()) for key, (mine, value) in pairs.items()
    }
    assert max(apart.values()) <= tolerance, max(apart.items(), key=lambda item: item[1])


# One process that computes the two halves of every batch one after the other, written plainly


class Given(Adaptive):
    """SAKD's draw, from uniform numbers that it is given."""

    uniform: Tensor

    def decide(self, logits: Tensor) -> Decisions:
        gumbel = -(-(self.uniform + 1e-20).log() + 1e-20).log()
        soft = torch.softmax((logits + gumbel) / 5, -1)[..., 0]
        hard = (soft > 0.5).float()
        # In this order the value is exactly 0 or 1; where half of a batch is routed, the balance term is at its kink.
        return Decisions(hard.detach(), hard + (soft - soft.detach()))


Step = Callable[[SpotKD, Batch, slice], Tensor]


def stepped(method: SpotKD, batch: Batch, optimizer: torch.optim.Optimizer, loss: Step) -> None:
    """One step: each half by a copy of the method, then the means of gradients and running statistics."""
    assert batch.indices is not None
    total, middle = len(batch.labels), -(-len(batch.labels) // 2)
    random, halves = torch.get_rng_state(), []
    for half in (slice(0, middle), slice(middle, total)):
        torch.set_rng_state(random)
        mine = copy.deepcopy(method)
        part = Batch(batch.images[half], batch.labels[half], batch.indices[half])
        for parameter in mine.parameters():
            parameter.grad = None
        loss(mine, part, half).backward()
        halves.append((mine, (half.stop - half.start) / total, part.indices))
    for parameter, *of_halves in zip(method.parameters(), *(mine.parameters() for mine, *_ in halves), strict=True):
        grads = [p.grad * share for p, (_, share, _) in zip(of_halves, halves, strict=True) if p.grad is not None]
        parameter.grad = sum(grads[1:], grads[0]) if grads else None
    for name, buffer in method.named_buffers():
        values = [dict(mine.named_buffers())[name] for mine, *_ in halves]
        if "memory" in name:
            for value, (_, _, rows) in zip(values, halves, strict=True):
                buffer[rows] = value[rows]
        elif buffer.is_floating_point():
            buffer.copy_(values[0] * halves[0][1] + values[1] * halves[1][1])
        else:
            buffer.copy_(values[0])
    optimizer.step()


def by_halves(config: DistillOptions, data: Dataset) -> tuple[SpotKD, list[Tensor]]:
    """The method after its preparation and one epoch, and the decisions of every batch."""
    config = copy.deepcopy(config)
    config = with_values(config, {"strategy": "adaptive"})
    torch.manual_seed(config.seed)
    method = build_distillation(config, data, quiet=True).train()
    given = Given()
    method.strategy = given
    optimizer, schedule = make_optimizer(
        method,
        epochs=1,
        steps_per_epoch=6,
        lr=learning_rate(config.optim),
        milestones=milestones(config.optim, 1),
        policy_lr=config.policy.lr,
        policy_weight_decay=config.policy.weight_decay,
    )
    loader = Loader(data, data.train, config.batch_size, training=True, seed=config.seed)
    if method.preparation is not None:
        with method.preparing() as parameters:
            sgd = torch.optim.SGD(parameters, lr=method.preparation.lr, momentum=0.9, weight_decay=5e-4)
            for batch in loader.epoch(1):
                stepped(method, batch, sgd, lambda mine, part, half: mine.preparation_loss(part))
            method.zero_grad()
    method.start_epoch(1, 1)
    decisions = []
    for number, batch in enumerate(loader.epoch(1)):
        masks: list[tuple[Tensor, Any]] = []
        uniform = torch.rand(len(batch.labels), len(method.spot_names), 2)

        def loss(mine: SpotKD, part: Batch, half: slice, uniform: Tensor = uniform, masks: Any = masks) -> Tensor:
            assert isinstance(mine.strategy, Given)
            mine.strategy.uniform = uniform[half]
            losses = mine(part)
            masks.append((losses.mask, getattr(mine.distiller, "norms", None)))
            return losses.total

        if number == 0 and config.distiller == "crd":  # its normalisers are those of the whole batch: tried, then set
            random, trial = torch.get_rng_state(), copy.deepcopy(method)
            stepped(trial, batch, torch.optim.SGD(trial.parameters(), lr=0.0), loss)
            torch.set_rng_state(random)
            distiller: Any = method.distiller
            counts = torch.stack([mask[:, 0].sum() for mask, _ in masks])
            distiller.norms.copy_(torch.stack([z for _, z in masks]).T @ counts / counts.sum())
            distiller.norms_known.fill_(True)
            masks.clear()
        stepped(method, batch, optimizer, loss)
        schedule.step()
        decisions.append(torch.cat([mask for mask, _ in masks]))
    return method, decisions


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_two_processes_equal_one_that_computes_their_halves(runs: Path, name: str) -> None:
    folder = runs / "apart" / name
    config = read_options(DistillOptions, folder / "options.yaml")
    method, decisions = by_halves(config, load_data(data_spec(config.data)))
    noted = masks_of(folder, 2)
    assert [len(mask) for mask in noted] == [12] * 5 + [5]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(noted, decisions, strict=True))
    assert 0 < torch.cat(decisions).mean() < 1
    state = read_checkpoint(folder / "run" / "last.ckpt")["method"]
    expected = {key: value for key, value in method.state_dict().items() if not key.startswith("teacher.")}
    assert any(key.startswith("policy.") for key in state)
    assert_equal(state, expected)
    if name == "at":  # the comparison can fail
        config = with_values(config, {"seed": config.seed + 1})
        other = by_halves(config, load_data(data_spec(config.data)))[0].state_dict()
        with pytest.raises(AssertionError):
            assert_equal(state, {key: other[key] for key in state})


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_gathered_two_processes_equal_one_on_the_whole_batch(runs: Path, name: str) -> None:
    """Without BatchNorm nothing else is a device's own, so the run is that of one process, short batch included."""
    one, two = (runs / f"whole{processes}" / name for processes in (1, 2))
    for weights, expected in zip(masks_of(two, 2), masks_of(one, 1), strict=True):
        if name.endswith("trust"):  # weights of any size, rounded differently
            torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-3)
            assert 0 < expected.mean() < 1
        else:
            torch.testing.assert_close(weights, expected, rtol=1e-5 * (name == "at-cohort"), atol=0)
    states = [read_checkpoint(folder / "run" / "last.ckpt") for folder in (two, one)]
    # Losses, and a mixture of so few, are ill-conditioned.
    looks_at_losses = name.endswith(("trust", "top"))
    assert_equal(states[0]["method"], states[1]["method"], 1e-4 if looks_at_losses else 1e-5)
    assert torch.equal(states[0]["random"]["cpu"], states[1]["random"]["cpu"])
    mine, theirs = (RunFolder(folder / "run").metrics for folder in (two, one))
    for column in set(theirs) - {"seconds"}:
        assert mine[column] == pytest.approx(theirs[column], rel=2e-4, abs=1e-5), column
    tried, expected_rows = (RunFolder(folder / "run").trial.rows for folder in (two, one))
    assert [row.levels for row in tried] == [row.levels for row in expected_rows]
    assert len(tried) == (4 * 6 if name == "at-cohort" else 0)


# The parts of a batch


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_parts_make_up_the_batch(processes: int) -> None:
    for total in range(2 * processes, 30):
        parts = [Shard.of(total, rank, processes) for rank in range(processes)]
        assert [index for part in parts for index in range(part.start, part.stop)] == list(range(total))
        assert all(part.stop - part.start >= 2 for part in parts)
        assert sum(part.effective_size for part in parts) == total
        assert sum(part.loss_weight for part in parts) == pytest.approx(processes)
    for total in range(1, 2 * processes):
        parts = [Shard.of(total, rank, processes) for rank in range(processes)]
        assert all((part.start, part.stop, part.loss_weight) == (0, total, 1) for part in parts)
        assert sum(part.effective_size for part in parts) == pytest.approx(total)
        shown = [Shard.of(total, rank, processes, training=False) for rank in range(processes)]
        assert [index for part in shown for index in range(part.start, part.stop)] == list(range(total))


@pytest.mark.parametrize("training", [True, False])
def test_loaders_of_the_parts_give_the_batches_of_the_whole(tiny_data: Dataset, training: bool) -> None:
    def loader(size: int, rank: int = 0, processes: int = 1) -> Loader:
        return Loader(tiny_data, tiny_data.train, size, training=training, seed=3, rank=rank, processes=processes)

    for size in (12, 13, 39):  # a last batch of 4, of 1 and of 1
        whole = list(loader(size).epoch(2))
        parts = [list(loader(size, rank=rank, processes=2).epoch(2)) for rank in (0, 1)]
        for number, batch in enumerate(whole):
            mine = [of[number] for of in parts if number < len(of)]
            if training and len(batch.labels) < 4:
                assert all(torch.equal(part.images, batch.images) for part in mine)
                continue
            for key in ("images", "labels", "indices"):
                assert torch.equal(torch.cat([getattr(part, key) for part in mine]), getattr(batch, key))


def test_a_network_s_own_noise_leaves_the_common_stream_alone() -> None:
    def drawn(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        with use_shard(Shard.of(5, rank, 2, seed=rank)) as shard:
            decisions = uniform(shard.stop - shard.start, 3, device=torch.device("cpu"))
            with per_rank_generator(torch.device("cpu")):
                noise = torch.rand(shard.stop - shard.start)
        return decisions, noise[:2], torch.get_rng_state()

    torch.manual_seed(0)
    whole = torch.rand(5, 3)
    (first, noise, state), (second, other, same) = drawn(0), drawn(1)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(state, same)
    assert not torch.equal(noise, other)


def test_a_split_that_does_not_part_batches_is_refused(tiny_data: Dataset) -> None:
    class Whole(ImageSet):
        def batches(self, wanted: EpochSpec) -> Iterator[RawBatch]:
            return super().batches(replace(wanted, rank=0, processes=1))

        def to(self, device: torch.device | str) -> Whole:
            return self

    split = Whole(in_memory(tiny_data.train).images, in_memory(tiny_data.train).labels)
    loader = Loader(tiny_data, split, 12, training=True, rank=1, processes=2)
    with pytest.raises(SpotkdError, match=r"Whole.batches gives 12 images where 6 are this process's shard"):
        next(loader.epoch(1))


PER_SAMPLE = [name for name in DISTILLERS if not DISTILLERS[name].relational]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", DISTILLERS)
def test_relational_is_what_differs_by_parts(name: str, pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    """The loss of a batch is the mean of those of its parts, unless the distiller says that it relates samples."""
    teacher, student = for_distiller(pair, name)
    options = {"negatives": 25} if name == "crd" else {}  # all there are, so that nothing depends on the draw
    method = SpotKD(teacher, student, name, "always", image_shape=(3, 8, 8), labels=TRAINING_LABELS, options=options)
    method.eval()
    if name == "crd":
        distiller: Any = method.distiller
        distiller.draw.count = 24  # as many as other classes have: without replacement all of them
        distiller.norms_known.fill_(True)
    whole = method(batch)
    parts = [method(Batch(*(field[cut] for field in batch))) for cut in (slice(0, 5), slice(5, 11))]  # type: ignore[index]
    apart = sum((p.kl + p.distill) * share for p, share in zip(parts, (5 / 11, 6 / 11), strict=True))
    equal = torch.allclose(apart, whole.kl + whole.distill, rtol=1e-9, atol=0)
    assert equal is (name in PER_SAMPLE)


# Commands


def spotkd(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def options(runs: Path, folder: Path, **changes: object) -> list[str]:
    config = configured(runs / "apart" / "at", {"distiller": "at"}, ("wide", "narrow"), 2)
    config = with_values(config, {"out": str(folder), "quiet": False, "strategy": "adaptive"})
    for key, value in changes.items():
        assert hasattr(config, key)
        config = with_values(config, {key: value})
    path = folder.with_name(f"{folder.name}.yaml")
    path.write_text(yaml.safe_dump(asdict(config)), encoding="utf-8")
    return ["distill", "--config", str(path)]


@pytest.mark.process
@pytest.mark.slow
def test_the_command_on_two_devices(runs: Path, tmp_path: Path) -> None:
    save_weights(create_model("resnet8", 94), tmp_path / "t.safetensors", {"model": "resnet8"})
    networks = {"teacher": ModelOptions("resnet8", str(tmp_path / "t.safetensors")), "student": ModelOptions("resnet8")}
    changes = {"data": DataOptions(f"{HERE}glyphs"), "batch_size": 64, "eval_batch_size": 99, **networks}
    command = spotkd("spotkd", *options(runs, tmp_path / "run", **changes), folder=tmp_path)
    output, errors = command.communicate(timeout=300)
    assert (command.returncode, errors) == (0, "")
    assert [output.count(words) for words in ("epoch 1/1", "run in")] == [1, 1]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", "config.yaml", "decisions.csv", "last.ckpt", "metrics.csv", "origin.txt", "student.safetensors",
        "summary.json", "tensorboard",
    ]  # fmt: skip
    metrics = RunFolder(tmp_path / "run").metrics
    scores = evaluate_checkpoint(
        EvaluateOptions(str(tmp_path / "run"), data=f"{HERE}glyphs", accelerator="cpu", precision="32")
    )
    assert scores.images == 997
    found = [metrics[f"test_{key}"][-1] for key in ("top1", "top5", "loss")]
    assert found == pytest.approx([scores.top1, scores.top5, scores.loss], rel=1e-5)


@pytest.mark.process
@pytest.mark.slow
def test_torchrun_does_the_same(runs: Path, tmp_path: Path) -> None:
    config = read_options(DistillOptions, runs / "apart" / "at" / "options.yaml")
    config = with_values(config, {"devices": 1, "out": str(tmp_path / "run"), "quiet": False})
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "spotkd", "distill"]
    command = spotkd(*torchrun, "--config", str(write(config, tmp_path / "here")), folder=tmp_path)
    output, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    assert [output.count(words) for words in ("epoch 1/1", "run in")] == [1, 1]
    folders = (tmp_path / "run", runs / "apart" / "at" / "run")
    one, two = (read_checkpoint(folder / "last.ckpt") for folder in folders)
    assert_equal(one["method"], two["method"], 0.0)
    assert one["config"]["devices"] == 2


def members_of(parent: int) -> list[int]:
    """The processes that ``parent`` started, by rank."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(process) for process in found]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_ends_the_others(runs: Path, tmp_path: Path) -> None:
    def training(name: str) -> subprocess.Popen[str]:
        return spotkd("spotkd", *options(runs, tmp_path / name, epochs=10_000), folder=tmp_path)

    def until(done: Callable[[], object], seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                if done():
                    return
            except (SpotkdError, KeyError):
                pass
            assert time.monotonic() < end
            time.sleep(0.05)

    def gone(process: int) -> bool:
        status = Path(f"/proc/{process}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    first, second, third = training("first"), training("second"), training("third")
    for name in ("first", "second", "third"):
        until(lambda name=name: len(RunFolder(tmp_path / name).metrics["epoch"]) > 0)  # type: ignore[misc]
    members = [members_of(command.pid) for command in (first, second, third)]
    os.kill(members[0][1], signal.SIGKILL)  # the second process
    os.kill(second.pid, signal.SIGKILL)  # the one that waits for both
    began = time.monotonic()
    _, errors = first.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert first.returncode == 2
    assert errors.strip() == (
        "spotkd: process 2 of 2 was killed by SIGKILL (is there memory enough?); the others were ended"
    )
    until(lambda: all(map(gone, members[1])), seconds=10)
    second.communicate(timeout=60)
    third.terminate()  # passed on to both
    _, errors = third.communicate(timeout=60)
    assert third.returncode == STOPPED
    (line,) = errors.strip().splitlines()
    assert "stopped by SIGTERM; the state is saved, resume with: spotkd distill --resume" in line
    assert all(map(gone, members[0] + members[2]))


@pytest.mark.process
@pytest.mark.slow
def test_stopped_and_gone_on_with_the_same_and_another_number(runs: Path, tmp_path: Path) -> None:
    def training(name: str) -> subprocess.Popen[str]:
        return spotkd("spotkd", *options(runs, tmp_path / name, epochs=40, quiet=True), folder=tmp_path)

    whole, stopped = training("whole"), training("stopped")
    end = time.monotonic() + 120
    while not (tmp_path / "stopped" / "last.ckpt").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    stopped.terminate()
    stopped.communicate(timeout=60)
    whole.communicate(timeout=120)
    assert (stopped.returncode, whole.returncode) == (STOPPED, 0)
    assert 0 < read_checkpoint(tmp_path / "stopped" / "last.ckpt")["epoch"] < 40
    shutil.copytree(tmp_path / "stopped", tmp_path / "alone")
    for name, devices in (("stopped", "2"), ("alone", "1")):
        resumed = spotkd("spotkd", "distill", "--resume", name, "--devices", devices, folder=tmp_path)
        _, errors = resumed.communicate(timeout=120)
        assert (resumed.returncode, errors) == (0, "")
    assert differences(what_is_left(tmp_path / "whole"), what_is_left(tmp_path / "stopped")) == []
    one, two = (what_is_left(tmp_path / name) for name in ("whole", "alone"))
    assert differences(one["random"], two["random"]) == []  # the stream does not depend on how many share a batch
    assert len(two["metrics"]) == 40


@pytest.mark.process
@pytest.mark.slow
def test_mistakes_are_one_line_once(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "summary.json").write_text("{}")
    config = configured(runs / "apart" / "at", {"distiller": "at"}, ("wide", "narrow"), 2)
    config = with_values(config, {"out": str(tmp_path / "there")})
    with pytest.raises(SpotkdError, match=r"there: already holds a run \(summary.json\)"):
        launch("distill", config)
    assert capfd.readouterr() == ("", "")


def test_who_left_word_was_not_killed(tmp_path: Path) -> None:
    """gloo's threads can end a process with SIGABRT after it has said why it ends."""
    report(tmp_path, 0, line="there: already holds a run")
    with pytest.raises(SpotkdError, match=r"process 2 of 2 was killed by SIGABRT; the others were ended$"):
        _explain(tmp_path, [2, -signal.SIGABRT], [])
    report(tmp_path, 1, line="another process of this run has gone", echo=True)
    with pytest.raises(SpotkdError, match=r"^there: already holds a run$"):
        _explain(tmp_path, [2, -signal.SIGABRT], [])


def test_options_that_do_not_fit() -> None:
    config = DistillOptions()
    config = with_values(config, {"devices": 3, "batch_size": 5})
    with pytest.raises(SpotkdError, match=r"batch_size is 5: 3 devices share a batch, and need at least 6 images"):
        launch("distill", config)
    config = with_values(config, {"batch_size": 6, "accelerator": "cpu", "sync_batchnorm": True})
    with pytest.raises(SpotkdError, match="sync_batchnorm is true: torch has it for CUDA devices only"):
        check_devices(config)
    config = with_values(config, {"devices": 0, "sync_batchnorm": False})
    with pytest.raises(SpotkdError, match="devices is 0: it must be at least 1"):
        distill(config)
