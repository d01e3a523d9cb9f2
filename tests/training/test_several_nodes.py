"""One run over two nodes: two of torchrun's agents, which know each other by an address alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from spotkd import create_model
from spotkd.models import save_weights
from spotkd.options import DataOptions, DistillOptions, ModelOptions
from spotkd.runs.checkpoint import read_checkpoint

from .test_distributed import HERE, ROOT, assert_equal

EPOCHS = 30


def start_nodes(config: Path) -> list[subprocess.Popen[bytes]]:
    """The agents of two nodes with one process each, each in a session of its own."""
    port = find_free_network_port()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    agents = []
    for node in range(2):
        rendezvous = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        torchrun = ["torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), *rendezvous]
        run = ["--nproc-per-node", "1", "-m", "spotkd", "distill", "--config", str(config), "--resume", "auto"]
        with config.with_suffix(f".log-{node}").open("ab") as log:
            command = [sys.executable, "-m", *torchrun, *run]
            agents.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
    return agents


def kill_node(agent: subprocess.Popen[bytes]) -> None:
    """End an agent and its process at once, as a node that loses power."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    for process in (agent.pid, *map(int, children)):
        os.kill(process, signal.SIGKILL)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_node_and_the_same_command_again(tmp_path: Path) -> None:
    save_weights(
        create_model(f"{HERE}wide", 5), tmp_path / "wide.safetensors", {"model": "wide", "classes": tuple("abcde")}
    )
    configs = {}
    for name in ("whole", "killed"):
        options = DistillOptions(
            teacher=ModelOptions(f"{HERE}wide", str(tmp_path / "wide.safetensors")),
            student=ModelOptions(f"{HERE}narrow"),
            data=DataOptions(f"{HERE}data"),
            out=str(tmp_path / name),
            epochs=EPOCHS,
            batch_size=12,
            min_teacher_top1=0.0,
            accelerator="cpu",
            precision="32",
        )
        configs[name] = tmp_path / f"{name}.yaml"
        configs[name].write_text(yaml.safe_dump(asdict(options)), encoding="utf-8")

    agents = start_nodes(configs["killed"])
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "killed" / "last.ckpt").exists():
            running = all(agent.poll() is None for agent in agents)
            waiting = running and time.monotonic() < end
            assert waiting, configs["killed"].with_suffix(".log-0").read_text()[-3000:]
            time.sleep(0.02)
        kill_node(agents[1])
        assert agents[0].wait(timeout=60) != 0  # the other node ends by itself
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert 0 < read_checkpoint(tmp_path / "killed" / "last.ckpt")["epoch"] < EPOCHS
    for name in ("killed", "whole"):
        codes = [agent.wait(timeout=120) for agent in start_nodes(configs[name])]
        assert codes == [0, 0], configs[name].with_suffix(".log-0").read_text()[-3000:]
    one, two = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("killed", "whole"))
    assert one["epoch"] == two["epoch"] == EPOCHS
    assert one["config"]["devices"] == 2
    assert_equal(one["method"], two["method"], 0.0)
