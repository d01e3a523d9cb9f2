"""A trained student taken into use: exported to other formats, run on pictures, shown on the Hub."""

from .export import Exported, export
from .facts import Facts
from .formats import FORMATS, Classifier
from .hub import Page, publish
from .predict import Prediction, open_student, predict, tabled
from .student import Student, load_student

__all__ = [
    "FORMATS",
    "Classifier",
    "Exported",
    "Facts",
    "Page",
    "Prediction",
    "Student",
    "export",
    "load_student",
    "open_student",
    "predict",
    "publish",
    "tabled",
]
