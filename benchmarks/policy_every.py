"""What it costs and what it saves that the policy learns in every k-th step alone (``policy.every``).

    python benchmarks/policy_every.py accuracy   # resumes: rows that are there are not made again
    python benchmarks/policy_every.py costs
    python benchmarks/policy_every.py table      # both, from the files

Accuracy: SAKD-AT, resnet20 teaches resnet8 to read 100 typefaces of glyph94 for five epochs, with the options of the
plan glyph94-small; the cells stand seed by seed, so that what is finished is always balanced. Costs: resnet56 teaches
resnet20, batch 64, beside plain KD. A step is one in which the policy learns or one in which it does not; both are
timed in turn with a step of plain KD, and ``k`` means the mean of one of the former and ``k - 1`` of the latter.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import a_batch, in_turn
from spotkd.options import DataOptions, DistillOptions, ModelOptions, OptimOptions, PolicyOptions, TrainOptions
from spotkd.routing import PolicyPace
from spotkd.runs.folder import RunFolder
from spotkd.training import distill, train
from step import PAPER, SAMPLES, SHIPPED, method_of, shipped

EVERY = (1, 2, 4, 8)
POLICY = PolicyOptions(
    schedule="published", bias="scaled", lr=0.1, target_share=0.6, target_weight=3.0
)  # of the plan glyph94-small
COLUMNS = ("seed", "strategy", "every", "test_top1", "shares")


def append(path: Path, header: tuple[str, ...], row: tuple[Any, ...]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, row] if is_new else [row])


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure_accuracy(arguments: argparse.Namespace) -> None:
    """Train what has no row yet: for every seed the student at every spot, and SAKD's with each pace."""
    path = arguments.out / "accuracy.csv"
    common: dict[str, Any] = {
        "data": DataOptions(limit=9400), "batch_size": 32, "epochs": 5, "quiet": True,
        "optim": OptimOptions(lr=0.2, schedule="onecycle"), "logger": "none",
    }  # fmt: skip
    teacher = arguments.runs / "teacher"
    train(TrainOptions(**common, model=ModelOptions("resnet20"), out=str(teacher), resume="auto"))
    sakd = DistillOptions(
        **common, teacher=ModelOptions("resnet20", str(teacher)), student=ModelOptions("resnet8"), distiller="at",
        inspect_every=0, resume="auto",
    )  # fmt: skip
    done = {(row["seed"], row["strategy"], row["every"]) for row in read(path)}
    for seed in range(1, arguments.seeds + 1):
        for strategy, every in (("always", 1), *(("adaptive", every) for every in EVERY)):
            if (str(seed), strategy, str(every)) in done:
                continue
            name = arguments.runs / f"{strategy}-{every}-seed{seed}"
            policy = replace(POLICY, every=every) if strategy == "adaptive" else PolicyOptions()
            found = distill(replace(sakd, seed=seed, strategy=strategy, policy=policy, out=str(name)))
            means = RunFolder(found.folder).metrics
            shares = " ".join(f"{values[-1]:.3f}" for key, values in means.items() if key.startswith("share_"))
            append(path, COLUMNS, (seed, strategy, every, f"{found.scores.top1:.2f}", shares))


def measure_costs(arguments: argparse.Namespace) -> None:
    """Seconds of a step over those of plain KD: one in which the policy learns, and one in which it does not."""
    path = arguments.out / "costs.csv"
    path.unlink(missing_ok=True)
    torch.set_num_threads(1)
    asked = argparse.Namespace(device="cpu", pair=["resnet56", "resnet20"])
    batch = a_batch(SAMPLES, 64, "cpu")
    kd = shipped(method_of("kd", asked, SHIPPED, "always"), batch, "32")
    for name in PAPER:
        learning, deciding = method_of(name, asked, SHIPPED), method_of(name, asked, SHIPPED)
        deciding.pace = PolicyPace(settling=0, bound=math.inf, every=2**31)
        steps = {"kd": kd, "learns": shipped(learning, batch, "32"), "decides": shipped(deciding, batch, "32")}
        times = in_turn(steps, arguments.rounds, "cpu")
        over = {
            key: statistics.median(a / b for a, b in zip(times[key], times["kd"], strict=True))
            for key in ("learns", "decides")
        }
        append(path, ("distiller", *over), (name, *(f"{value:.3f}" for value in over.values())))


def print_tables(arguments: argparse.Namespace) -> None:
    """Both files as Markdown."""
    rows = read(arguments.out / "accuracy.csv")
    base = {
        row["seed"]: float(row["test_top1"]) for row in rows if (row["strategy"], row["every"]) == ("adaptive", "1")
    }
    print("| where | test top-1 of each seed, % | mean | over every step | smallest share |\n|---|---|---|---|---|")
    for strategy, every in (("always", 1), *(("adaptive", every) for every in EVERY)):
        mine = [row for row in rows if (row["strategy"], row["every"]) == (strategy, str(every))]
        tops = [float(row["test_top1"]) for row in mine]
        over = [float(row["test_top1"]) - base[row["seed"]] for row in mine if row["seed"] in base]
        name = "at every spot" if strategy == "always" else f"SAKD, `policy.every` {every}"
        shares = min(float(share) for row in mine for share in row["shares"].split())
        spread = f" (-+{statistics.stdev(over):.2f})".replace("-+", "±") if len(over) > 1 and any(over) else ""
        cells = (", ".join(f"{top:.2f}" for top in tops), f"{statistics.mean(tops):.2f}",
                 f"{statistics.mean(over):+.2f}{spread}", f"{shares:.2f}")  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n| distiller | {' | '.join(f'k = {every}' for every in EVERY)} |\n|---|{'---|' * len(EVERY)}")
    for row in read(arguments.out / "costs.csv"):
        learns, decides = float(row["learns"]), float(row["decides"])
        means = [(learns + (every - 1) * decides) / every for every in EVERY]
        print(f"| {row['distiller']} | {' | '.join(f'{value:.2f}' for value in means)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "costs", "table"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "policy-every")
    parser.add_argument("--runs", type=Path, default=Path("runs/policy-every"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    {"accuracy": measure_accuracy, "costs": measure_costs, "table": print_tables}[chosen.what](chosen)
