"""Looking at runs: where the policy sends which samples, and pictures of it."""

from .decisions import teacher_probability
from .plots import plot_accuracy, plot_decisions, plot_shares

__all__ = ["plot_accuracy", "plot_decisions", "plot_shares", "teacher_probability"]
