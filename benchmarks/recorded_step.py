"""Where the time of a recorded step goes on a GPU, beside the step whose kernels are launched one by one.

    python benchmarks/recorded_step.py --only at sp kd

resnet56 to resnet20, batch 64, bfloat16; means of fifty calls. What the host is busy with overlaps with what the device
computes, so a training takes the longer of both.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.utils import get_total_norm

from common import a_batch
from spotkd import Batch, Losses
from spotkd.recording import WARM_UP, RecordedSteps
from step import SAMPLES, Paths, Step, autocast, method_of

CALLS = 50
COLUMNS = (
    "distiller",
    "kernels launched one by one, ms",
    "recorded, ms",
    "of it the host is busy, ms",
    "fused SGD, ms",
    "SGD as it is, ms",
    "norm of the gradient, ms",
    "recording it, s",
)


def milliseconds(step: Step) -> tuple[float, float]:
    """Of the host, and until the device has done it."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(CALLS):
        step()
    host = time.perf_counter() - started
    torch.cuda.synchronize()
    return 1e3 * host / CALLS, 1e3 * (time.perf_counter() - started) / CALLS


def row(name: str, arguments: argparse.Namespace) -> list[str]:
    batch = a_batch(SAMPLES, 64, "cuda")
    method = method_of(name, arguments, Paths(), "always" if name == "kd" else "adaptive")
    fused, plain = (
        torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9, fused=fused) for fused in (True, False)
    )

    def compute(batch: Batch, weight: float) -> Losses:
        with autocast(arguments.precision, "cuda"):
            losses: Losses = method(batch)
        method.zero_grad()
        torch.autograd.backward(losses.total * weight)
        return losses

    steps = RecordedSteps(method, compute, print)
    _, one_by_one = milliseconds(lambda: compute(batch, 1.0).total)
    host, recorded = milliseconds(lambda: steps(batch, 1.0).total)
    others = [milliseconds(lambda optimizer=optimizer: optimizer.step())[1] for optimizer in (fused, plain)]  # type: ignore[misc]
    others.append(milliseconds(lambda: get_total_norm([p.grad for p in method.parameters() if p.grad is not None]))[1])
    started = time.perf_counter()
    steps.start_epoch()
    steps(batch, 1.0)
    torch.cuda.synchronize()
    spent = time.perf_counter() - started
    return [name, *(f"{value:.2f}" for value in (one_by_one, recorded, host, *others, spent))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=["resnet56", "resnet20"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--only", nargs="+", default=["at", "sp", "kd"], metavar="DISTILLER")
    parser.add_argument("--precision", choices=["32", "bf16-mixed"], default="bf16-mixed")
    parser.set_defaults(device="cuda")
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in arguments.only:
        print(f"| {' | '.join(row(name, arguments))} |", flush=True)


if __name__ == "__main__":
    main()
