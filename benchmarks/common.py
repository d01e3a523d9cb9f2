"""What the benchmarks share: a batch of noise, steps timed in turn, the highest use of memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from spotkd import Batch

CLASSES, SHAPE = 100, (3, 32, 32)  # classes; shape of an image
Step = Callable[[], object]


def a_batch(samples: int, size: int, device: str) -> Batch:
    """Noise for ``size`` of ``samples`` images, channels last, whose labels take turns."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(samples, generator=generator)[:size]
    images = torch.randn(size, *SHAPE, generator=generator).to(device, memory_format=torch.channels_last)
    return Batch(images, (indices % CLASSES).to(device), indices.to(device))


def timed(step: Step, device: str) -> float:
    """Seconds until the result is there; on one thread of a CPU the processor's, which neighbours cannot lengthen."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def in_turn(steps: Mapping[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of ``rounds`` steps of each, taken in turn after two that warm up."""
    times: dict[str, list[float]] = {key: [] for key in steps}
    for turn in range(rounds + 2):
        for key, step in steps.items():
            spent = 1e3 * timed(step, device)
            if turn > 1:
                times[key].append(spent)
    return times


def ratios(times: Mapping[str, list[float]], one: str, other: str) -> str:
    """Median of the rounds' ratios, with minimum and maximum."""
    values = [a / b for a, b in zip(times[one], times[other], strict=True)]
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def print_peak(step: Step, device: str) -> None:
    """Take three steps and print the highest use of memory so far, in MiB."""
    for _ in range(3):
        step()
    if device == "cuda":
        print(json.dumps(torch.cuda.max_memory_allocated() / 2**20))
        return
    # Not getrusage: its figure is inherited from the parent, which holds all methods.
    status = Path("/proc/self/status").read_text()
    print(json.dumps(int(status.partition("VmHWM:")[2].split()[0]) / 1024))


def memory_of(name: str) -> float:
    """What this script, called once more with ``--memory name``, prints by ``print_peak``."""
    command = [sys.executable, *sys.argv, "--memory", name]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def start_of_peak(device: str) -> int | None:
    """Bytes that are allocated on a GPU now, from where :func:`peak_since` counts; None on other devices."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_since(held: int) -> float:
    """MiB by which the highest allocation exceeds ``held`` bytes."""
    return (torch.cuda.max_memory_allocated() - held) / 2**20
