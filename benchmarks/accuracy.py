"""Are fast and slow paths equally good? SAKD-AT on glyph94, seed by seed, as shipped and with every fast path off.

    python benchmarks/accuracy.py                                    # three seeds, runs in runs/accuracy
    python benchmarks/accuracy.py --seeds 1 2 3 4 5 --epochs 6

One teacher is trained and teaches every student. A run is small: some typefaces, few epochs. As shipped is the
precision that the machine computes in, the teacher folded, channels last; off is float32 and neither. Both sides of a
pair draw the same initialisation, order, augmentation and decisions. Rounding soon sends them apart as chance would, so
what their difference must be compared with is the spread between seeds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from spotkd.data.glyph94 import IMAGES_PER_FACE
from spotkd.options import (
    DataOptions,
    DistillOptions,
    ModelOptions,
    OptimOptions,
    PolicyOptions,
    TrainOptions,
    with_values,
)
from spotkd.training import Summary, distill, train

TEACHER, STUDENT = "resnet20", "resnet8"
OFF: dict[str, Any] = {"precision": "32", "fold": False, "channels_last": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--faces", type=int, default=50, help="typefaces to train on, 94 images each")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    arguments = parser.parse_args()
    common: dict[str, Any] = {
        "data": DataOptions(limit=IMAGES_PER_FACE * arguments.faces),
        "epochs": arguments.epochs,
        "optim": OptimOptions(lr=0.2, schedule="onecycle"),
        "overwrite": True,
        "quiet": True,
    }
    folder = arguments.out / "teacher"
    teacher = train(TrainOptions(**common, out=str(folder), model=ModelOptions(TEACHER)))

    def student(seed: int, name: str, **paths: Any) -> Summary:
        policy = PolicyOptions(
            schedule="published", bias="scaled", target_share=0.6, target_weight=3.0
        )  # as in the demo, which tells why
        run = DistillOptions(**common, out=str(arguments.out / f"{name}-{seed}"), seed=seed, policy=policy, **paths)
        run = with_values(run, {"strategy": "adaptive"})
        run = with_values(run, {"teacher": ModelOptions(TEACHER, str(folder)), "student": ModelOptions(STUDENT)})
        return distill(run)

    images = IMAGES_PER_FACE * arguments.faces
    print(f"{images} images, {arguments.epochs} epochs; {TEACHER} {teacher.scores.top1:.2f} %\n")
    print("| seed | as shipped, top-1 (%) | all off | difference | seconds |\n|---|---|---|---|---|")
    fast, slow = [], []
    for seed in arguments.seeds:
        pair = student(seed, "shipped"), student(seed, "off", **OFF)
        fast.append(pair[0].scores.top1)
        slow.append(pair[1].scores.top1)
        seconds = f"{pair[0].seconds:.0f}, {pair[1].seconds:.0f}"
        print(f"| {seed} | {fast[-1]:.2f} | {slow[-1]:.2f} | {fast[-1] - slow[-1]:+.2f} | {seconds} |", flush=True)
    both = f"{statistics.mean(fast):.2f} | {statistics.mean(slow):.2f}"
    print(f"| mean | {both} | {statistics.mean(fast) - statistics.mean(slow):+.2f} | |")
    if len(fast) > 1:
        differences = [a - b for a, b in zip(fast, slow, strict=True)]
        spreads = " | ".join(f"{statistics.stdev(values):.2f}" for values in (fast, slow, differences))
        print(f"| standard deviation between seeds | {spreads} | |")
    print(f"\nAs shipped: {pair[0].device}; off: {pair[1].device}; {pair[0].machine}.")


if __name__ == "__main__":
    main()
