"""Several processes that train together: how they start, find each other, and end.

``--devices 2`` starts two processes, one for each device, and waits for them; ``torchrun -m spotkd`` has started them
already. The first of them writes the files. When one dies the others are ended, and when the one that started them
does they end by themselves.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from ..config import RunConfig
from ..errors import STOPPED, SpotkdError, Stopped
from ..files import atomic_write
from .device import make_fabric
from .interrupt import Interrupt
from .run import Run, Summary, read_summary

OPTIONS, FOLDER = "options.yaml", "folder"  # what the members are told, and what the first of them answers
_POLL = 0.05  # seconds
_PATIENCE = 2.0  # seconds in which the others may say what they know, after one has ended

# Who we are


def started_together() -> bool:
    """Whether this process is one of several that were started together, by :func:`launch` or by torchrun."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def starts_others(config: RunConfig) -> bool:
    """Whether the run needs processes that are still to be started."""
    return config.devices > 1 and not started_together()


def join(config: RunConfig) -> Fabric:
    """This process's device; where several were started together, it finds the others, and all but one fall silent.

    Raises:
        SpotkdError: there are no such devices, or their number is not that of the processes.
    """
    if not started_together():
        return make_fabric(config.accelerator, config.precision)
    processes = int(os.environ["WORLD_SIZE"])
    if config.devices not in (1, processes):
        raise SpotkdError(f"devices is {config.devices}, and torchrun started {processes} processes: leave devices out")
    config.devices = processes
    check_devices(config)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    plugins = None if dist.is_torchelastic_launched() else [LightningEnvironment()]
    nodes = {"devices": here, "num_nodes": processes // here}
    fabric = make_fabric(config.accelerator, config.precision, strategy=Together(), plugins=plugins, **nodes)
    try:
        fabric.launch()
    except RuntimeError as error:
        raise SpotkdError(f"devices is {processes}: the processes do not find each other ({error})") from error
    config.quiet = config.quiet or not fabric.is_global_zero
    return fabric


class Together(DDPStrategy):
    """Fabric's devices and process group for DDP, without its wrapper around the method.

    Gradients are averaged in one go after the backward pass. The wrapper would overlap the two, but broadcast CRD's
    memories at every step or leave BatchNorm's statistics apart, and stop at a part of a network that gets no gradient
    or walk through the graph to find it.
    """

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module


def check_devices(config: RunConfig) -> None:
    """The number of devices must suit the batch, and BatchNorm the devices.

    Raises:
        SpotkdError: which option does not.
    """
    if config.batch_size < 2 * config.devices:
        raise SpotkdError(
            f"batch_size is {config.batch_size}: {config.devices} devices share a batch, and need at least "
            f"{2 * config.devices} images"
        )
    if config.sync_batchnorm and (config.accelerator == "cpu" or not torch.cuda.is_available()):
        raise SpotkdError("sync_batchnorm is true: torch has it for CUDA devices only; leave it out")


class Onlooker(Run):
    """The run's folder for the processes that write nothing; they go on from the first one's state."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.state, self.note = Path(folder), None, None
        self._finished = False
        self._interrupt = Interrupt()  # the first process saves and stops, and these follow it

    @property
    def finished(self) -> bool:
        return self._finished

    def __exit__(self, *error: Any) -> None:
        self._interrupt.__exit__(*error)

    def log(self, row: Mapping[str, float | int], name: str = "metrics.csv") -> None: ...

    def checkpoint(self, state: Mapping[str, Any]) -> None: ...

    def after_step(self, state: Callable[[], Mapping[str, Any]]) -> None: ...

    def keep(self, name: str, state: Mapping[str, Any]) -> None: ...

    def finish(self, summary: Summary) -> None: ...


def begin(folder: str | Path, config: RunConfig, fabric: Fabric) -> Run:
    """The run's folder; of several processes the first one opens it, and tells the others what it found there."""
    run = Run(folder, config) if fabric.is_global_zero else Onlooker(folder)
    if fabric.world_size > 1:
        found: list[Any] = [run.state, run.finished]
        dist.broadcast_object_list(found, src=0)
        if isinstance(run, Onlooker):
            run.state, run._finished = found
    return run


# How they start and end


class ForsakenError(SpotkdError):
    """Another process has gone, and this one cannot go on without it: an echo of what happened there."""


@contextmanager
def together() -> Iterator[None]:
    """While the processes work together.

    Raises:
        ForsakenError: another process has gone.
    """
    ended_well = False
    try:
        yield
        ended_well = True
    except RuntimeError as error:
        if dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise ForsakenError("another process of this run has gone; this one cannot go on without it") from error
        raise
    finally:
        # Left alone, gloo's threads end some failing processes with SIGABRT; NCCL may wait here for those gone.
        if dist.is_initialized() and (ended_well or dist.get_backend() == "gloo"):
            dist.destroy_process_group()


def launch(command: str, config: RunConfig) -> Summary:
    """Run ``command`` (train, distill) in one process for each device, and wait for them.

    Signals to end are passed on to all of them; a second one ends them at once.

    Raises:
        SpotkdError: one of them made a mistake known, or was killed; the others have been ended.
    """
    check_devices(config)
    with tempfile.TemporaryDirectory(prefix="spotkd-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        (place / OPTIONS).write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
        common = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(find_free_network_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(config.devices),
        }
        members = [_member(command, place, common, rank) for rank in range(config.devices)]
        try:
            with _passing_on(members) as received:
                _wait(members, received)
                ended = [member.poll() for member in members]  # by themselves; the rest is ended here
        finally:
            for member in members:
                member.kill()
                member.communicate()  # closes its standard input
        if any(ended) or None in ended:
            _explain(place, ended, received)
        return read_summary((place / FOLDER).read_text(encoding="utf-8"))


def _member(command: str, place: Path, common: Mapping[str, str], rank: int) -> subprocess.Popen[bytes]:
    """One process. It ends when its standard input does: at the latest with this process, even by SIGKILL."""
    arguments = [sys.executable, "-m", "spotkd.training.member", command, str(place)]
    with (place / f"stderr-{rank}").open("wb") as errors:
        return subprocess.Popen(
            arguments,
            env={**common, "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=None if rank == 0 else errors,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )


def _wait(members: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> None:
    """Until all have ended, or one has failed and the others had their time.

    After a signal the first process saves, as long as that takes; the others cannot go on without it.
    """
    failed_at = math.inf
    while any(member.poll() is None for member in members) and time.monotonic() < failed_at + _PATIENCE:
        counting = members[:1] if received else members
        if failed_at == math.inf and any(member.returncode for member in counting):
            failed_at = time.monotonic()
        time.sleep(_POLL)


@contextmanager
def _passing_on(members: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Passes SIGINT and SIGTERM on to the members; yields the list of those received."""
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        for member in members:
            member.send_signal(number if len(received) == 1 else signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():  # elsewhere nobody may handle signals
        yield received
        return
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(place: Path, rank: int, line: str = "", traceback: str = "", echo: bool = False) -> None:
    """A member leaves word of why it ends; an echo counts only where nobody knows better. No half a word is left."""
    words = {"order": (echo, time.time()), "rank": rank, "line": line, "traceback": traceback}
    with suppress(OSError), atomic_write(place / f"failed-{rank}") as path:
        path.write_text(json.dumps(words), encoding="utf-8")


def _explain(place: Path, ended: Sequence[int | None], received: Sequence[int]) -> None:
    """Raise what tells the user why the members ended: the first cause, not its echoes in the other processes."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in place.glob("failed-*")]
    left_word = {report["rank"] for report in reports}  # which is how they ended, whatever came after
    for rank, code in enumerate(ended):
        if code is not None and code < 0 and not received and rank not in left_word:
            last = _last_line(place / f"stderr-{rank}")
            memory = " (is there memory enough?)" if code == -signal.SIGKILL else ""
            raise SpotkdError(
                f"process {rank + 1} of {len(ended)} was killed by {signal.Signals(-code).name}{memory}; the others "
                f"were ended{last and f'; its last words: {last}'}"
            )
    words = min(reports, key=lambda report: tuple(report["order"]), default=None)
    if ended[0] == STOPPED and words is not None:
        raise Stopped(words["line"])
    if words is not None and not (received and words["order"][0]):
        if words["line"]:
            raise SpotkdError(words["line"])
        raise RuntimeError(f"process {words['rank'] + 1} of {len(ended)} failed\n\n{words['traceback']}")
    if received and received[0] == signal.SIGINT and ended[0] in (130, -signal.SIGINT, -signal.SIGKILL, 2):
        raise KeyboardInterrupt
    # They were told to stop, or chose a status of their own and have said why.
    code = next((code for code in ended if code), 1)
    raise SystemExit(128 - code if code < 0 else code)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
