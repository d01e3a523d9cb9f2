"""Is this the right teacher? A look at some images before hours are spent on it."""

from __future__ import annotations

import math

import torch
from lightning_fabric import Fabric

from ..config import DistillConfig
from ..data import Dataset, Loader, Split
from ..errors import SpotkdError
from ..models.weights import read_metadata
from ..stages import StagedModel
from .evaluate import evaluate

IMAGES = 1024  # at most; enough to tell a trained network from one that guesses


def check_teacher(teacher: StagedModel, data: Dataset, fabric: Fabric, config: DistillConfig) -> None:
    """The teacher must know something about these images: a wrong checkpoint, classes in another order or images
    prepared in another way would make every student useless.

    One of ours whose file itself notes that it was never better is told about, and used.

    Raises:
        SpotkdError: it gets fewer test images right than ``min_teacher_top1``, or no more than guessing would.
    """
    if config.min_teacher_top1 == 0:
        return
    split = _some(data.test)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    loader = Loader(
        data,
        split,
        config.eval_batch_size,
        training=False,
        device=fabric.device,
        memory_format=layout,
        workers=config.data.workers,
    )
    teacher.to(fabric.device)
    scores = evaluate(teacher, loader, fabric, len(data.classes))
    found = f"{config.teacher.checkpoint}: the teacher gets {scores.top1:.1f} % of {scores.images} test images right"
    if config.min_teacher_top1 is not None:
        if scores.top1 < config.min_teacher_top1:
            raise SpotkdError(f"{found}, and min_teacher_top1 is {config.min_teacher_top1:g}")
        return
    # Whoever always names the commonest class is right so often.
    chance = 1 / len(data.classes) if split.labels is None else split.labels.bincount().max().item() / len(split)
    bound = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / scores.images))
    if scores.top1 > bound:
        return
    noted = read_metadata(config.teacher.checkpoint) if config.teacher.checkpoint else {}
    if noted.get("data") == config.data.name and noted.get("test_top1", math.inf) <= bound:
        if not config.quiet:
            print(f"note: {found}: no more than guessing, as it was when it was trained")  # noqa: T201  # for the person
    else:
        raise SpotkdError(
            f"{found}, and guessing the commonest class {100 * chance:.1f} % (with three standard errors "
            f"{bound:.1f} %): is it the wrong checkpoint, or are classes or images other than those it was trained on? "
            "To go on all the same: --min_teacher_top1 0"
        )


def _some(split: Split) -> Split:
    """At most :data:`IMAGES` of a split, evenly spread; of images that stream by the first ones."""
    count = len(split)
    if count <= IMAGES:
        return split
    evenly = torch.arange(IMAGES) * count // IMAGES
    return split.subset(torch.arange(IMAGES) if split.labels is None else evenly)
