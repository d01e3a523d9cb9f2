"""The options of the teacher's outputs, kept on disk and for images that are augmented."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import option


@dataclass(frozen=True)
class CacheOptions:
    """How the teacher's outputs are kept, with --cache_teacher GIB.

    Args:
        folder: keep them on disk there, for resumed runs and for others with the same teacher, images and crops; of
            those in it, what was made of anything else is refused. Unset keeps them in memory until the run ends.
        crops: augment every image in so many ways and no more: epoch e sees those of epoch (e - 1) mod crops + 1. As
            many as there are epochs are what a run sees without; 0 is for images that are not augmented.
        seed: draws the crops; unset takes the run's. To use a folder for several seeds, name that of the first.
        top: keep only so many of the largest logits, in half precision, and one number for all the others together, as
            FKD does; 0 keeps all as they are.
    """

    folder: str | None = option(None, affects="place")
    crops: int = option(0, affects="result", at_least=0)
    seed: int | None = option(None, affects="result", at_least=0, below=2**32)
    top: int = option(0, affects="result", at_least=0)
