"""Grids on a Ray cluster of two nodes on this machine: nodes that die, tasks that are cancelled, and what is said."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from spotkd.cli import main
from spotkd.cores import available_cores
from spotkd.errors import STOPPED, SpotkdError
from spotkd.experiments import find_plan
from spotkd.options import ClusterOptions, TrainOptions
from spotkd.runs.folder import RunFolder
from spotkd.runtime import ray_node

from .test_bench import processes_at

FEW_GLYPHS = """
from dataclasses import replace
import torch
from spotkd.data import load_glyph94


def build():
    data = load_glyph94()
    train, test = data.train.subset(torch.arange(188)), data.test.subset(torch.arange(94))
    return replace(data, train=train, test=test)
"""
TABLES = ("report.md", "report.csv", "report.tex", "runs.csv")


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    """``glyph94-small`` with two typefaces, a seed and two distillers."""
    content: dict[str, Any] = yaml.safe_load(find_plan("glyph94-small")[1].read_text(encoding="utf-8"))
    content |= {"data": ["python:few_glyphs.build"], "distillers": {"kd": ["always"], "at": ["adaptive"]}, "seeds": [1]}
    content["alone"] = False
    content["options"] |= {"epochs": 4, "data": {}, "logger": "none"}
    return content


def lay_out(folder: Path, plan: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "few_glyphs.py").write_text(FEW_GLYPHS)
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "spotkd", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one core; a test adds the second node."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'spotkd[cluster]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    yield cluster
    cluster.shutdown()


NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


def parents(process: int) -> list[int]:
    """A process's parent, that one's parent, and so on."""
    found = []
    while process > 1:
        status = Path(f"/proc/{process}/stat").read_text()
        process = int(status.rpartition(")")[2].split()[1])
        found.append(process)
    return found


def runs_on(node: Any, grid: Path) -> Iterator[Path]:
    """Folders of the runs in ``grid`` that a node trains and that have a checkpoint."""
    raylet = node.all_processes["raylet"][0].process.pid
    for process in processes_at(Path(grid.name)):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
            is_here = raylet in parents(process)
        except OSError:
            continue
        folder = grid.parents[2] / next(word for word in words if word.startswith("runs/"))
        if is_here and len(list(folder.glob("last.ckpt"))) == 1:
            yield folder


@pytest.mark.process
@pytest.mark.slow
def test_a_node_killed_in_the_middle_gives_the_table_of_one_machine(
    tmp_path: Path, plan: dict[str, Any], cluster: Any
) -> None:
    here, there = lay_out(tmp_path / "here", plan), lay_out(tmp_path / "there", plan)
    second = cluster.add_node(**NODE)
    on_ray = start(there, "bench", "plan.yaml", "--engine", "ray", "--cluster.address", cluster.address)
    grid = there / "runs" / "bench" / "plan"
    deadline = time.monotonic() + 120
    while not (running := list(runs_on(second, grid))) and time.monotonic() < deadline and on_ray.poll() is None:
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    (folder,) = running
    before = (folder / "metrics.csv").read_text()
    printed, errors = on_ray.communicate(timeout=240)
    assert on_ray.returncode == 0, printed + errors
    assert errors == ""
    assert f"{folder.relative_to(there)}: its node died; started again from its checkpoint (1 of 3)\n" in printed
    assert printed.count("test top-1") == 3 + 1  # a line each, and the table's
    assert len(before.splitlines()) <= 4  # it was not finished
    after = (folder / "metrics.csv").read_text()
    assert after.startswith(before[: before.rfind("\n", 0, -1) + 1])  # seconds and all: an epoch is not done again
    local = start(here, "bench", "plan.yaml", "--jobs", str(available_cores()))  # a thread each, as on the cluster
    assert local.communicate(timeout=240)[1] == ""
    for name in TABLES:
        assert (grid / name).read_bytes() == (here / "runs" / "bench" / "plan" / name).read_bytes(), name


@pytest.mark.process
@pytest.mark.slow
def test_cancelled_tasks_leave_runs_that_go_on(tmp_path: Path, plan: dict[str, Any], cluster: Any) -> None:
    plan["distillers"] = {"kd": ["always"]}
    folder = lay_out(tmp_path / "there", plan)
    command = ["bench", "plan.yaml", "--engine", "ray", "--cluster.address", cluster.address]
    asked = start(folder, *command, "--cluster.cpus", "99")
    assert asked.communicate(timeout=120)[1] == (
        "spotkd: no node of the cluster has the 99 CPUs that a run asks for (cluster.cpus, cluster.gpus); there is one "
        "with 1 CPU\n"
    )
    assert asked.returncode == 2
    stopped = start(folder, *command)
    grid = folder / "runs" / "bench" / "plan"
    deadline = time.monotonic() + 120
    while not list(grid.rglob("last.ckpt")) and time.monotonic() < deadline and stopped.poll() is None:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    assert stopped.communicate(timeout=90)[1] == "spotkd: stopped by SIGINT; the same command resumes it\n"
    assert stopped.returncode == STOPPED
    assert not processes_at(Path(grid.name))
    (table,) = grid.rglob("metrics.csv")
    before = table.read_text()
    assert len(before.splitlines()) < 5
    again = start(folder, *command)
    assert again.communicate(timeout=120)[1] == ""
    assert again.returncode == 0
    assert table.read_text().startswith(before)
    assert len(list(grid.rglob("summary.json"))) == 2


def test_ray_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["bench", "glyph94-small", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "spotkd: engine ray needs Ray: pip install 'spotkd[cluster]'\n"


def test_cluster_options_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--cluster.cpus", "2"], "cluster has no effect with engine local: leave it out, or give --engine ray"),
        (["--engine", "ray", "--cluster.cpus", "0"], "cluster.cpus is 0: it must be at least 1"),
        (["--engine", "ray", "--cluster.gpus=-1"], "cluster.gpus is -1.0: it must be at least 0"),
    ):
        assert main(["bench", "glyph94-small", *arguments]) == 2
        assert capsys.readouterr().err == f"spotkd: {message}\n"


def test_an_address_where_nothing_is() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'spotkd[cluster]'")
    from spotkd.experiments.ray_engine import _knock

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _knock(f"127.0.0.1:{port}")
        _knock(f"ray://127.0.0.1:{port}")
    for address, message in (
        (f"127.0.0.1:{port}", "nothing answers there"),
        ("127.0.0.1:99999", "nothing answers there"),
        ("head", "write HOST:PORT"),
    ):
        with pytest.raises(SpotkdError, match=message):
            _knock(address)


def test_a_node_that_does_not_see_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "_SIGHT", 0.0)
    monkeypatch.setattr(ray_node, "_POLL", 0.0)
    run = tmp_path / "runs" / "one"
    place = ray_node.Place(str(tmp_path), "runs/one/options.yaml", "runs/one/log.txt", hashlib.sha256(b"a").hexdigest())
    missing = ray_node.Outcome(None, 0.0, f"node {socket.gethostname()} does not see {run}")
    assert ray_node.run_on_node(["no.such.module"], place, 1, 0, 1.0) == missing
    run.mkdir(parents=True)
    (run / "options.yaml").write_bytes(b"b")  # a folder of the same name on a disk of its own
    assert ray_node.run_on_node(["no.such.module"], place, 1, 0, 1.0) == missing
    (run / "options.yaml").write_bytes(b"a")
    assert ray_node._sees(place)


class FakeRay:
    """A cluster whose tasks end as they are told to."""

    class exceptions:  # noqa: N801
        RayError = type("RayError", (Exception,), {})
        RayTaskError = type("RayTaskError", (RayError,), {"cause": None})
        TaskCancelledError = type("TaskCancelledError", (RayError,), {})
        NodeDiedError = type("NodeDiedError", (RayError,), {})

    def __init__(self, *ends: Any) -> None:
        self.ends = list(ends)
        self.cancelled: list[Any] = []

    def submit(self) -> Any:
        return self.ends.pop(0)

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references, []

    def get(self, reference: Any) -> Any:
        if isinstance(reference, Exception):
            raise reference
        return reference

    def cancel(self, reference: Any) -> None:
        self.cancelled.append(reference)


def task(ray: FakeRay, tmp_path: Path) -> tuple[Any, list[str]]:
    from spotkd.experiments.ray_engine import _Task

    told: list[str] = []
    return _Task(ray, RunFolder(tmp_path), ray.submit, told.append), told


def test_a_run_is_given_again_when_its_node_dies_but_not_for_ever(tmp_path: Path) -> None:
    died = FakeRay.exceptions.NodeDiedError
    job, told = task(FakeRay(died(), died(), ray_node.Outcome(0, 7.0, "")), tmp_path)
    assert [job.has_ended() for _ in range(3)] == [False, False, True]
    assert (job.status, job.seconds, len(told)) == (0, 7.0, 2)
    job, told = task(FakeRay(died(), died(), died(), died()), tmp_path)
    assert [job.has_ended() for _ in range(4)] == [False, False, False, True]
    assert (job.status, job.reason) == (1, "its node died, for the 4th time")


def test_a_run_that_is_to_stop_is_asked_once_and_not_given_again(tmp_path: Path) -> None:
    ray = FakeRay(FakeRay.exceptions.NodeDiedError())
    job, told = task(ray, tmp_path)
    job.stop()
    job.stop()
    assert len(ray.cancelled) == 1
    assert job.has_ended()
    assert (job.status, told) == (STOPPED, [])


def test_how_a_task_ends(tmp_path: Path) -> None:
    job, _ = task(FakeRay(ray_node.Outcome(2, 1.0, "spotkd: no such data")), tmp_path)
    assert job.has_ended()
    assert (job.status, job.reason) == (2, "spotkd: no such data")
    unseen, _ = task(FakeRay(ray_node.Outcome(None, 0.0, "node a does not see /runs/one")), tmp_path)
    with pytest.raises(SpotkdError, match="node a does not see /runs/one: --out must lie on a file system that all"):
        unseen.has_ended()
    lost, _ = task(FakeRay(ConnectionError("gone\naway")), tmp_path)
    with pytest.raises(SpotkdError, match=r"the cluster is lost \(gone away\); the same command resumes"):
        lost.has_ended()


def test_what_a_run_needs_and_how_often_a_node_has_it() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'spotkd[cluster]'")
    from spotkd.experiments.ray_engine import Need, RayEngine

    assert Need(2, 0.5).fits(Need(16, 2)) == 4
    assert Need(2, 0).fits(Need(1, 8)) == 0
    assert str(Need(1, 0)) == "1 CPU"
    assert str(Need(2, 0.5)) == "2 CPUs and 0.5 GPUs"
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}, {"Alive": False, "Resources": {}}]
    ray: Any = SimpleNamespace(
        nodes=lambda: nodes, cluster_resources=lambda: nodes[0]["Resources"], exceptions=FakeRay.exceptions
    )
    told: list[str] = []
    for accelerator, cluster, room in (
        ("auto", ClusterOptions(), 2),
        ("cpu", ClusterOptions(), 4),
        ("cuda", ClusterOptions(gpus=0.5), 4),
        ("cpu", ClusterOptions(cpus=3), 1),
    ):
        engine = RayEngine(None, cluster, [TrainOptions(accelerator=accelerator)], told.append)
        engine._ray = ray
        assert engine.slots == room
    nodes[0]["Alive"] = False
    engine._looked = -100.0
    assert engine.slots == 0
    assert told == ["no node that is left has 3 CPUs; waiting for one"]
