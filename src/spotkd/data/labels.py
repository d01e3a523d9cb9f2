"""Labels of a split, as they must be."""

from __future__ import annotations

from torch import Tensor

from ..errors import SpotkdError


def check_labels(labels: Tensor, images: int, classes: int, name: str, title: str) -> None:
    """Labels are indices ``(N,)`` of the classes, one for each image.

    Raises:
        SpotkdError: they are not.
    """
    if labels.is_floating_point() or labels.dim() != 1:
        given = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise SpotkdError(f"{name}: labels of {title} images are {given}: give class indices (N,)")
    if len(labels) != images:
        raise SpotkdError(f"{name}: has {images} {title} images and {len(labels)} labels")
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < classes:
            raise SpotkdError(
                f"{name}: a {title} image has label {label}, and the {classes} classes are 0 to {classes - 1}"
            )
