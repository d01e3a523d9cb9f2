"""One run over two nodes: two of torchrun's agents, on one address or in two networks of their own."""

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
from spotkd.runs.folder import RunFolder

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


def write_configs(folder: Path, *names: str) -> dict[str, Path]:
    """A file of options for each of several runs that are the same but for their folders."""
    save_weights(
        create_model(f"{HERE}wide", 5), folder / "wide.safetensors", {"model": "wide", "classes": tuple("abcde")}
    )
    configs = {}
    for name in names:
        options = DistillOptions(
            teacher=ModelOptions(f"{HERE}wide", str(folder / "wide.safetensors")),
            student=ModelOptions(f"{HERE}narrow"),
            data=DataOptions(f"{HERE}data"),
            out=str(folder / name),
            epochs=EPOCHS,
            batch_size=12,
            min_teacher_top1=0.0,
            accelerator="cpu",
            precision="32",
        )
        configs[name] = folder / f"{name}.yaml"
        configs[name].write_text(yaml.safe_dump(asdict(options)), encoding="utf-8")
    return configs


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_node_and_the_same_command_again(tmp_path: Path) -> None:
    configs = write_configs(tmp_path, "whole", "killed")
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


# Two networks


class Networks:
    """Two network namespaces joined by a cable, in each of which a node has an address of its own."""

    def __init__(self) -> None:
        self.names = [f"spotkd-{os.getpid()}-{node}" for node in range(2)]
        self.links = [f"sk{os.getpid() % 10**6}v{node}" for node in range(2)]
        self.addresses = [f"10.231.7.{node + 1}" for node in range(2)]

    def __enter__(self) -> Networks:
        try:
            self._make()
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error}")
        return self

    def _make(self) -> None:
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for name, link, address in zip(self.names, self.links, self.addresses, strict=True):
            self._ip("link", "set", link, "netns", name)
            for words in (
                ["addr", "add", f"{address}/24", "dev", link],
                ["link", "set", link, "up"],
                ["link", "set", "lo", "up"],
            ):
                self._ip("-n", name, *words)

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)  # and the cable with them

    def start(self, node: int, config: Path, restarts: int) -> subprocess.Popen[bytes]:
        """The agent of a node, which starts its processes again when they or the other node have died."""
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": self.links[node],
            # Else an agent that stays tells a new one no address, and that one waits in vain.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        is_host = f"is_host={int(node == 0)},last_call_timeout=1"
        torchrun = [
            *("torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", str(restarts)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{self.addresses[0]}:29400", "--rdzv-id", "run"),
            *("--rdzv-conf", is_host, "--local-addr", self.addresses[node]),
        ]
        run = ["-m", "spotkd", "distill", "--config", str(config), "--resume", "auto"]
        command = ["ip", "netns", "exec", self.names[node], sys.executable, "-m", *torchrun, *run]
        with config.with_suffix(f".log-{node}").open("ab") as log:
            return subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
            )


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root makes network namespaces")
def test_a_killed_node_comes_back_and_the_run_goes_on(tmp_path: Path) -> None:
    """The other node's agent starts its process again, by itself; the result is that of an undisturbed run."""
    configs = write_configs(tmp_path, "whole", "killed")
    with Networks() as networks:
        for name, config in configs.items():
            agents = [networks.start(node, config, restarts=3) for node in range(2)]
            try:
                if name == "killed":
                    end = time.monotonic() + 120
                    while not (tmp_path / name / "last.ckpt").exists():
                        running = all(agent.poll() is None for agent in agents)
                        assert running, config.with_suffix(".log-0").read_text()[-3000:]
                        assert time.monotonic() < end
                        time.sleep(0.02)
                    kill_node(agents[1])
                    assert agents[1].wait(timeout=10) == -signal.SIGKILL
                    assert agents[0].poll() is None
                    assert 0 < read_checkpoint(tmp_path / name / "last.ckpt")["epoch"] < EPOCHS
                    agents[1] = networks.start(1, config, restarts=3)
                codes = [agent.wait(timeout=120) for agent in agents]
            finally:
                for agent in agents:
                    agent.kill()
                    agent.wait()
            assert codes == [0, 0], config.with_suffix(".log-0").read_text()[-3000:]
    one, two = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("killed", "whole"))
    assert one["epoch"] == two["epoch"] == EPOCHS
    assert_equal(one["method"], two["method"], 0.0)
    rows = [dict(RunFolder(tmp_path / name).metrics) for name in configs]
    for row in rows:
        assert len(row.pop("seconds")) == EPOCHS
    assert rows[0] == rows[1]
