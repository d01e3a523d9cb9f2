"""Runs as one HTML page that needs nothing else, and its figures for papers."""

from .page import report_runs
from .run_record import find_runs

__all__ = ["find_runs", "report_runs"]

_RENAMED = {"runs_below": "find_runs"}


def __getattr__(name: str) -> object:
    if name not in _RENAMED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from ..deprecation import warn_renamed

    warn_renamed(f"{__name__}.{name}", _RENAMED[name])
    return globals()[_RENAMED[name]]
