"""Grids of runs and their tables, and teachers for recipes."""

from .bench import list_plan, report_plan, run_plan
from .plan import Cell, Plan, cells, find_plan, read_plan, shipped_plans
from .teachers import find_or_train_teacher, find_teacher, teacher_options

__all__ = [
    "Cell",
    "Plan",
    "cells",
    "find_or_train_teacher",
    "find_plan",
    "find_teacher",
    "list_plan",
    "read_plan",
    "report_plan",
    "run_plan",
    "shipped_plans",
    "teacher_options",
]

_RENAMED = {"teach": "find_or_train_teacher", "teacher_for": "teacher_options"}


def __getattr__(name: str) -> object:
    if name not in _RENAMED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from ..deprecation import warn_renamed

    warn_renamed(f"{__name__}.{name}", _RENAMED[name])
    return globals()[_RENAMED[name]]
