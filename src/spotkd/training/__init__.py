"""From a configuration to a finished run: the loop, the optimizer, the files of a run, and evaluation."""

from .device import make_fabric
from .evaluate import Scores, evaluate
from .jobs import distill, evaluate_checkpoint, restore, resume, train
from .loop import fit
from .optim import make_optimizer
from .run import Run, Summary

__all__ = [
    "Run",
    "Scores",
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
