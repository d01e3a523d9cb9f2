"""What a Ray cluster runs: on a node a run in a child process, and before it a look at whether the cluster answers.

Only the standard library is imported here. Ray is sent :func:`run_on_node` itself, not its name: a node needs neither
this file nor PyTorch in the process that Ray starts, and the run has the memory of one process.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_POLL = 0.2  # seconds between two looks at the run
_SIGHT = 15.0  # seconds in which what was just written must be seen on every node: network file systems remember names
NO_CLUSTER = 3  # exit status of a look for a cluster of this machine where there is none


class Outcome(NamedTuple):
    """How a run ended on a node.

    Attributes:
        status: exit status; None where the node does not see the run's folder.
        seconds: how long it ran.
        words: the last line that it printed, or what the node does not see.
    """

    status: int | None
    seconds: float
    words: str


class Place(NamedTuple):
    """Where a node finds a run.

    Attributes:
        working: the directory that relative paths start from.
        request, log: files of the run; the options, and what the run prints.
        digest: SHA-256 of the options: a folder of the same name on another disk has others.
    """

    working: str
    request: str
    log: str
    digest: str


def run_on_node(arguments: list[str], place: Place, threads: int, gpus: float, patience: float) -> Outcome:
    """Train a run in a process of its own, which ends with this one; when this one is interrupted it may save first.

    Args:
        arguments: of ``python -m``.
        place: where its folder is.
        threads: that it may use.
        gpus: that Ray has given; with 0 it sees none.
        patience: seconds that it has to save.
    """
    working = place.working if Path(place.working).is_dir() else None
    begun = time.monotonic()
    while not _sees(place):
        if time.monotonic() - begun > _SIGHT:
            folder = Path(place.working, place.request).parent
            return Outcome(None, 0.0, f"node {socket.gethostname()} does not see {folder}")
        time.sleep(_POLL)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    begun = time.monotonic()
    log = Path(place.working, place.log)
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=working,
            env=environment,
            stdin=subprocess.PIPE,  # closes when this process ends, and so does the run
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            time.sleep(_POLL)
    except BaseException:  # Ray interrupts what is cancelled
        child.send_signal(signal.SIGTERM)
        child.wait(patience)
        raise
    finally:
        child.kill()
        child.communicate()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Outcome(child.returncode, time.monotonic() - begun, lines[-1] if lines else "")


def _sees(place: Place) -> bool:
    try:
        content = Path(place.working, place.request).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == place.digest


def look_for_cluster(address: str, say: Callable[[str], object]) -> int:
    """Connect to a cluster and leave it; 0, :data:`NO_CLUSTER`, or 1 where something is wrong, which is said."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        return 0
    except ConnectionError as error:
        say(f"{error}\n")
        return NO_CLUSTER
    except Exception as error:
        say(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(look_for_cluster(sys.argv[1], sys.stdout.write))
