"""From options to a finished run: the session, the loop, the optimizer, and evaluation.

The names below are imported when they are first used: the loop is imported without the options, which it does not know.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runs.summary import Scores, Summary
    from ..runtime.device import make_fabric
    from .evaluation import evaluate
    from .jobs import distill, evaluate_checkpoint, restore, resume, train
    from .loop import fit
    from .optim import make_optimizer
    from .session import Session

_HOME = {
    "..runs.summary": ("Scores", "Summary"),
    "..runtime.device": ("make_fabric",),
    ".evaluation": ("evaluate",),
    ".jobs": ("distill", "evaluate_checkpoint", "restore", "resume", "train"),
    ".loop": ("fit",),
    ".optim": ("make_optimizer",),
    ".session": ("Session",),
}

__all__ = [
    "Scores",
    "Session",
    "Summary",
    "distill",
    "evaluate",
    "evaluate_checkpoint",
    "fit",
    "make_fabric",
    "make_optimizer",
    "restore",
    "resume",
    "train",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            value = getattr(import_module(module, __name__), name)

            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
