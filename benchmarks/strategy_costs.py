"""What a step costs under each strategy, over `always`: AT, resnet20 teaches resnet8, 16 pixels, batch 64.

    python benchmarks/strategy_costs.py --out benchmarks/results/study/costs.csv

Every round takes some steps of each strategy in turn, in an order of its own, so that what else runs on the machine
troubles all alike; the figure is the median over the rounds of processor time, on one thread, over that of `always` in
the same round, beside the quartiles. `confidence` has two teachers and is compared with `always` of both; `semckd` is a
distiller, whose weights are its own: it is compared with AT.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import time
from pathlib import Path

import torch

from spotkd.method import SpotKD
from spotkd.models import create_model
from spotkd.routing import STRATEGIES
from spotkd.stages import Batch

SIZE, CLASSES, IMAGES = 16, 94, 64
BASE, PAIR = "always", "always, two teachers"
MORE = ("trust+balance", PAIR, "semckd")
VALUES = {"constant": "constant:0.5", "dual": "dual:0.5", "expert_choice": "expert_choice:0.5"}  # where one is needed


class Stepper:
    """One method and its optimizer."""

    def __init__(self, name: str, distiller: str) -> None:
        torch.manual_seed(0)
        teachers = [create_model("resnet20", CLASSES) for _ in range(2 if name in (PAIR, "confidence") else 1)]
        student = create_model("resnet8", CLASSES)
        strategy = VALUES.get(name, BASE if name in (PAIR, "semckd") else name)
        distiller = "semckd" if name == "semckd" else distiller
        self.method = SpotKD(teachers, student, distiller, strategy, image_shape=(3, SIZE, SIZE)).train()
        self.optimizer = torch.optim.SGD(self.method.parameter_groups(0.01), momentum=0.9)
        self.method.start_epoch(1, 10)

    def finish_epoch(self) -> None:
        """An epoch was complete: what changes with epochs is under way."""
        if self.method.strategy.needs_held_out:
            self.method.strategy.finish_epoch(1.0)
        self.method.start_epoch(2, 10)

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.method(batch).total.backward()
        self.optimizer.step()


def measure(names: list[str], distiller: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """The cost of a step over that of ``always`` in every round, by strategy."""
    steppers = {name: Stepper(name, distiller) for name in names}
    batch = Batch(torch.randn(IMAGES, 3, SIZE, SIZE), torch.randint(CLASSES, (IMAGES,)), torch.arange(IMAGES))
    times: dict[str, list[float]] = {name: [] for name in names}
    dice = random.Random(0)
    for number in range(rounds + 1):
        for name in dice.sample(names, len(names)):
            started = time.process_time()
            for _ in range(steps):
                steppers[name].step(batch)
            if number:
                times[name].append(time.process_time() - started)
            else:  # the first round warms up
                steppers[name].finish_epoch()
    bases = {"confidence": PAIR}
    return {
        name: [mine / base for mine, base in zip(each, times[bases.get(name, BASE)], strict=True)]
        for name, each in times.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("costs.csv"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="a round; a multiple of 10 holds each strategy's rhythm")
    parser.add_argument("--distiller", default="at")
    parser.add_argument("--strategies", help="some of them, as trust,wsl; all where it is left out")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = chosen.strategies.split(",") if chosen.strategies else sorted({*STRATEGIES, *MORE})
    names += [PAIR] if "confidence" in names and PAIR not in names else []
    names = [BASE, *(name for name in names if name != BASE)]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    costs = measure(names, chosen.distiller, chosen.rounds, chosen.steps)
    with chosen.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("strategy", "cost", "quarter", "three_quarters", "rounds"))
        for name, found in costs.items():
            quartiles = statistics.quantiles(found, n=4)
            writer.writerow((name, *(f"{x:.3f}" for x in (quartiles[1], quartiles[0], quartiles[2])), len(found)))
