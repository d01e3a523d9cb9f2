"""What one student gets right and another gets wrong, on the same test images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..data import Dataset, Loader
from ..models import build_model
from ..training import make_fabric
from ..training.normalisation import normalised_as_noted
from ..waiting import shown

_MOST_LISTED = 10  # confusions of either kind

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Images of class ``true`` that were taken for ``guess``: how many before and after."""

    true: str
    guess: str
    before: int
    after: int


@dataclass(frozen=True)
class Comparison:
    """The student of ``before`` beside that of ``after``.

    Attributes:
        before, after: names of the runs.
        both, only_before, only_after, neither: test images that they get right.
        chance: exact two-sided McNemar test: how often two equally good students would differ at least as much.
        fewer, more: confusions that changed most, in either direction.
    """

    before: str
    after: str
    both: int
    only_before: int
    only_after: int
    neither: int
    chance: float
    fewer: list[Confusion]
    more: list[Confusion]

    @property
    def images(self) -> int:
        return self.both + self.only_before + self.only_after + self.neither


@torch.inference_mode()
def predict_labels(
    student: str, folder: Path, data: Dataset, batch_size: int = 256, accelerator: str = "auto"
) -> tuple[Labels, Labels]:
    """The labels of the test images, and the predictions of the student in a run's folder.

    Raises:
        SpotkdError: the run's weights are not there or do not fit.
    """
    fabric = make_fabric(accelerator, "32")
    model = build_model(student, len(data.classes), folder, data.image_shape).to(fabric.device).eval()
    data = normalised_as_noted(data, folder)
    loader = Loader(data, data.test, batch_size, training=False, device=fabric.device)
    batches = shown(loader.epoch(0), f"{folder}: batches of test images", len(loader))
    found = [(batch.labels.cpu(), model(batch.images).argmax(1).cpu()) for batch in batches]
    labels, predicted = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return labels, predicted


def compare(
    before: tuple[str, Labels], after: tuple[str, Labels], labels: Labels, classes: tuple[str, ...]
) -> Comparison:
    """Two students, each a name and its predictions ``(N,)``, on images with these labels ``(N,)``."""
    from scipy.stats import binomtest  # slow to import, and needed by nothing else

    (before_name, old), (after_name, new) = before, after
    old_right, new_right = old == labels, new == labels
    only_before, only_after = int((old_right & ~new_right).sum()), int((~old_right & new_right).sum())
    differ = only_before + only_after
    old_times = Counter(zip(labels[~old_right].tolist(), old[~old_right].tolist(), strict=True))
    new_times = Counter(zip(labels[~new_right].tolist(), new[~new_right].tolist(), strict=True))
    changes = sorted(
        ((new_times[pair] - old_times[pair], pair) for pair in {**old_times, **new_times}),
        key=lambda change: (-abs(change[0]), change[1]),
    )

    def listed(sign: int) -> list[Confusion]:
        return [
            Confusion(classes[true], classes[guess], old_times[true, guess], new_times[true, guess])
            for change, (true, guess) in changes
            if change * sign > 0
        ][:_MOST_LISTED]

    return Comparison(
        before_name,
        after_name,
        int((old_right & new_right).sum()),
        only_before,
        only_after,
        int((~old_right & ~new_right).sum()),
        float(binomtest(only_after, differ).pvalue) if differ else 1.0,
        listed(-1),
        listed(1),
    )
