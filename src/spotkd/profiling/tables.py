"""A profile as tables of text, for a terminal."""

from __future__ import annotations

from .measure import Profile

Table = tuple[list[str], list[list[str]]]  # the head, and the rows


def network_table(result: Profile) -> Table:
    """A row a network, the teacher first, with how much smaller than the teacher it is."""
    teacher = result.networks[0]
    head = [
        "network",
        "parameters",
        "GFLOP an image",
        "ms for 1",
        f"ms for {result.batch_size}",
        "activations, MiB",
        "times fewer parameters",
        "times fewer GFLOP",
    ]
    return head, [
        [
            network.name,
            f"{network.parameters / 1e6:.3g} M",
            f"{network.flops / 1e9:.3g}",
            str(network.one),
            str(network.batch),
            f"{network.activations / 2**20:.3g}",
            f"{teacher.parameters / max(1, network.parameters):.3g}",
            f"{teacher.flops / max(1, network.flops):.3g}",
        ]
        for network in result.networks
    ]


def step_table(result: Profile) -> Table:
    """A row a student, distiller and strategy."""
    return ["student", "distiller", "strategy", "ms a step", "times plain KD"], [
        [step.student, step.distiller, step.strategy, str(step.milliseconds), str(step.to_kd)]
        if step.problem is None
        else [step.student, step.distiller, step.strategy, "-", f"does not fit: {step.problem}"]
        for step in result.steps
    ]
