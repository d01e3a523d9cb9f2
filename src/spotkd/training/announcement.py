"""What a training begins with, in words: before the first step, while it can still be stopped."""

from __future__ import annotations

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


def format_number(number: int) -> str:
    """``1 200``"""
    return f"{number:,}".replace(",", " ")
