"""Everything that ``spotkd profile`` measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..data import DataSpec, load_data
from ..distillers import DISTILLERS
from ..errors import SpotkdError
from ..files import check_target
from ..options import ProfileOptions
from ..routing import STRATEGIES
from ..runtime.device import describe_machine, make_fabric
from ..stages import Shape
from .networks import NetworkProfile, measure_networks
from .steps import StepCost, StepFactory, measure_steps

SAMPLES = 50_000  # training images, for distillers that keep a memory of them, where no data set is named


@dataclass(frozen=True)
class Profile:
    """All that was measured, and on what. The first of the networks is the teacher."""

    machine: str
    device: str
    precision: str
    torch: str
    image_shape: tuple[int, ...]
    classes: int
    batch_size: int
    networks: list[NetworkProfile]
    steps: list[StepCost]


def profile(options: ProfileOptions, progress: Callable[[str], None] = lambda _: None) -> Profile:
    """Measure a teacher and its students.

    Args:
        options: the options.
        progress: called with a word on what is being measured.

    Raises:
        SpotkdError: an unknown name, a number that is too small.
    """
    for key, value in (("batch_size", options.batch_size), ("rounds", options.rounds), ("classes", options.classes)):
        if value < 1:
            raise SpotkdError(f"{key} is {value}: it must be at least 1")
    check_target("csv", options.csv)
    check_target("json", options.json)
    shape: Shape = tuple(options.image_shape)
    classes, samples = options.classes, SAMPLES
    if options.data is not None:
        data = load_data(DataSpec(options.data))
        shape, classes, samples = data.image_shape, len(data.classes), len(data.train)
    if len(shape) != 3 or min(shape) < 1:
        raise SpotkdError(f"image_shape is {list(shape)}: give channels, height and width, as [3,32,32]")
    distillers = [] if options.distillers == "none" else _parse_names(options.distillers, DISTILLERS)
    strategies = _parse_names(options.strategies, STRATEGIES)
    names = list(dict.fromkeys([options.teacher, *options.students]))
    fabric = make_fabric(options.accelerator, options.precision)
    progress("networks")
    networks = measure_networks(names, classes, shape, options.batch_size, options.rounds, fabric.device)
    steps: list[StepCost] = []
    for student in dict.fromkeys(options.students):
        factory = StepFactory(options.teacher, student, classes, shape, samples, fabric)
        batch = factory.make_batch(options.batch_size)
        plain_kd = factory.make_step("kd", "always", batch)
        for distiller in distillers:
            progress(f"{student}: {distiller}")
            steps += measure_steps(factory, distiller, strategies, plain_kd, batch, options.rounds)
    return Profile(
        describe_machine(fabric.device),
        str(fabric.device),
        str(fabric.strategy.precision.precision),
        torch.__version__,
        shape,
        classes,
        options.batch_size,
        networks,
        steps,
    )


def _parse_names(names: str, registry: Any) -> list[str]:
    """``at,kd`` as a list of known names; all of them for ``all``."""
    if names == "all":
        return list(registry)
    listed = [name.strip() for name in names.split(",")]
    for name in listed:
        registry[name]  # an unknown name is an error that lists near ones
    return listed
