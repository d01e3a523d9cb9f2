"""Networks, data and strategies by name, and runs with them, in a group of processes or alone.

``python -m tests.training.distributed_runs FILE PORT ...``: one distillation for each file of options.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from spotkd import adapters
from spotkd.data import Dataset, ImageSet
from spotkd.distillers import ofd
from spotkd.options import DistillOptions, read_options
from spotkd.routing import Decisions, Evidence, trust
from spotkd.routing.cohort import Cohort
from spotkd.routing.strategies import Adaptive, Random
from spotkd.routing.top_share import LossTop
from spotkd.routing.trust import Trust
from spotkd.training import distill

from ..conftest import TinyNet, few_glyphs

IMAGES = 65  # with batches of 12: five whole ones, and one of five, which two processes share unequally


def data() -> Dataset:
    """Grey images of five classes, told apart by their brightness."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randperm(IMAGES, generator=generator) % 5
    noise = torch.randint(0, 90, (IMAGES, 1, 8, 8), generator=generator)
    split = ImageSet((noise + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)
    return Dataset("pieces", split, split, tuple("abcde"), (0.3,), (0.3,), padding=1)


def glyphs() -> Dataset:
    """188 images of glyph94 to train on and 997 to test, which no batch size divides."""
    return few_glyphs(188, 997)


class Plain(TinyNet):
    """Without statistics of the batch, so that a batch can be computed piece by piece."""

    @staticmethod
    def _block(width_in: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1), nn.GroupNorm(1, width), nn.ReLU())


def narrow(classes: int) -> TinyNet:
    return TinyNet(4, classes)


def wide(classes: int) -> TinyNet:
    return TinyNet(6, classes)


def plain(classes: int) -> Plain:
    return Plain(4, classes)


def plain_wide(classes: int) -> Plain:
    return Plain(6, classes)


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(1, width)


def without_batchnorm() -> None:
    """Adapters and connectors, too."""
    for module in (adapters, ofd):
        setattr(module, "BatchNorm2d", group_norm)  # noqa: B010


class _Noted:
    masks: list[Tensor]

    def noted(self, decisions: Decisions) -> Decisions:
        self.masks = [*getattr(self, "masks", []), decisions.mask.clone()]
        if "NOTES" in os.environ:
            torch.save(self.masks, Path(os.environ["NOTES"]) / f"masks-{os.environ.get('LOCAL_RANK', '0')}.pt")
        return decisions


class NotedAdaptive(Adaptive, _Noted):
    """Leaves all its masks in a file."""

    def decide(self, logits: Tensor) -> Decisions:
        return self.noted(super().decide(logits))


class NotedRandom(Random, _Noted):
    """Leaves all its masks in a file."""

    def decide(self, logits: Tensor) -> Decisions:
        return self.noted(super().decide(logits))


class NotedTrust(Trust, _Noted):
    """Leaves all its weights in a file; so few images are enough for it, and any two components."""

    def weigh(self, evidence: Evidence) -> Decisions:
        trust.FEWEST, trust.SEPARATION = 10, 0.0
        return self.noted(super().weigh(evidence))


class NotedCohort(Cohort, _Noted):
    """Leaves all its weights in a file."""

    def weigh(self, evidence: Evidence) -> Decisions:
        return self.noted(super().weigh(evidence))


class NotedLossTop(LossTop, _Noted):
    """Leaves all its masks in a file."""

    def weigh(self, evidence: Evidence) -> Decisions:
        return self.noted(super().weigh(evidence))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, port in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        os.environ["MASTER_PORT"] = port  # a group of its own for each
        config = read_options(DistillOptions, name)
        if config.student.name.endswith("plain"):
            without_batchnorm()
        os.environ["NOTES"] = str(Path(name).parent)
        distill(config)
