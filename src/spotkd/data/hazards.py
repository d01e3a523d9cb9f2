"""Hazards: damage done on purpose to what a student learns from, to see what a strategy makes of it.

What is damaged depends on the seed and on the sample alone, never on the epoch, the batch or the process, so a resumed
run meets the same damage. Only training images are concerned; what is evaluated stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import SpotkdError
from .images import Dataset, ImageSet
from .lazy import LazySet

_NUMBERS = {"wrong": 1, "subgroup": 2, "shift": 3, "noise": 4}  # streams of random numbers, which never change
_DRAWS = 64  # for a sample of another class; after so many of fair draws none is left


@dataclass(frozen=True)
class TeacherView:
    """What the teacher sees in place of the training images.

    Attributes:
        instead: ``(N,)`` which training image, un-augmented, the teacher sees for each sample; its own number where it
            sees what the student sees. None where that holds for all.
        lens: ``(3, H, W)`` added to every normalised image. None for nothing.
    """

    instead: Tensor | None = None
    lens: Tensor | None = None

    @property
    def is_damaged(self) -> Tensor | None:
        """``(N,)`` bool, which samples the teacher sees another picture of; None where that is nobody."""
        return None if self.instead is None else self.instead != torch.arange(len(self.instead))

    def to(self, device: torch.device | str) -> TeacherView:
        """The same on another device."""
        return TeacherView(*(None if x is None else x.to(device) for x in (self.instead, self.lens)))


def damage(data: Dataset, hazards: Mapping[str, float], seed: int) -> Dataset:
    """The data set with damaged training labels, and with what the teacher sees of its training images.

    ``wrong``: for this share of the training images, drawn at random, the teacher sees another training image, of
    another class, always the same one: its features and logits are those of the wrong sample. ``subgroup``: the same
    for all images of this share of the classes. ``shift``: the teacher looks through a dirty lens, which adds the same
    normal noise to every image; its deviation is so many times that of the pixels. ``noise``: this share of the
    training labels is replaced by another class, drawn evenly. Other hazards do nothing to data.

    Args:
        data: as it is.
        hazards: their strengths, by name.
        seed: of all random numbers.

    Raises:
        SpotkdError: the images of the data set are not known one by one, or not in memory where they must be.
    """
    if not hazards.keys() & _NUMBERS.keys():
        return data
    dice = {name: np.random.default_rng((seed, number)) for name, number in _NUMBERS.items()}
    view = TeacherView(_choose_images(data, hazards, dice), _make_lens(data, hazards, dice["shift"]))
    damaged = replace(data, teacher_view=None if view.instead is None and view.lens is None else view)
    if "noise" in hazards:
        train = _labelled(data, "noise")
        changed = _draw_share(len(train), hazards["noise"], dice["noise"])
        others = _draw_labels(train.labels, len(data.classes), dice["noise"])
        damaged = replace(damaged, train=replace(train, labels=torch.where(changed, others, train.labels)))
    return damaged


def _labelled(data: Dataset, hazard: str) -> ImageSet | LazySet:
    if isinstance(data.train, ImageSet | LazySet):
        return data.train
    raise SpotkdError(f"hazard is {hazard}: the images of {data.name} stream by and cannot be told apart")


def _choose_images(
    data: Dataset, hazards: Mapping[str, float], dice: Mapping[str, np.random.Generator]
) -> Tensor | None:
    """See :attr:`TeacherView.instead`."""
    if not hazards.keys() & {"wrong", "subgroup"}:
        return None
    name = "wrong" if "wrong" in hazards else "subgroup"
    if not isinstance(data.train, ImageSet):
        raise SpotkdError(f"hazard is {name}: the images of {data.name} are not kept in memory")
    labels = data.train.labels
    damaged = _draw_share(len(labels), hazards.get("wrong", 0.0), dice["wrong"])
    classes = _draw_share(len(data.classes), hazards.get("subgroup", 0.0), dice["subgroup"])
    damaged |= classes[labels]
    return torch.where(damaged, _draw_strangers(labels, dice[name]), torch.arange(len(labels)))


def _make_lens(data: Dataset, hazards: Mapping[str, float], dice: np.random.Generator) -> Tensor | None:
    if "shift" not in hazards:
        return None
    return torch.from_numpy(hazards["shift"] * dice.standard_normal(data.image_shape)).float()


def _draw_share(count: int, share: float, dice: np.random.Generator) -> Tensor:
    """``(count,)`` bool, ones for exactly the share, rounded."""
    order = torch.from_numpy(dice.permutation(count))
    return torch.zeros(count, dtype=torch.bool).index_fill_(0, order[: round(share * count)], True)


def _draw_strangers(labels: Tensor, dice: np.random.Generator) -> Tensor:
    """``(N,)`` for each sample the number of another one, of another class where there is one."""
    strangers = torch.from_numpy(dice.integers(len(labels), size=(_DRAWS, len(labels))))
    is_other = labels[strangers] != labels
    first = is_other.int().argmax(0)
    return strangers.gather(0, first[None])[0]


def _draw_labels(labels: Tensor, classes: int, dice: np.random.Generator) -> Tensor:
    """``(N,)`` for each label another one."""
    steps = torch.from_numpy(dice.integers(1, max(classes, 2), size=len(labels)))
    return (labels + steps) % classes
