"""The registry of networks that are known by name."""

from __future__ import annotations

from collections.abc import Callable

from ..registry import Registry
from ..stages import StagedModel

MODELS: Registry[Callable[[int], StagedModel]] = Registry("model")
