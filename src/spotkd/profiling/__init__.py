"""Which student to choose: size, arithmetic, speed and memory of networks, and what a step of distillation costs.

Times are measured on this machine, everything in turn round by round, so that a drift of its speed meets all; medians
with the lowest and the highest. Arithmetic is PyTorch's count of convolutions and matrix products, two operations a
multiplication. Memory is that of the activations: of all tensors that a forward pass makes, as many bytes as are alive
at once.
"""

from .files import write_csv, write_json
from .measure import Profile, profile
from .networks import NetworkProfile, activation_bytes, count_flops, count_parameters
from .steps import StepCost
from .tables import network_table, step_table
from .timing import interleaved

__all__ = [
    "NetworkProfile",
    "Profile",
    "StepCost",
    "activation_bytes",
    "count_flops",
    "count_parameters",
    "interleaved",
    "network_table",
    "profile",
    "step_table",
    "write_csv",
    "write_json",
]
