"""WHERE to distil: the policy network, the strategies that use it or do without, and the routing network."""

from . import balanced, cohort, confidence, constant, dual, ea, expert_choice, first_half, l2t, top_share, trust, wsl  # noqa: F401  # they register themselves
from .factory import Combined, make_strategy
from .network import RoutingNetwork
from .policy import PolicyNetwork, PolicyPace, scaled_bias, scaled_decay, straight_through
from .strategies import STRATEGIES, Decisions, Draw, Evidence, Strategy

__all__ = [
    "STRATEGIES",
    "Combined",
    "Decisions",
    "Draw",
    "Evidence",
    "PolicyNetwork",
    "PolicyPace",
    "RoutingNetwork",
    "Strategy",
    "make_strategy",
    "scaled_bias",
    "scaled_decay",
    "straight_through",
]
