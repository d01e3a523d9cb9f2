"""Grids of runs and their tables, and teachers for recipes."""

from .bench import list_plan, report_plan, run_plan
from .plan import Cell, Plan, cells, find_plan, read_plan, shipped_plans
from .teachers import find_teacher, teach, teacher_for

__all__ = [
    "Cell",
    "Plan",
    "cells",
    "find_plan",
    "find_teacher",
    "list_plan",
    "read_plan",
    "report_plan",
    "run_plan",
    "shipped_plans",
    "teach",
    "teacher_for",
]
