"""What a training begins with, in words: before the first step, while it can still be stopped."""

from __future__ import annotations

from collections.abc import Iterator

from ..data import Dataset
from ..options import DistillOptions, TrainOptions
from ..options.values import epochs_for
from ..runs.summary import Scores
from ..runtime.device import Device


def announce(
    options: TrainOptions | DistillOptions, data: Dataset, device: Device, teacher: Scores | None
) -> Iterator[str]:
    """The lines: what was loaded and on what it is trained; what was chosen, and which options choose otherwise.

    Args:
        options: of the run.
        data: what was loaded.
        device: where it computes.
        teacher: its scores on some test images, where they were measured.
    """
    height, width = data.image_shape[1:]
    parts = [f"{_count(len(data.train))} training"]
    parts += [f"{_count(len(data.val))} validation"] if data.val is not None else []
    images = f"{', '.join(parts)} and {_count(len(data.test))} test images of {len(data.classes)} classes"
    epochs, steps = epochs_for(options, len(data.train)), -(-len(data.train) // options.batch_size)
    yield f"{data.name}: {images}, {width}x{height}; {device}; {_count(epochs)} epochs of {_count(steps)} steps"
    rate = f"{options.optim.schedule} with rate {options.optim.lr:g}"
    if not isinstance(options, DistillOptions):
        yield f"{options.model.name} on labels; {rate} (--epochs, --optim.schedule, --optim.lr)"
        return
    weight = "balanced" if options.balance == "auto" else "as published"
    known = "" if teacher is None else f", right on {teacher.top1:.1f} % of {_count(teacher.images)} test images,"
    method = f"{options.distiller}, {options.strategy}, weight {weight}"
    choices = "--distiller, --strategy, --balance, --epochs, --optim.schedule, --optim.lr"
    yield f"{options.teacher.name}{known} teaches {options.student.name}: {method}; {rate} ({choices})"


def _count(number: int) -> str:
    """``1 200``"""
    return f"{number:,}".replace(",", " ")
