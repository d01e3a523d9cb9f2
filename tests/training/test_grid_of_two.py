"""Every strategy with every distiller in two processes that share their batches, against one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from .grid_of_two import STRATEGY_NAMES, Outcome, cells

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-6  # masks are in single precision where no strategy has a reason for more
AHEAD = "l2t"  # each process looks ahead on its own samples, see its page


def outcomes(folder: Path, processes: int) -> dict[str, Outcome]:
    common = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    if processes > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    file, members = folder / f"of-{processes}.pt", []
    for rank in range(processes):
        own = common | {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        command = [sys.executable, "-m", "tests.training.grid_of_two", str(file)]
        members.append(subprocess.Popen(command, cwd=ROOT, env=own, stderr=subprocess.PIPE, text=True))
    said = [member.communicate(timeout=300)[1] for member in members]
    assert not any(member.returncode for member in members), said
    found: dict[str, Outcome] = torch.load(file)
    return found


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, relative where values are above 1; NaN stands for nothing seen yet, in both."""
    mine, theirs = (x.double().nan_to_num(-99) for x in (found, expected))
    apart = (mine - theirs).abs() / theirs.abs().clamp(min=1)
    return float(apart.max()) if apart.numel() else 0.0


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_do_what_one_does_with_every_strategy_and_distiller(tmp_path: Path) -> None:
    alone, together = (outcomes(tmp_path, processes) for processes in (1, 2))
    assert list(alone) == list(together) == [f"{strategy} {distiller}" for strategy, distiller in cells()]
    differing: dict[str, float] = {}
    for cell, expected in alone.items():
        assert together[cell].keys() == expected.keys(), cell
        looks_ahead = cell.startswith(AHEAD)
        compared = [key for key in expected if not looks_ahead or key.startswith("0 student.")]
        differing |= {
            f"{cell}: {key}": apart
            for key in compared
            if (apart := difference(together[cell][key], expected[key])) > TOLERANCE
        }
        assert not looks_ahead or difference(together[cell]["0 strategy.gate.bias"], torch.ones(())) > 0
    assert not differing
    moved = [cell for cell, found in alone.items() if "0 policy.linear.bias" in found and trained(found)]
    assert {cell.split()[0] for cell in moved} >= {"adaptive", "anti", "joint", "dual", "expert_choice"}
    assert {"cohort", "trial", "confidence", AHEAD} < set(STRATEGY_NAMES)


def trained(found: Outcome) -> bool:
    """Whether the policy took the second step: the comparison is of something."""
    return not torch.equal(found["0 policy.linear.bias"], found["1 policy.linear.bias"])
