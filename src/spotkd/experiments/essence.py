"""What of a run's options decides what is learnt."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..config import RunConfig, flattened
from ..training.optim import milestones

# What does not: where files lie, how things run, what is printed. (Precision and threads do change the last digits.)
IRRELEVANT = {
    "out", "overwrite", "quiet", "inspect_every", "recipe", "eval_batch_size", "accelerator", "precision",
    "channels_last", "compile", "cuda_graphs", "resume", "accept_changes", "checkpoint_every", "skip_nonfinite",
    "min_teacher_top1", "cache_teacher", "logger",
}  # fmt: skip
IRRELEVANT_BELOW = {
    "data": {"root", "download", "mirror", "workers"},
    "teacher": {"checkpoint"},
}


def result_options(config: RunConfig) -> dict[str, Any]:
    """Options by name, without those that leave what is learnt as it is, and with defaults that depend on others."""
    content = {key: value for key, value in asdict(config).items() if key not in IRRELEVANT}
    for section, keys in IRRELEVANT_BELOW.items():
        if section in content:
            content[section] = {key: value for key, value in content[section].items() if key not in keys}
    if config.optim.schedule == "multistep":
        content["optim"]["milestones"] = milestones(config.optim, config.epochs)
    return content


def differing_options(one: RunConfig, other: RunConfig) -> list[str]:
    """Names of the options that differ, as ``optim.lr``."""
    mine, theirs = flattened(result_options(one)), flattened(result_options(other))
    return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
