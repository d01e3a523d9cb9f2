"""Looking at runs: where the policy sends which samples, as tables and as pictures."""

from .decisions import Inspection, inspect, split_of, teacher_probability
from .plots import plot_accuracy, plot_decisions, plot_shares
from .tables import describe, write_tables

__all__ = [
    "Inspection",
    "describe",
    "inspect",
    "plot_accuracy",
    "plot_decisions",
    "plot_shares",
    "split_of",
    "teacher_probability",
    "write_tables",
]
