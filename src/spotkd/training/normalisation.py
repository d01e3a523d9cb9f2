"""With which mean and deviation a run normalises its images, where its weights want others than the data set has."""

from __future__ import annotations

from pathlib import Path

from ..data import Dataset, measure_normalisation, normalised_with, read_preprocessing
from ..errors import tell
from ..models.pretrained import find_pretrained
from ..models.weights import read_metadata


def adopt_normalisation(
    data: Dataset,
    name: str,
    network: str,
    pretrained: bool | str,
    checkpoint: str | None,
    teacher: str | None,
    quiet: bool,
) -> Dataset:
    """The data set with the mean and deviation that the networks' weights were trained with.

    A teacher that was trained on this data set decides, since it does not change any more; then pretrained weights.
    A set that borrows ImageNet's takes those of any weights that note them; where there are no weights at all, its own
    are measured.

    Args:
        data: the data set.
        name: by which the user knows it.
        network: what is trained.
        pretrained: the weights that it starts from, see :func:`.find_pretrained`; False for none.
        checkpoint: the weights that it starts from, as a file; None for none.
        teacher: the teacher's weights; None where there is no teacher.
        quiet: whether nothing is told.

    Raises:
        SpotkdError: unknown weights, or a damaged file or image.
    """
    mean, std, whose = data.mean, data.std, ""
    if pretrained:
        weights = find_pretrained(network, pretrained)
        mean, std, whose = weights.mean, weights.std, weights.name
        if weights.size != data.image_shape[1:] and not quiet:
            theirs, ours = (" x ".join(map(str, size)) for size in (weights.size, data.image_shape[1:]))
            tell(f"{whose}: its weights are for images of {theirs}, and these have {ours} (--data.image_size)")
    files = [file for file in (checkpoint if data.borrowed else None, teacher) if file is not None]
    for file in files:  # the teacher is the last
        noted = read_metadata(file)
        if "preprocessing" in noted and (data.borrowed or noted.get("data") == name):
            seen = read_preprocessing(noted["preprocessing"], file)
            mean, std, whose = seen.mean, seen.std, file
    if data.borrowed and not whose:
        if not files:
            return measure_normalisation(data, quiet)
        whose = f"ImageNet, since {files[-1]} notes nothing else"
    if (mean, std) == (data.mean, data.std) and not data.borrowed:
        return data
    chosen = normalised_with(data, mean, std)
    if not quiet:
        told = (" ".join(f"{number:.3g}" for number in numbers) for numbers in (chosen.mean, chosen.std))
        tell(f"images are normalised as for {whose}: mean {', deviation '.join(told)} (--data.mean, --data.std)")
    return chosen


def normalised_as_noted(data: Dataset, checkpoint: str | Path) -> Dataset:
    """The data set with the mean and deviation that a weights file notes; as it is where the file notes none.

    Raises:
        SpotkdError: the file is missing or damaged.
    """
    noted = read_metadata(checkpoint)
    if "preprocessing" not in noted:
        return data
    seen = read_preprocessing(noted["preprocessing"], str(checkpoint))
    return data if (seen.mean, seen.std) == (data.mean, data.std) else normalised_with(data, seen.mean, seen.std)
