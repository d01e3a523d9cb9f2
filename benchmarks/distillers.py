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
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from spotkd import DISTILLERS, Batch, SpotKD, create_model

CLASSES = 100


def a_batch(samples: int, size: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(samples, generator=generator)[:size]
    images = torch.randn(size, 3, 32, 32, generator=generator)
    batch = Batch(
        images.to(device, memory_format=torch.channels_last), (indices % CLASSES).to(device), indices.to(device)
    )
    return batch


def method_of(name: str, pair: list[str], samples: int, device: str) -> SpotKD:
    torch.manual_seed(0)
    teacher, student = (create_model(network, CLASSES).to(device) for network in pair)
    labels = torch.arange(samples, device=device) % CLASSES
    method = SpotKD(teacher, student, name, image_shape=(3, 32, 32), labels=labels, policy_bias=1.0)
    return method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def step(method: SpotKD, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    loss = method(batch).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if batch.images.is_cuda:
        torch.cuda.synchronize()


def peak(device: str) -> float:
    """Highest use of memory so far, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: its figure is inherited from the parent, which holds all methods.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def memory(arguments: argparse.Namespace) -> None:
    """Prints the peaks of a process that takes one distiller's steps."""
    batch = a_batch(arguments.samples, arguments.batch, arguments.device)
    method = method_of(arguments.memory, arguments.pair, arguments.samples, arguments.device)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9)
    for _ in range(3):
        step(method, batch, optimizer)
    print(json.dumps(peak(arguments.device)))


def memory_of(name: str, arguments: argparse.Namespace) -> float:
    options = ["--samples", str(arguments.samples), "--batch", str(arguments.batch), "--device", arguments.device]
    command = [sys.executable, __file__, "--memory", name, "--pair", *arguments.pair, *options]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


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
    if arguments.memory:
        memory(arguments)
        return
    batch = a_batch(arguments.samples, arguments.batch, arguments.device)
    names = dict.fromkeys(["rkd", *arguments.only])
    methods = {name: method_of(name, arguments.pair, arguments.samples, arguments.device).train() for name in names}
    optimizers = {name: torch.optim.SGD(m.parameter_groups(lr=1e-4), momentum=0.9) for name, m in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(arguments.rounds + 1):
        for name, method in methods.items():
            started = time.perf_counter()
            step(method, batch, optimizers[name])
            if turn:  # the first one warms up
                times[name].append(1e3 * (time.perf_counter() - started))
    print("| distiller | ms a step | to RKD's (min to max) | peak MiB | own parameters |")
    print("|---|---|---|---|---|")
    for name, method in methods.items():
        ratios = [own / rkd for own, rkd in zip(times[name], times["rkd"], strict=True)]
        own = sum(p.numel() for p in (method.distiller or method.logit_distiller).parameters())
        print(
            f"| {name} | {statistics.median(times[name]):.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {memory_of(name, arguments):.0f} | {own:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
