"""Where the runs of a grid or a search are trained: in processes of this machine, or on a cluster.

Whoever has runs to train gives them to an :class:`Engine`, at most ``slots`` at a time, looks now and then whether a
:class:`Job` has ended, and knows no engine by name.
"""

from __future__ import annotations

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
import yaml

from ..cores import available_cores
from ..errors import SpotkdError
from ..options import ClusterOptions, DistillOptions, EngineName, RunOptions
from ..runs.folder import RunFolder
from ..runtime.workers import Supervisor

WORKER = "spotkd.training.worker"
SAVE_SECONDS = 60.0  # that a run has to save its state


def request_run(run: RunFolder, options: RunOptions) -> str:
    """Write the options with which a worker is to train a run; returns the command that it is given."""
    run.request(yaml.safe_dump(asdict(options), sort_keys=False))
    return "distill" if isinstance(options, DistillOptions) else "train"


class Job(ABC):
    """A run that an engine was given.

    Attributes:
        run: its folder.
        status: None until it has ended; then its exit status, 0 where it was trained to its end.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.status: int | None = None
        self._started, self._seconds = time.monotonic(), 0.0
        self._is_stopping = False

    @property
    def seconds(self) -> float:
        """How long it has run, or took."""
        return self._seconds if self.status is not None else time.monotonic() - self._started

    def _end(self, status: int, seconds: float | None = None) -> None:
        self._seconds = self.seconds if seconds is None else seconds
        self.status = status

    @property
    def reason(self) -> str:
        """Why it failed, in a line."""
        return self.run.last_words() or f"ended with status {self.status}"

    @abstractmethod
    def has_ended(self) -> bool:
        """Look whether it has; ``status`` says how."""

    def stop(self) -> None:
        """Ask it to save and stop; once, since a second request would not let it save."""
        if not self._is_stopping:
            self._is_stopping = True
            self._request_stop()

    @abstractmethod
    def _request_stop(self) -> None: ...


class Engine(ABC):
    """Trains runs, some side by side; leaving its ``with`` block asks those that still run to save, and ends them."""

    def __enter__(self) -> Engine:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many runs it has room for."""

    @abstractmethod
    def start(self, run: RunFolder, options: RunOptions) -> Job:
        """Train a run with these options; it goes on from its checkpoint if it has one."""


class LocalEngine(Engine):
    """Each run in a process of its own on this machine.

    Args:
        jobs: runs side by side; the cores are shared out among them, and the GPUs used in turn.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs, self._supervisor = jobs, Supervisor()
        self._taken: set[int] = set()

    @property
    def slots(self) -> int:
        return self._jobs

    def start(self, run: RunFolder, options: RunOptions) -> Job:
        command = request_run(run, options)
        slot = min(set(range(self._jobs)) - self._taken)
        self._taken.add(slot)
        with run.log.open("wb") as log:
            arguments, environment = [WORKER, command, str(run.path)], self._environment(slot)
            process = self._supervisor.start(arguments, environment, log, subprocess.STDOUT)

        def forget() -> None:
            self._taken.remove(slot)
            self._supervisor.forget(process)

        return _Process(run, process, forget)

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(available_cores() // self._jobs, 1))}
        gpus = torch.cuda.device_count()
        if self._jobs > 1 and gpus > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
        return environment

    def __exit__(self, *_: object) -> None:
        self._supervisor.stop(SAVE_SECONDS)
        self._supervisor.__exit__()


class _Process(Job):
    def __init__(self, run: RunFolder, process: subprocess.Popen[bytes], forget: Callable[[], None]) -> None:
        super().__init__(run)
        self._process, self._forget = process, forget

    def has_ended(self) -> bool:
        status = self._process.poll()
        if status is not None and self.status is None:
            self._forget()
            self._end(status)
        return status is not None

    def _request_stop(self) -> None:
        self._process.terminate()


def _make_local(
    jobs: int | None, cluster: ClusterOptions, runs: Sequence[RunOptions], tell: Callable[[str], None]
) -> Engine:
    if cluster != ClusterOptions():
        raise SpotkdError("cluster has no effect with engine local: leave it out, or give --engine ray")
    return LocalEngine(jobs or 1)


def _make_ray(
    jobs: int | None, cluster: ClusterOptions, runs: Sequence[RunOptions], tell: Callable[[str], None]
) -> Engine:
    from .ray_engine import RayEngine

    return RayEngine(jobs, cluster, runs, tell)


_ENGINES = {"local": _make_local, "ray": _make_ray}


def make_engine(
    name: EngineName,
    jobs: int | None,
    cluster: ClusterOptions,
    runs: Sequence[RunOptions],
    tell: Callable[[str], None],
) -> Engine:
    """An engine by its name.

    Args:
        name: local or ray.
        jobs: runs side by side; None for one here, or for as many as the cluster has room for.
        cluster: where it is, and what each run is given of it.
        runs: options of the runs to come, for what they need.
        tell: is given a line for the user now and then.

    Raises:
        SpotkdError: it is not installed, or has no such options.
    """
    return _ENGINES[name](jobs, cluster, runs, tell)
