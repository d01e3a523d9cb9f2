"""Times of several things on one machine, taken in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 2  # rounds that do not count
Call = Callable[[], object]


def interleaved(calls: dict[Any, Call], rounds: int, device: torch.device) -> dict[Any, list[float]]:
    """Milliseconds of every call, ``rounds`` times, one after the other in each round, after some rounds of warm-up.

    A machine whose speed drifts is slow or fast for all of them alike.
    """
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for number in range(rounds + WARM_UP):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            _synchronize(device)
            if number >= WARM_UP:
                times[key].append(1e3 * (time.perf_counter() - started))
    return times


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
