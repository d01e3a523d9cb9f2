"""A trained student taken into use: exported to other formats, run on pictures, shown on the Hub."""

from .export import ExportedFile, export
from .formats import FORMATS, Classifier
from .hub import HubPage, publish
from .metadata import StudentMetadata
from .predict import Prediction, open_student, predict, save_predictions
from .student import Student, load_student

__all__ = [
    "FORMATS",
    "Classifier",
    "ExportedFile",
    "HubPage",
    "Prediction",
    "Student",
    "StudentMetadata",
    "export",
    "load_student",
    "open_student",
    "predict",
    "publish",
    "save_predictions",
]

_RENAMED = {
    "Exported": "ExportedFile",
    "Facts": "StudentMetadata",
    "Page": "HubPage",
    "tabled": "save_predictions",
}


def __getattr__(name: str) -> object:
    if name not in _RENAMED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from ..deprecation import warn_renamed

    warn_renamed(f"{__name__}.{name}", _RENAMED[name])
    return globals()[_RENAMED[name]]
