"""Time and memory of one SAKD step with each distiller, relative to RKD's.

    python benchmarks/distillers.py                                  # every distiller, resnet56 to resnet20
    python benchmarks/distillers.py --pair ResNet50 vgg8 --only nst rkd --rounds 3
    python benchmarks/distillers.py --device cuda

Times: all methods live in one process and take their steps in turn, so that a drift of the machine's speed meets all;
the figure is the median over the rounds of the ratio to RKD's step of the same round, with minimum and maximum.
Memory: the highest resident set (Linux; on CUDA the highest allocation) of a process of its own that takes three steps;
KD's, which has neither spots nor parts of its own, is the one to compare with.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch

from common import CLASSES, SHAPE, a_batch, in_turn, memory_of, print_peak, ratios
from spotkd import DISTILLERS, Batch, SpotKD, create_model


def method_of(name: str, arguments: argparse.Namespace) -> SpotKD:
    torch.manual_seed(0)
    teacher, student = (create_model(network, CLASSES).to(arguments.device) for network in arguments.pair)
    labels = torch.arange(arguments.samples, device=arguments.device) % CLASSES
    method = SpotKD(teacher, student, name, image_shape=SHAPE, labels=labels, policy_bias=1.0).train()
    return method.to(arguments.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def step(method: SpotKD, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    loss = method(batch).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def step_of(method: SpotKD, batch: Batch) -> partial[None]:
    return partial(step, method, batch, torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=["resnet56", "resnet20"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--only", nargs="+", default=list(DISTILLERS), metavar="DISTILLER")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50_000, help="training samples, for memories")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batch = a_batch(arguments.samples, arguments.batch, arguments.device)
    if arguments.memory:
        print_peak(step_of(method_of(arguments.memory, arguments), batch), arguments.device)
        return
    methods = {name: method_of(name, arguments) for name in dict.fromkeys(["rkd", *arguments.only])}
    steps = {name: step_of(method, batch) for name, method in methods.items()}
    times = in_turn(steps, arguments.rounds, arguments.device)
    print("| distiller | ms a step | to RKD's (min to max) | peak MiB | own parameters |")
    print("|---|---|---|---|---|")
    for name, method in methods.items():
        own = sum(p.numel() for p in (method.distiller or method.logit_distiller).parameters())
        print(
            f"| {name} | {statistics.median(times[name]):.0f} | {ratios(times, name, 'rkd')} | {memory_of(name):.0f} "
            f"| {own:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
