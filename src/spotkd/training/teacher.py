"""Is this the right teacher? A look at some images before hours are spent on it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..data import Dataset, Loader, Split, read_preprocessing
from ..errors import SpotkdError
from ..models import create_model
from ..models.weights import read_metadata
from ..registry import PYTHON
from ..runs.summary import Scores
from ..runtime.device import Device
from ..stages import StagedModel
from .evaluation import evaluate

_SIGNIFICANT = 0.01  # chance of being taken for a trained network by luck
IMAGES = 1024  # at most; enough to tell a trained network from one that guesses


def check_teacher(
    teacher: StagedModel,
    loader: Loader,
    classes: int,
    device: Device,
    *,
    checkpoint: str,
    data_name: str,
    min_top1: float | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Scores | None:
    """The teacher must know something about these images: a wrong checkpoint, classes in another order or images
    prepared in another way would make every student useless.

    One of ours whose file itself notes that it was never better is used after a warning.

    Returns:
        Its scores on these images; None where it was not looked at.

    Args:
        teacher: the network.
        loader: some test images, see :func:`sample_of`.
        classes: their number.
        device: where to compute.
        checkpoint: where its weights are from.
        data_name: the data set, as the user named it.
        min_top1: what it must get right, in percent; None asks for more than guessing, 0 for nothing.
        warn: gets a line for the user.

    Raises:
        SpotkdError: it gets fewer test images right than ``min_top1``, or no more than guessing would.
    """
    if min_top1 == 0:
        return None
    split = loader.split
    teacher.to(device.fabric.device)
    scores = evaluate(teacher, loader, device.fabric, classes)
    found = f"{checkpoint}: the teacher gets {scores.top1:.1f} % of {scores.images} test images right"
    if min_top1 is not None:
        if scores.top1 < min_top1:
            raise SpotkdError(f"{found}, and min_teacher_top1 is {min_top1:g}")
        return scores
    # Who always names the commonest class is right so often.
    chance = 1 / classes if split.labels is None else split.labels.bincount().max().item() / len(split)
    hits = round(scores.top1 * scores.images / 100)
    if _probability_of_guessing(hits, scores.images, chance) < _SIGNIFICANT:
        return scores
    noted = read_metadata(checkpoint)
    bound = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / scores.images))
    if noted.get("data") == data_name and noted.get("test_top1", math.inf) <= bound:
        warn(f"note: {found}: no more than guessing, as it was when it was trained")
    elif _probability_of_guessing(scores.images, scores.images, chance) >= _SIGNIFICANT:
        warn(f"note: {found}: these are too few to tell it from one that guesses")
    else:
        raise SpotkdError(
            f"{found}, and guessing the commonest class {100 * chance:.1f} % (maybe all that it does): is it the "
            "wrong checkpoint, or are classes or images other than those it was trained on? To use it all the same: "
            "--min_teacher_top1 0"
        )
    return scores


def load_teacher(checkpoint: str, data: Dataset, data_name: str, normalisation_given: bool) -> StagedModel:
    """A further teacher, from weights that note their network.

    Args:
        checkpoint: a run folder or a weights file.
        data: what it is to teach on.
        data_name: the data set, as the user named it.
        normalisation_given: whether the user has chosen the images' mean and deviation.

    Raises:
        SpotkdError: the file notes no network, or code; it was trained on other classes, or on images that were
            normalised in another way; it is missing or damaged.
    """
    noted = read_metadata(checkpoint)
    name, classes = str(noted.get("model", "")), noted.get("classes")
    if not name or name.startswith(PYTHON):
        raise SpotkdError(f"more_teachers: {checkpoint} {f'is a network of {name}' if name else 'notes no network'}")
    if classes and len(classes) != len(data.classes):
        raise SpotkdError(f"{checkpoint}: trained on {len(classes)} classes, and {data_name} has {len(data.classes)}")
    if noted.get("data") == data_name and "preprocessing" in noted and not normalisation_given:
        seen = read_preprocessing(noted["preprocessing"], checkpoint)
        if (tuple(seen.mean), tuple(seen.std)) != (tuple(data.mean), tuple(data.std)):
            raise SpotkdError(
                f"{checkpoint}: its images were normalised otherwise than the first teacher's; choose for all: "
                "--data.mean and --data.std"
            )
    return create_model(name, len(data.classes), checkpoint, image_shape=data.image_shape)


def is_guessing(top1: float, images: int, classes: int) -> bool:
    """Whether a network that gets ``top1`` percent of some test images right does no better than guessing would."""
    return _probability_of_guessing(round(top1 * images / 100), images, 1 / classes) >= _SIGNIFICANT


def _probability_of_guessing(hits: int, images: int, chance: float) -> float:
    """How often who always names the commonest class is right at least so often: an exact binomial test."""
    from scipy.stats import binomtest  # slow to import, and needed by nothing else

    return float(binomtest(hits, images, chance, alternative="greater").pvalue)


def sample_of(split: Split) -> Split:
    """At most :data:`IMAGES` of a split, evenly spread; of images that stream by the first ones."""
    count = len(split)
    if count <= IMAGES:
        return split
    evenly = torch.arange(IMAGES) * count // IMAGES
    return split.subset(torch.arange(IMAGES) if split.labels is None else evenly)
