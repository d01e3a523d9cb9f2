"""Looking at runs: where the policy sends which samples, as tables and as pictures."""

from .decisions import Inspection, get_split, inspect, teacher_probability
from .plots import plot_accuracy, plot_decisions, plot_shares
from .tables import describe, write_tables

__all__ = [
    "Inspection",
    "describe",
    "get_split",
    "inspect",
    "plot_accuracy",
    "plot_decisions",
    "plot_shares",
    "teacher_probability",
    "write_tables",
]

_RENAMED = {"split_of": "get_split"}


def __getattr__(name: str) -> object:
    if name not in _RENAMED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from ..deprecation import warn_renamed

    warn_renamed(f"{__name__}.{name}", _RENAMED[name])
    return globals()[_RENAMED[name]]
