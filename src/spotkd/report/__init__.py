"""Runs as one HTML page that needs nothing else, and its figures for papers."""

from .facts import runs_below
from .page import report_runs

__all__ = ["report_runs", "runs_below"]
