"""Runs on the machines of a Ray cluster that share the folder of the runs.

Ray finds a machine with the cores and GPUs that a run asks for, and notices when a process or a machine dies. The run
is then given to it again and goes on from its own checkpoint. Ray's own retries are off: they have no end where it was
memory that ran out, and nobody is told of them.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..cores import available_cores
from ..errors import STOPPED, SpotkdError, one_line
from ..formatting import join_words
from ..options import ClusterOptions, RunOptions
from ..runs.folder import RunFolder
from ..runs.layout import REQUEST
from ..runtime import ray_node
from .engines import SAVE_SECONDS, WORKER, Engine, Job, request_run

_RETRIES = 3  # of a run whose process or node died
_ANSWER_SECONDS = 30.0  # in which a cluster must answer
_KNOCK_SECONDS = 5.0  # in which its port must
_LOOK_SECONDS = 2.0  # between two looks at how many nodes there are
_STORE_BYTES = 100 << 20  # of memory for Ray's objects, of which there are none to speak of
_LOST = {
    "NodeDiedError": "its node died",
    "WorkerCrashedError": "its process died",
    "OutOfMemoryError": "its node ran out of memory",
}


class Need(NamedTuple):
    """What a run asks of the node that trains it."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        words = [f"{self.cpus} CPU{'s' * (self.cpus != 1)}"]
        if self.gpus:
            words.append(f"{self.gpus:g} GPU{'s' * (self.gpus != 1)}")
        return join_words(words)

    def fits(self, node: Need) -> int:
        """How many times it fits into what a node has."""
        return min(int(has // wants) for has, wants in zip(node, self, strict=True) if wants)


class RayEngine(Engine):
    """Each run as a task of a Ray cluster; its ``with`` block holds the connection.

    Args:
        jobs: runs at the same time; None for as many as the nodes have room for.
        cluster: where it is, and what each run is given.
        runs: options of the runs to come.
        tell: is given a line where something happened to the cluster.

    Raises:
        SpotkdError: Ray is not installed. On entering the block: the cluster does not answer, or no node has what a run
            asks for.
    """

    def __init__(
        self, jobs: int | None, cluster: ClusterOptions, runs: Sequence[RunOptions], tell: Callable[[str], None]
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise SpotkdError("engine ray needs Ray: pip install 'spotkd[cluster]'") from error
        self._ray, self._jobs, self._cluster, self._tell = ray, jobs, cluster, tell
        self._kinds = list({(options.accelerator, options.devices): options for options in runs}.values())
        self._given: list[_Task] = []
        self._room, self._looked = 0, -_LOOK_SECONDS
        self._is_ours = False

    def __enter__(self) -> RayEngine:
        if not self._ray.is_initialized():
            with _keeping_signals():
                _connect(self._ray, self._cluster.address, self._tell)
            self._is_ours = True
        nodes = self._nodes()
        for need in {self._need(options): None for options in self._kinds}:
            if not any(need.fits(node) for node in nodes):
                self._disconnect()
                raise SpotkdError(
                    f"no node of the cluster has the {need} that a run asks for (cluster.cpus, cluster.gpus); there is "
                    f"one with {max(nodes, key=lambda node: (node.gpus, node.cpus), default=Need(0, 0))}"
                )
        return self

    @property
    def slots(self) -> int:
        if self._jobs is not None:
            return self._jobs
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked, before, nodes = time.monotonic(), self._room, self._nodes()
            least = min((self._need(options) for options in self._kinds), key=lambda need: (need.gpus, need.cpus))
            self._room = sum(least.fits(node) for node in nodes)
            if before and not self._room:
                self._tell(f"no node that is left has {least}; waiting for one")
        return self._room

    def start(self, run: RunFolder, options: RunOptions) -> Job:
        arguments = [WORKER, request_run(run, options), str(run.path)]
        digest = hashlib.sha256((run.path / REQUEST).read_bytes()).hexdigest()
        place = ray_node.Place(str(Path.cwd()), str(run.path / REQUEST), str(run.log), digest)
        need = self._need(options)
        self._ray.cloudpickle.register_pickle_by_value(ray_node)
        remote = self._ray.remote(ray_node.run_on_node).options(
            num_cpus=need.cpus, num_gpus=need.gpus, max_retries=0, name=str(run.path)
        )
        job = _Task(
            self._ray, run, lambda: remote.remote(arguments, place, need.cpus, need.gpus, SAVE_SECONDS), self._tell
        )
        self._given = [*(one for one in self._given if one.status is None), job]
        return job

    def __exit__(self, *_: object) -> None:
        waiting = [job for job in self._given if job.status is None]
        with suppress(ConnectionError, self._ray.exceptions.RayError):
            for job in waiting:
                job.stop()
            references = [job.reference for job in waiting]
            if references:
                _, late = self._ray.wait(references, num_returns=len(references), timeout=SAVE_SECONDS)
                for reference in late:
                    self._ray.cancel(reference, force=True)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._is_ours:
            self._ray.shutdown()
            self._is_ours = False

    def _nodes(self) -> list[Need]:
        """What each node has that is alive."""
        with _told(self._ray):
            found = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [Need(int(resources.get("CPU", 0)), resources.get("GPU", 0)) for resources in found]

    def _need(self, options: RunOptions) -> Need:
        gpus = self._cluster.gpus
        if gpus is None:
            is_wanted = options.accelerator == "cuda" or (options.accelerator == "auto" and self._has_gpus)
            gpus = options.devices if is_wanted else 0
        return Need(self._cluster.cpus, gpus)

    @property
    def _has_gpus(self) -> bool:
        with _told(self._ray):
            return "GPU" in self._ray.cluster_resources()


class _Task(Job):
    """A run as a task: given to the cluster again when it is lost."""

    def __init__(self, ray: Any, run: RunFolder, submit: Callable[[], Any], tell: Callable[[str], None]) -> None:
        super().__init__(run)
        self._ray, self._submit, self._tell = ray, submit, tell
        self._retries, self._words = 0, ""
        self.reference = submit()

    @property
    def reason(self) -> str:
        return self._words or super().reason

    def has_ended(self) -> bool:
        if self.status is None:
            with _told(self._ray):
                if self._ray.wait([self.reference], timeout=0)[0]:
                    self._look()
        return self.status is not None

    def _look(self) -> None:
        errors = self._ray.exceptions
        try:
            outcome = ray_node.Outcome(*self._ray.get(self.reference))
        except errors.TaskCancelledError:
            self._end(STOPPED)
        except errors.RayTaskError as error:  # of the node's Python: no home, no such file
            self._words = one_line(error.cause if isinstance(error.cause, Exception) else error)[-300:]
            self._end(1)
        except errors.RayError as error:
            self._retry(_LOST.get(type(error).__name__, one_line(error)[:200]))
        else:
            if outcome.status is None:
                raise SpotkdError(f"{outcome.words}: --out must lie on a file system that all nodes of the cluster see")
            self._words = outcome.words
            self._end(outcome.status, outcome.seconds)

    def _retry(self, what: str) -> None:
        if self._is_stopping:
            self._end(STOPPED)
        elif self._retries == _RETRIES:
            self._words = f"{what}, for the {_RETRIES + 1}th time"
            self._end(1)
        else:
            self._retries += 1
            self._tell(f"{self.run.path}: {what}; started again from its checkpoint ({self._retries} of {_RETRIES})")
            self._started, self.reference = time.monotonic(), self._submit()

    def _request_stop(self) -> None:
        self._ray.cancel(self.reference)


@contextmanager
def _told(ray: Any) -> Iterator[None]:
    """A cluster that is lost is a mistake in one line."""
    try:
        yield
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise SpotkdError(f"the cluster is lost ({one_line(error)[:200]}); the same command resumes") from error


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray answers SIGTERM in its own way; whoever asked for it before still does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _connect(ray: Any, address: str | None, tell: Callable[[str], None]) -> None:
    """Connect to the cluster at an address, or to the one of this machine, or start one.

    Raises:
        SpotkdError: it does not answer.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with suppress(AttributeError):  # each death of a node would be told in some thirty lines of its log
        ray._private.worker._worker_logs_enabled = False
    found = _find(address or os.environ.get("RAY_ADDRESS") or "auto")
    local: dict[str, Any] = {}
    if found == "local":
        local = {"num_cpus": available_cores(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        if address is None:
            tell("no Ray cluster is named (--cluster.address) or runs here: one of this machine alone is started")
    try:
        ray.init(address=found, log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:
        raise SpotkdError(f"Ray at {found}: {one_line(error)[:300]}") from error


def _find(address: str) -> str:
    """The address, once something answers there: Ray itself would try for minutes, and in many lines.

    Raises:
        SpotkdError: nothing does, or no cluster that one can use.
    """
    if address == "local":
        return address
    if address != "auto":
        _knock(address)
    command = [sys.executable, "-m", ray_node.__name__, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SpotkdError(f"cluster.address is {address}: no Ray cluster answers there") from error
    if done.returncode == ray_node.NO_CLUSTER and address == "auto":
        return "local"
    if done.returncode:
        words = " ".join((done.stdout or done.stderr).split()) or f"status {done.returncode}"
        raise SpotkdError(f"cluster.address is {address}: {words[:400]}")
    return address


def _knock(address: str) -> None:
    """Whether something listens there at all."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise SpotkdError(f"cluster.address is {address}: write HOST:PORT, or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        raise SpotkdError(f"cluster.address is {address}: nothing answers there ({why})") from error
