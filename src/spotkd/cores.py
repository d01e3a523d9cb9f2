"""How many processor cores there are to work with."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Processor cores that this process may use: those of its affinity mask, where the system has one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
