"""WHAT to distil: one file a method, each a pure loss function and a thin module around it."""

from .at import AT
from .base import DISTILLERS, Distiller, LogitDistiller
from .fitnet import FitNet
from .kd import KD
from .rkd import RKD
from .sp import SP

__all__ = ["AT", "DISTILLERS", "KD", "RKD", "SP", "Distiller", "FitNet", "LogitDistiller"]
