"""Where the policy sends the same training images, epoch after epoch: ``decisions.csv``, and pictures of some."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import DistillConfig, RunConfig
from ..data import Dataset, Loader, pick_images
from ..errors import SpotkdError, one_line
from ..method import Method, SpotKD
from .loggers import Loggers
from .run import Run

NAME = "decisions.csv"
EVERYONE = "all"  # what stands in place of a class in the row of all images
_SHOWN, _FLAT = 16, 0.01  # images at either end of a spot; one whose probabilities span no more has no ends
_IMAGES = 512  # that are watched; a forward pass of these costs a hundredth of an epoch or less


class Course:
    """Notes mean P(teacher) at each spot after an epoch, over all watched images and for every class of them.

    The images are un-augmented, the same in every epoch, and have their share of every class. Random numbers are not
    drawn, so a run is the same with and without it.

    Args:
        method: nothing is noted unless it has a learning policy.
        data: where the images are from.
        config: ``inspect_every`` says how often.
        run: gets the rows.
        common: arguments of the loader.
        loggers: get the images that are most surely sent to the teacher, and to the student, at each spot.
    """

    def __init__(
        self,
        method: Method,
        data: Dataset,
        config: RunConfig,
        run: Run,
        common: Mapping[str, Any],
        loggers: Loggers,
    ) -> None:
        self.every, self.run, self.loggers = 0, run, loggers
        if isinstance(method, SpotKD) and isinstance(config, DistillConfig) and method.strategy.learns:
            self.every, self.method = config.inspect_every, method
            watched = data.limited(min(_IMAGES, len(data.train))).train
            alone = {**common, "rank": 0, "processes": 1}  # every process looks at all of them, and the first one notes
            self.loader = Loader(data, watched, config.eval_batch_size, training=False, **alone)

    def after(self, epoch: int) -> None:
        """An epoch is done."""
        if not self.every or epoch % self.every:
            return
        probability, labels = ask(self.method, self.loader)
        names = self.method.spot_names
        for title, chosen in ((EVERYONE, slice(None)), *((c, labels == c) for c in sorted(set(labels.tolist())))):
            mine = probability[chosen].double()
            means = dict(zip(names, mine.mean(0).tolist(), strict=True))
            self.run.log({"epoch": epoch, "class": title, "images": len(mine), **means}, NAME)
        if self.loggers.shows_images:
            self._show(probability, epoch)

    def _show(self, probability: Tensor, epoch: int) -> None:
        """The ends of every spot, the surest images first; pixels as they are in the data set."""
        ends: dict[str, list[int]] = {}
        for spot, column in zip(self.method.spot_names, probability.T, strict=True):
            if column.max() - column.min() >= _FLAT:
                order = column.argsort(stable=True).tolist()
                count = min(_SHOWN, len(order) // 2)
                ends |= {f"to_teacher/{spot}": order[::-1][:count], f"to_student/{spot}": order[:count]}
        wanted = sorted({index for indices in ends.values() for index in indices})
        images = dict(zip(wanted, pick_images(self.loader.split, wanted), strict=True))
        for title, indices in ends.items():
            self.loggers.images(title, torch.stack([images[index].cpu() for index in indices]), epoch)


@torch.inference_mode()
def ask(method: SpotKD, loader: Loader) -> tuple[Tensor, Tensor]:
    """P(teacher) ``(N, K + 1)`` of every image at every spot, and the labels ``(N,)``, both on the CPU.

    Both networks are in eval mode. (The policy was trained on the student's train-mode embeddings, whose BatchNorm
    uses the statistics of the batch.)
    """
    was_training = method.training
    method.eval()
    chunks = []
    for batch in loader.epoch(0):
        teacher, student = method.teacher.features(batch.images), method.student.features(batch.images)
        chunks.append((method.teacher_probability(teacher, student).cpu(), batch.labels.cpu()))
    method.train(was_training)
    probabilities, labels = zip(*chunks, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


class CourseRow(NamedTuple):
    """A row of ``decisions.csv``; ``label`` is None in the rows of all images."""

    epoch: int
    label: int | None
    images: int
    means: tuple[float, ...]


def read_course(folder: str | Path) -> tuple[tuple[str, ...], list[CourseRow]]:
    """The spots and the rows of a run's ``decisions.csv``; nothing where it has none.

    Raises:
        SpotkdError: it is damaged.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return (), []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        rows = [
            CourseRow(int(epoch), None if label == EVERYONE else int(label), int(images), tuple(map(float, means)))
            for epoch, label, images, *means in lines
        ]
    except (OSError, ValueError) as error:
        raise SpotkdError(f"{path}: cannot be read ({one_line(error)[:200]})") from error
    return tuple(header[3:]), rows
