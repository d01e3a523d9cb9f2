"""What a strategy costs: the time of a training step under each, over that of ``always``.

    python benchmarks/strategy_costs.py --distillers kd at sp rkd --out benchmarks/results/strategy-costs.csv

All strategies of a distiller take turns in one process, and the median of the ratios of their processor times is
given, which other work on the machine hardly moves. ``every:K`` is SAKD with a policy that learns in each K-th step.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from pathlib import Path

import torch

from spotkd import STRATEGIES, Batch, SpotKD, create_model
from spotkd.routing import PolicyPace

PAIRS = {"small": ("resnet20", "resnet8", 84, 16), "cifar": ("resnet56", "resnet20", 100, 32)}
COMBINED = ("trust+balance", "every:2", "every:4", "every:8")


def make(pair: str, distiller: str, strategy: str) -> tuple[SpotKD, torch.optim.Optimizer, Batch]:
    torch.manual_seed(0)
    teacher, student, classes, size = PAIRS[pair]
    name, _, every = strategy.partition("every:")
    pace = PolicyPace(settling=0, bound=math.inf, every=int(every)) if every else None
    method = SpotKD(
        create_model(teacher, classes), create_model(student, classes), distiller, "adaptive" if every else name,
        image_shape=(3, size, size), labels=torch.arange(8000) % classes, pace=pace,
    ).train()  # fmt: skip
    method.start_epoch(1, 4)
    optimizer = torch.optim.SGD(method.parameter_groups(1e-3), momentum=0.9)
    indices = torch.randperm(8000)[:64]
    return method, optimizer, Batch(torch.randn(64, 3, size, size), indices % classes, indices)


def measure(
    pair: str, distiller: str, strategies: list[str], rounds: int, steps: int
) -> dict[str, tuple[float, float]]:
    """For every strategy the median ratio to ``always``, and the milliseconds of its step."""
    made = {name: make(pair, distiller, name) for name in strategies}
    times: dict[str, list[float]] = {name: [] for name in strategies}
    for turn in range(rounds + 1):  # the first one warms up
        for name, (method, optimizer, batch) in made.items():
            started = time.process_time()
            for _ in range(steps):
                optimizer.zero_grad()
                method(batch).total.backward()
                optimizer.step()
            if turn:
                times[name].append((time.process_time() - started) / steps)
    ratios = {n: statistics.median(x / y for x, y in zip(t, times["always"], strict=True)) for n, t in times.items()}
    return {name: (ratios[name], 1000 * statistics.median(times[name])) for name in strategies}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distillers", nargs="+", default=["kd", "at", "sp", "rkd"])
    parser.add_argument(
        "--strategies", nargs="+", default=["always", *(n for n in STRATEGIES if n != "always"), *COMBINED]
    )
    parser.add_argument("--pair", choices=PAIRS, default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="in a turn; a multiple of 8 for every:8")
    parser.add_argument("--out", type=Path, default=Path("strategy-costs.csv"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    columns = {d: measure(chosen.pair, d, chosen.strategies, chosen.rounds, chosen.steps) for d in chosen.distillers}
    with chosen.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["strategy", *(f"{d} {what}" for d in columns for what in ("ratio", "ms"))])
        for name in chosen.strategies:
            writer.writerow([name, *(f"{x:.3g}" for d in columns for x in columns[d][name])])
    print("| strategy | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in chosen.strategies:
        print(f"| `{name}` | " + " | ".join(f"{columns[d][name][0]:.2f}" for d in columns) + " |")
