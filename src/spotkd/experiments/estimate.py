"""How long a plan will take, roughly, before anything has been trained.

The stages of every network are timed on this machine with a few images, by the processor's own clock where other
programs keep it busy; a run's images are counted from its options.
What each costs in forward passes ``T`` and ``S`` of teacher and student follows from where the strategy needs them (see
docs/performance.md). Distillers' own arithmetic, adapters and evaluation are left out; a running plan corrects the
estimate by the cells that are finished.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

import torch

from ..cores import available_cores
from ..data import DataSpec, load_data
from ..distillers import DISTILLERS
from ..distillers.base import LogitDistiller, pair_spots
from ..models import create_model
from ..options import DataOptions, DistillOptions, TrainOptions
from ..options.values import epochs_for
from ..routing import make_strategy
from ..runtime.device import make_fabric
from ..stages import feature_shapes
from ..training.build import data_spec

# Training images, classes and edge of the sets that are known by name, so that they need not be there to be counted.
SIZES = {
    "glyph94": (50_008, 94, 32),
    "cifar10": (50_000, 10, 32),
    "cifar100": (50_000, 100, 32),
    "tiny-imagenet": (100_000, 200, 64),
}
TIMED_IMAGES = 8  # timed at once
TIMED_ROUNDS = 2  # of which the faster counts
BUSY = 0.5  # programs in want of a core, for each core, from which a machine is busy


@cache
def _stage_seconds(name: str, classes: int, size: int, device: torch.device) -> tuple[float, ...]:
    """Seconds of each stage's forward pass per image, in training mode without a graph."""
    model = create_model(name, classes, image_shape=(3, size, size)).to(device)
    best = [float("inf")] * len(model.stage_names)
    with torch.no_grad():
        for _ in range(TIMED_ROUNDS + 1):  # the first warms up
            x = torch.randn(TIMED_IMAGES, 3, size, size, device=device)
            for stage in range(len(best)):
                started = _clock(device)
                x = model.run(x, stage, stage + 1)
                if device.type != "cpu":
                    torch.cuda.synchronize(device)
                best[stage] = min(best[stage], _clock(device) - started)
    return tuple(seconds / TIMED_IMAGES for seconds in best)


def _clock(device: torch.device) -> float:
    """Seconds; on a processor that others keep busy, those in which it worked for this program."""
    if device.type == "cpu" and machine_load() is not None:
        return time.process_time() / torch.get_num_threads()
    return time.perf_counter()


@cache
def machine_load() -> float | None:
    """How many programs wanted a core in the last minute where that is many for this machine; else None."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load if load > BUSY * available_cores() else None


@cache
def _shapes(name: str, classes: int, size: int) -> tuple[tuple[int, ...], ...]:
    return feature_shapes(create_model(name, classes, image_shape=(3, size, size)), (3, size, size))


@cache
def _device(accelerator: str) -> torch.device:
    return make_fabric(accelerator, "32").device


def _image_counts(data: DataOptions) -> tuple[int, int, int]:
    """Training images after limit and held-out share, classes, and edge."""
    if data.name in SIZES:
        count, classes, size = SIZES[data.name]
        return round((data.limit or count) * (1 - data.val_share)), classes, size
    return _open_data(data_spec(data))


@cache
def _open_data(spec: DataSpec) -> tuple[int, int, int]:
    data = load_data(spec)
    return len(data.train), len(data.classes), data.image_shape[1]


def estimate_seconds(options: TrainOptions | DistillOptions) -> float:
    """Rough seconds of training of one run on this machine.

    Raises:
        SpotkdError: an unknown name, or a data set that is not there and whose size is not known.
    """
    count, classes, size = _image_counts(options.data)
    device = _device(options.accelerator)
    if isinstance(options, TrainOptions):
        return epochs_for(options, count) * count * 3 * sum(_stage_seconds(options.model.name, classes, size, device))
    teacher, student = (
        _stage_seconds(model.name, classes, size, device) for model in (options.teacher, options.student)
    )
    t, s = sum(teacher), sum(student)
    cost = t + 3 * s
    strategy = make_strategy(options.strategy)
    if strategy.learns:
        s_prefix, t_prefix = _prefix_seconds(options, classes, size, student, teacher)
        cost = 3 * t - 2 * t_prefix + 5 * s - s_prefix
        if strategy.trains_teacher:  # its own forward and backward, and no prefix to take over
            cost = 4 * t + 4 * s + (t - t_prefix) + (s - s_prefix)
    distiller: Any = DISTILLERS[options.distiller]
    preparation = getattr(distiller, "preparation", None)
    share = 0.0 if preparation is None else preparation.share * (t + s) / cost
    return epochs_for(options, count) * count * cost * (1 + share)


def _prefix_seconds(
    options: DistillOptions, classes: int, size: int, student: tuple[float, ...], teacher: tuple[float, ...]
) -> tuple[float, float]:
    """Seconds up to and including the first spot's stage, of student and teacher."""
    distiller: Any = DISTILLERS[options.distiller]
    if issubclass(distiller, LogitDistiller):
        return sum(student), sum(teacher)
    shapes = (_shapes(model.name, classes, size) for model in (options.student, options.teacher))
    (s_stage, t_stage), *_ = pair_spots(distiller.spot_rule, *shapes)
    return sum(student[: s_stage + 1]), sum(teacher[: t_stage + 1])
