"""Kills runs at random, many times, and compares what they leave with what an undisturbed run leaves.

    python benchmarks/kills.py --kills 200

Half of the kills come from another process after a random time, the others at chosen places, in the middle of writing
a checkpoint among them (``tests/training/killed_runs.py`` names them). For AT, CRD, FT (with its preparation) and RKD.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.training.killed_runs import main as kill

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--kills", type=int, default=200, help="kills in all")
parser.add_argument("--seed", type=int, default=1, help="of when and where to kill")
options = parser.parse_args()

torch.set_num_threads(1)
warnings.simplefilter("error")
found, rows = [], []
for distiller in ("at", "crd", "ft", "rkd"):
    with tempfile.TemporaryDirectory() as folder:
        mine = kill(distiller, options.kills // 4, Path(folder), options.seed, timed=True)
    found += mine
    rows.append(f"| {distiller} | {options.kills // 4} | {len(mine)} |")
print("\n".join(["| distiller | kills | differences |\n|---|---|---|", *rows, "", *found[:20]]))
sys.exit(bool(found))
