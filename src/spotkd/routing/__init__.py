"""WHERE to distil: the policy network, the strategies that use it or do without, and the routing network."""

from .network import RoutingNetwork
from .policy import PolicyNetwork, scaled_bias, straight_through
from .strategies import STRATEGIES, Decisions, Strategy

__all__ = ["STRATEGIES", "Decisions", "PolicyNetwork", "RoutingNetwork", "Strategy", "scaled_bias", "straight_through"]
