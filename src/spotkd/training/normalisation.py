"""With which mean and deviation a run normalises its images, where its weights want others than the data set has."""

from __future__ import annotations

from pathlib import Path

from ..data import Dataset, normalised_with, read_preprocessing
from ..errors import tell
from ..models.pretrained import find_pretrained
from ..models.weights import read_metadata


def adopt_normalisation(
    data: Dataset, name: str, network: str, pretrained: bool | str, teacher: str | None, quiet: bool
) -> Dataset:
    """The data set with the mean and deviation that the networks' weights were trained with.

    A teacher that was trained on this data set decides, since it does not change any more; then pretrained weights.

    Args:
        data: the data set.
        name: by which the user knows it.
        network: what is trained.
        pretrained: the weights that it starts from, see :func:`.find_pretrained`; False for none.
        teacher: the teacher's weights; None where there is no teacher.
        quiet: whether nothing is told.

    Raises:
        SpotkdError: unknown weights, or a damaged file.
    """
    mean, std, whose = data.mean, data.std, ""
    if pretrained:
        weights = find_pretrained(network, pretrained)
        mean, std, whose = weights.mean, weights.std, weights.name
        if weights.size != data.image_shape[1:] and not quiet:
            theirs, ours = (" x ".join(map(str, size)) for size in (weights.size, data.image_shape[1:]))
            tell(f"{whose}: its weights are for images of {theirs}, and these have {ours} (--data.image_size)")
    noted = {} if teacher is None else read_metadata(teacher)
    if noted.get("data") == name and "preprocessing" in noted:
        seen = read_preprocessing(noted["preprocessing"], str(teacher))
        mean, std, whose = seen.mean, seen.std, str(teacher)
    if (mean, std) == (data.mean, data.std):
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
