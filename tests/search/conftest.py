"""The small data set of the experiments' tests."""

from ..experiments.conftest import bright

__all__ = ["bright"]
