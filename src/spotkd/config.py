"""Former home of the options, for one more release: ``TrainConfig`` is ``spotkd.options.TrainOptions``, and so on."""

from __future__ import annotations

from . import options
from .deprecation import warn_renamed


def __getattr__(name: str) -> object:
    new = f"{name.removesuffix('Config')}Options" if name.endswith("Config") else name
    new = {"read_config": "read_options", "flattened": "flatten"}.get(new, new)
    if new not in options.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"spotkd.config.{name}", f"spotkd.options.{new}")
    return getattr(options, new)
