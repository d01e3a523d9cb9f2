"""``--devices 2``: a process for each device, and the one line that says why one of them failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import yaml
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from ..errors import STOPPED, SpotkdError, Stopped
from ..files import atomic_write
from ..options import RunOptions
from ..runs.folder import RunFolder
from ..runs.layout import REQUEST
from ..runs.summary import Summary
from ..runtime.process_group import launched_processes
from ..runtime.workers import Supervisor
from .build import check_devices

OPTIONS, FOLDER = REQUEST, "folder"  # the options of the workers, and the folder that the first of them reports
_PATIENCE = 2.0  # seconds in which the others may report, after one has failed


def needs_launch(options: RunOptions) -> bool:
    """Whether the run needs processes that are still to be started."""
    return options.devices > 1 and launched_processes() == 1


def launch(command: str, options: RunOptions) -> Summary:
    """Run ``command`` (train, distill) in one process for each device, and wait for them.

    Signals to end are forwarded to all of them; a second one ends them at once.

    Raises:
        SpotkdError: one of them failed with a line for the user, or was killed; the others have been ended.
    """
    check_devices(options)
    with tempfile.TemporaryDirectory(prefix="spotkd-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        (place / OPTIONS).write_text(yaml.safe_dump(asdict(options), sort_keys=False), encoding="utf-8")
        common = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(find_free_network_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(options.devices),
        }
        with Supervisor() as supervisor, supervisor.forwarding_signals() as received:
            for rank in range(options.devices):
                _start(supervisor, command, place, {**common, "LOCAL_RANK": str(rank)}, rank)
            supervisor.wait(received, _PATIENCE)
            ended = [worker.poll() for worker in supervisor.workers]  # by themselves; the rest is ended here
        if any(ended) or None in ended:
            _explain(place, ended, received)
        return RunFolder((place / FOLDER).read_text(encoding="utf-8")).result


def _start(supervisor: Supervisor, command: str, place: Path, environment: dict[str, str], rank: int) -> None:
    arguments = ["spotkd.training.worker", command, str(place)]
    with (place / f"stderr-{rank}").open("wb") as errors:
        first = rank == 0
        supervisor.start(arguments, environment, None if first else subprocess.DEVNULL, None if first else errors)


def report(place: Path, rank: int, line: str = "", traceback: str = "", echo: bool = False) -> None:
    """Write down why a worker ends; an echo counts only where no other worker reports a cause."""
    words = {"order": (echo, time.time()), "rank": rank, "line": line, "traceback": traceback}
    with (
        suppress(OSError),
        atomic_write(place / f"failed-{rank}") as path,
    ):  # killed in between, it leaves no half a word
        path.write_text(json.dumps(words), encoding="utf-8")


def _explain(place: Path, ended: Sequence[int | None], received: Sequence[int]) -> None:
    """Raise what says why the workers ended: the first cause, not its echoes in the other processes."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in place.glob("failed-*")]
    reported = {report["rank"] for report in reports}  # which is how they ended, whatever came after
    for rank, code in enumerate(ended):
        if code is not None and code < 0 and not received and rank not in reported:
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
    # They were asked to stop, or chose a status of their own and have said why.
    code = next((code for code in ended if code), 1)
    raise SystemExit(128 - code if code < 0 else code)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
