"""Child processes: started so that none outlives the process that started it, and stopped so that each may save.

``torch.distributed.launcher.elastic_launch`` was tried in place of this (torch 2.13, two processes). A mistake that is
one line here comes as a traceback in the log and a ``ChildFailedError`` of some thirty lines; a run that saved and
stopped counts as failed; processes that are asked to stop are killed 30 seconds later, whether they have saved or not;
and ``spotkd bench`` has no use for its rendezvous. See docs/decisions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import IO

_POLL = 0.05  # seconds between two looks at the workers


def end_with_parent() -> None:
    """Start a thread that ends this process when its standard input is closed: when its parent is gone."""

    def wait() -> None:
        os.read(0, 1)  # returns when the parent's end of the pipe is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Supervisor:
    """Starts Python modules as worker processes; leaving its ``with`` block ends those that still run.

    A worker's standard input is a pipe that is never written to. It closes when this process ends, however it ends, and
    a worker that called :func:`end_with_parent` ends then too.

    Attributes:
        workers: all that were started, in order.
    """

    def __init__(self) -> None:
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for worker in self.workers:
            worker.kill()
            worker.communicate()  # waits for it and closes its standard input

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m`` with these arguments in a session of its own: Ctrl-C reaches this process alone."""
        worker = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self.workers.append(worker)
        return worker

    def forget(self, worker: subprocess.Popen[bytes]) -> None:
        """Close what is left of a worker that has ended."""
        worker.communicate()
        self.workers.remove(worker)

    @property
    def running(self) -> list[subprocess.Popen[bytes]]:
        """The workers that have not ended."""
        return [worker for worker in self.workers if worker.poll() is None]

    def stop(self, patience: float) -> None:
        """Ask all workers to save and stop, and kill those that still run after ``patience`` seconds."""
        for worker in self.running:
            worker.terminate()
        deadline = time.monotonic() + patience
        while self.running and time.monotonic() < deadline:
            time.sleep(_POLL)
        for worker in self.running:
            worker.kill()

    def wait(self, received: Sequence[int], patience: float) -> None:
        """Until all have ended, or one has failed and ``patience`` seconds have passed, in which the others may report.

        After a signal only the first worker counts as failed: it saves, as long as that takes, and the others cannot go
        on without it.

        Args:
            received: the signals so far, of :meth:`forwarding_signals`.
            patience: in seconds.
        """
        deadline = float("inf")
        while self.running and time.monotonic() < deadline:
            counting = self.workers[:1] if received else self.workers
            if deadline == float("inf") and any(worker.returncode for worker in counting):
                deadline = time.monotonic() + patience
            time.sleep(_POLL)

    @contextmanager
    def forwarding_signals(self) -> Iterator[list[int]]:
        """Forwards SIGINT and SIGTERM to the workers, a second one as SIGKILL; yields the list of those received."""
        received: list[int] = []

        def forward(number: int, _: object) -> None:
            received.append(number)
            for worker in self.workers:
                worker.send_signal(number if len(received) == 1 else signal.SIGKILL)

        if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
            yield received
            return
        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield received
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
