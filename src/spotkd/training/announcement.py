"""What a training begins with, in words: before the first step, while it can still be stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data import Dataset
from ..runtime.device import Device


def describe_start(data: Dataset, device: Device, epochs: int, steps: int) -> str:
    """What was loaded, where it is computed, and how long: ``pictures: 1 200 training and 300 test images ...``."""
    height, width = data.image_shape[1:]
    parts = [f"{format_number(len(data.train))} training"]
    parts += [f"{format_number(len(data.val))} validation"] if data.val is not None else []
    images = f"{', '.join(parts)} and {format_number(len(data.test))} test images of {len(data.classes)} classes"
    length = f"{format_number(epochs)} epochs of {format_number(steps)} steps"
    return f"{data.name}: {images}, {width}x{height}; {device}; {length}"


def describe_hazard(hazards: Mapping[str, float], data: Dataset) -> str:
    """What is damaged on purpose: ``hazard wrong:0.4: the teacher sees another picture of 1 880 training images``."""
    names = ",".join(name if name == "mismatch" else f"{name}:{strength:g}" for name, strength in hazards.items())
    damaged = None if data.teacher_view is None else data.teacher_view.is_damaged
    if damaged is None:
        return f"hazard {names}: damage on purpose"
    return f"hazard {names}: for {format_number(int(damaged.sum()))} training images the teacher sees another picture"


def format_number(number: int) -> str:
    """``1 200``"""
    return f"{number:,}".replace(",", " ")


_EXTRAS = {
    "optim.clip": "gradients of at most {:g}",
    "optim.dot_delta": "DOT with Delta {:g}",
    "label_smoothing": "label smoothing {:g}",
    "mixup": "mixup {:g}",
    "cutmix": "CutMix {:g}",
    "data.crop_area": "crops from {:g} of the area",
    "data.randaugment": "RandAugment {:g}",
    "data.jitter": "jitter {:g}",
    "ema": "averaged weights {:g}",
    "patience": "patience {:g}",
}


def describe_training(rate: float, options: Mapping[str, Any]) -> str:
    """``cosine with rate 0.001, adamw, mixup 0.2``: the schedule, and whatever is not off.

    Args:
        rate: the learning rate.
        options: those of the run, by full name.
    """
    extras = [words.format(options[name]) for name, words in _EXTRAS.items() if options.get(name)]
    kind = [] if options["optim.kind"] == "sgd" else [options["optim.kind"]]
    return ", ".join([f"{options['optim.schedule']} with rate {rate:g}", *kind, *extras])
