"""Grids of runs and their tables, and teachers for recipes."""

from .bench import list_plan, plan_folder, run_plan
from .plan import Cell, Plan, cells, find_plan, read_plan, shipped_plans
from .report import write_report
from .teachers import find_teacher, teach

__all__ = [
    "Cell",
    "Plan",
    "cells",
    "find_plan",
    "find_teacher",
    "list_plan",
    "plan_folder",
    "read_plan",
    "run_plan",
    "shipped_plans",
    "teach",
    "write_report",
]
