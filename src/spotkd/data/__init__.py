"""Data sets: images in memory as uint8, with batched augmentation on the training device."""

from .glyph94 import load_glyph94
from .images import DATASETS, Dataset, ImageSet
from .loader import Loader, augment, prepare

__all__ = ["DATASETS", "Dataset", "ImageSet", "Loader", "augment", "load_glyph94", "prepare"]
