"""The engine of this machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spotkd.experiments import engines
from spotkd.experiments.engines import LocalEngine
from spotkd.options import TrainOptions
from spotkd.runs.folder import RunFolder


class FakeSupervisor:
    """Starts nothing, and notes what was to be started."""

    def __init__(self) -> None:
        self.environments: list[dict[str, str]] = []
        self.asked: list[str] = []

    def start(self, arguments: list[str], environment: dict[str, str], *_: object) -> Any:
        self.environments.append(environment)
        process = SimpleNamespace(status=None, terminate=lambda: self.asked.append(arguments[2]))
        process.poll = lambda: process.status
        return process

    def forget(self, process: object) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """With two slots on a machine of five cores and two GPUs."""
    monkeypatch.setattr(engines, "Supervisor", FakeSupervisor)
    monkeypatch.setattr(engines, "available_cores", lambda: 5)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return LocalEngine(2)


def test_cores_are_shared_out_and_gpus_used_in_turn(engine: LocalEngine, tmp_path: Path) -> None:
    jobs: list[Any] = [engine.start(RunFolder(tmp_path / name), TrainOptions()) for name in "ab"]
    jobs[0]._process.status = 0
    assert [job.has_ended() for job in jobs] == [True, False]
    engine.start(RunFolder(tmp_path / "c"), TrainOptions())
    found: Any = engine._supervisor
    seen = [(each["OMP_NUM_THREADS"], each["CUDA_VISIBLE_DEVICES"]) for each in found.environments]
    assert seen == [("2", "0"), ("2", "1"), ("2", "0")]


def test_a_run_is_asked_to_stop_once(engine: LocalEngine, tmp_path: Path) -> None:
    """A second signal would end it before it has saved."""
    job = engine.start(RunFolder(tmp_path / "a"), TrainOptions())
    job.stop()
    job.stop()
    found: Any = engine._supervisor
    assert found.asked == [str(tmp_path / "a")]
