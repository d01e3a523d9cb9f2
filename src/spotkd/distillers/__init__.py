"""WHAT to distil: one file a method, each a pure loss function and a thin module around it."""

from .ab import AB
from .at import AT
from .base import DISTILLERS, Distiller, LogitDistiller, Preparation, Spots
from .cc import CC
from .crd import CRD
from .dist import DIST
from .dkd import DKD
from .factory import DistillerFactory, accepted_features, check_distiller_options, make_distiller, option_names
from .fitnet import FitNet
from .fsp import FSP
from .ft import FT
from .kd import KD
from .kdsvd import KDSVD
from .nst import NST
from .ofd import OFD
from .pkt import PKT
from .reviewkd import ReviewKD
from .rkd import RKD
from .semckd import SemCKD
from .sp import SP
from .vid import VID

__all__ = [
    "AB",
    "AT",
    "CC",
    "CRD",
    "DIST",
    "DISTILLERS",
    "DKD",
    "FSP",
    "FT",
    "KD",
    "KDSVD",
    "NST",
    "OFD",
    "PKT",
    "RKD",
    "SP",
    "VID",
    "Distiller",
    "DistillerFactory",
    "FitNet",
    "LogitDistiller",
    "Preparation",
    "ReviewKD",
    "SemCKD",
    "Spots",
    "accepted_features",
    "check_distiller_options",
    "make_distiller",
    "option_names",
]
