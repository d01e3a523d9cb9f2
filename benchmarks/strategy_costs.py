"""What a step costs under each strategy, over `always`: AT, resnet20 teaches resnet8, 16 pixels, batch 64.

    python benchmarks/strategy_costs.py --out benchmarks/results/study/costs.csv

Every round takes some steps of each strategy in turn, so that what else runs on the machine troubles all alike; the
figure is the median over the rounds of processor time, on one thread, over that of ``always`` in the same round.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch

from spotkd.method import SpotKD
from spotkd.models import create_model
from spotkd.routing import STRATEGIES
from spotkd.stages import Batch

SIZE, CLASSES, IMAGES = 16, 94, 64
BASE = "always"
VALUES = {"constant": "constant:0.5", "dual": "dual:0.5", "expert_choice": "expert_choice:0.5"}  # where one is needed


class Stepper:
    """One method and its optimizer."""

    def __init__(self, strategy: str, distiller: str) -> None:
        torch.manual_seed(0)
        teacher, student = create_model("resnet20", CLASSES), create_model("resnet8", CLASSES)
        self.method = SpotKD(teacher, student, distiller, strategy, image_shape=(3, SIZE, SIZE)).train()
        self.optimizer = torch.optim.SGD(self.method.parameter_groups(0.01), momentum=0.9)
        self.method.start_epoch(1, 10)

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.method(batch).total.backward()
        self.optimizer.step()


def measure(strategies: list[str], distiller: str, rounds: int, steps: int) -> dict[str, float]:
    """Median cost of a step over that of ``always``, by strategy."""
    steppers = {name: Stepper(VALUES.get(name, name), distiller) for name in strategies}
    batch = Batch(torch.randn(IMAGES, 3, SIZE, SIZE), torch.randint(CLASSES, (IMAGES,)), torch.arange(IMAGES))
    found: dict[str, list[float]] = {name: [] for name in strategies}
    for number in range(rounds + 1):
        for name, stepper in steppers.items():
            started = time.process_time()
            for _ in range(steps):
                stepper.step(batch)
            if number:  # the first round warms up
                found[name].append(time.process_time() - started)
    return {
        name: statistics.median(mine / base for mine, base in zip(times, found[BASE], strict=True))
        for name, times in found.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("costs.csv"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="a round; a multiple of 10 holds each strategy's rhythm")
    parser.add_argument("--distiller", default="at")
    parser.add_argument("--strategies", help="some of them, as trust,wsl; all where it is left out")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = chosen.strategies.split(",") if chosen.strategies else sorted({*STRATEGIES, "trust+balance"})
    names = [BASE, *(name for name in names if name != BASE)]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    costs = measure(names, chosen.distiller, chosen.rounds, chosen.steps)
    with chosen.out.open("w", newline="") as file:
        csv.writer(file).writerows([("strategy", "cost"), *((name, f"{cost:.3f}") for name, cost in costs.items())])
