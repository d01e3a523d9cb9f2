"""The run's folder for the processes of a training that write nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from ..runtime.signals import StopRequest
from . import layout
from .summary import Summary
from .writer import RunWriter


class RunFollower(RunWriter):
    """The run's folder for the processes that write nothing; they take up the state of the first one.

    The first process saves and stops when a signal asks it to, and these follow it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.state, self.note = Path(folder), None, None
        self._finished = False
        self._stop = StopRequest()

    def follow(self, state: dict[str, Any] | None, finished: bool) -> None:
        """Take up what the first process found."""
        self.state, self._finished = state, finished

    @property
    def writes(self) -> bool:
        return False

    def begin(self) -> None: ...

    @property
    def finished(self) -> bool:
        return self._finished

    def __exit__(self, *error: Any) -> None:
        self._stop.__exit__(*error)

    def history(self) -> dict[str, list[float]]:
        return {}

    def log(self, row: Mapping[str, float | int | str], name: str = layout.METRICS) -> None: ...

    def checkpoint(self, state: Mapping[str, Any]) -> None: ...

    def after_step(self, state: Callable[[], Mapping[str, Any]]) -> None: ...

    def keep(self, name: str, state: Mapping[str, Any]) -> None: ...

    def save_network(self, name: str, network: nn.Module, metadata: Mapping[str, Any]) -> None: ...

    def finish(self, summary: Summary) -> None: ...


def share_state(run: RunWriter) -> None:
    """Send the other processes of the run what the first one found in its folder."""
    found: list[Any] = [run.state, run.finished]
    dist.broadcast_object_list(found, src=0)
    if isinstance(run, RunFollower):
        run.follow(*found)
