"""A frozen teacher whose weights two processes share: the same run, and half of the weights in each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from spotkd import Batch, SpotKD, SpotkdError, create_model, fold_batchnorm
from spotkd.models import save_weights
from spotkd.options import DataOptions, DistillOptions, ModelOptions, with_values
from spotkd.runs.checkpoint import fingerprint
from spotkd.runs.folder import RunFolder
from spotkd.runtime.sharding import shard_network
from spotkd.training import distill
from spotkd.training.build import build_distillation, check_sharding, open_data
from spotkd.training.launch import launch
from spotkd.training.state import learned_state, load_learned_state

from ..conftest import TinyNet

HERE = "python:tests.training.distributed_runs."


def take_steps(method: SpotKD, batch: Batch) -> list[Tensor]:
    """The losses of three steps, and the student's parameters after them."""
    optimizer = torch.optim.SGD(method.parameter_groups(0.01), momentum=0.9)
    torch.manual_seed(5)
    totals = []
    for _ in range(3):
        total = method(batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.detach())
    return [*totals, *(p.detach() for p in method.student_parameters())]


def compare(rank: int, port: int) -> None:
    """One of two processes: a sharded teacher's steps beside those of a whole one."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    shape, generator = (3, 32, 32), torch.Generator().manual_seed(rank)
    batch = Batch(torch.randn(8, *shape, generator=generator), torch.arange(8), torch.arange(8))
    for distiller in ("at", "ofd"):
        outcomes, sizes, prints = [], [], []
        for shard in (False, True):
            torch.manual_seed(0)
            teacher = fold_batchnorm(create_model("resnet14", 8), shape).model
            method = SpotKD(teacher, create_model("resnet8", 8), distiller, "adaptive", image_shape=shape).train()
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if shard:
                shard_network(method.teacher, torch.device("cpu"), 2)
            with torch.inference_mode():  # as the teacher is checked before the first step
                method.teacher(batch.images)
            outcomes.append(take_steps(method, batch))
            prints.append(fingerprint(method.teacher.state_dict()))
            load_learned_state(method, learned_state(method))  # as a resumed run does
            local = [p.to_local() if hasattr(p, "to_local") else p for p in method.teacher.parameters()]
            sizes.append(sum(p.untyped_storage().nbytes() for p in local))
        for one, other in zip(*outcomes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert prints[0] == prints[1]
        assert sizes[1] <= 0.51 * sizes[0], sizes
    dist.destroy_process_group()


@pytest.mark.process
@pytest.mark.slow
def test_a_shared_teacher_teaches_the_same_and_takes_half_the_memory() -> None:
    spawn(compare, (find_free_network_port(),), 2)


def options(folder: Path, **changes: Any) -> DistillOptions:
    """A distillation on two devices."""
    torch.manual_seed(0)
    save_weights(TinyNet(6, 5), folder / "teacher.safetensors", {"model": f"{HERE}wide"})
    common = DistillOptions(
        teacher=ModelOptions(f"{HERE}wide", str(folder / "teacher.safetensors")),
        student=ModelOptions(f"{HERE}narrow"),
        data=DataOptions(f"{HERE}data"),
        distiller="at",
        strategy="adaptive",
    )
    numbers = {"batch_size": 12, "epochs": 2, "devices": 2, "accelerator": "cpu", "precision": "32"}
    common = with_values(common, {"min_teacher_top1": 0, "quiet": True, "logger": "none", **numbers})
    return with_values(common, {"shard_teacher": True, "out": str(folder / "run"), **changes})


@pytest.mark.process
@pytest.mark.slow
def test_a_run_with_a_shared_teacher_is_that_without(tmp_path: Path) -> None:
    found = []
    for name, changes in (("whole", {"shard_teacher": False}), ("shared", {})):
        launch("distill", options(tmp_path, out=str(tmp_path / name), **changes))
        found.append(RunFolder(tmp_path / name).metrics)
    assert found[1].keys() == found[0].keys()
    for key in found[0].keys() - {"seconds"}:
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-5, abs=1e-6), key


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({}, 1, r"shard_teacher has no effect on one device: use several \(--devices 2\), or leave it out"),
        ({"strategy": "joint"}, 2, r"shard_teacher: this strategy trains the teacher; leave it out"),
        ({"compile": True}, 2, r"shard_teacher: passes that gather weights are not compiled; leave it out, or compile"),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, Any], processes: int, message: str, tmp_path: Path) -> None:
    chosen = options(tmp_path, **changes)
    method = build_distillation(chosen, open_data(chosen), quiet=True)
    device = SimpleNamespace(fabric=SimpleNamespace(world_size=processes))
    with pytest.raises(SpotkdError, match=message):
        check_sharding(method, chosen, device)  # type: ignore[arg-type]


def test_nothing_is_written_on_one_device(tmp_path: Path) -> None:
    with pytest.raises(SpotkdError, match="shard_teacher has no effect on one device"):
        distill(options(tmp_path, devices=1))
    assert not (tmp_path / "run").exists()
