"""``spotkd search``: which distiller, weights, strategy and learning rate suit a pair of networks."""

from .runner import run_search

__all__ = ["run_search"]
