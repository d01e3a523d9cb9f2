from ..options import DataOptions as DataSpec  # noqa: F401
