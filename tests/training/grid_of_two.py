"""Two steps of every strategy with every distiller, alone or in a group of processes: ``python -m ... FILE``.

Networks have no statistics of a batch, and whatever compares samples sees those of all processes, so that a group gives
what one process does. Process 0 writes what came out, by cell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor

from spotkd import DISTILLERS, STRATEGIES, Batch, SpotKD
from spotkd.distributed import Shard, use_shard
from spotkd.routing import trust
from spotkd.runtime.collectives import average_gradients

from ..conftest import EQUAL_WIDTH, IMAGE_SHAPE, OPTIONS, TRAINING_LABELS
from .distributed_runs import Plain, group_norm

SIZES = (9, 8)  # of the batches; two processes share the first one unequally
STRATEGY_NAMES = (*STRATEGIES, "trust+balance", "trust:graded=true", "trust+adaptive")
MORE_OPTIONS = {"crd": OPTIONS["crd"] | {"relaxed": True}}  # every sample draws its own negatives
Outcome = dict[str, Tensor]


def cells() -> Iterator[tuple[str, str]]:
    """Strategies and distillers."""
    return product(STRATEGY_NAMES, DISTILLERS)


def build(strategy: str, distiller: str) -> SpotKD:
    """A method whose parts have no BatchNorm, in float64."""
    torch.manual_seed(5)
    teachers = [Plain(4 if distiller in EQUAL_WIDTH else 6, 5) for _ in range(2 if strategy == "confidence" else 1)]
    return SpotKD(
        teachers, Plain(4, 5), distiller, strategy, image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS, gather=True,
        options=MORE_OPTIONS.get(distiller),
    ).double().train()  # fmt: skip


def make_batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    indices = torch.randperm(30, generator=generator)[: SIZES[number]]
    images = torch.randn(len(indices), *IMAGE_SHAPE, generator=generator, dtype=torch.float64)
    return Batch(images, TRAINING_LABELS[indices], indices)


def run_cell(strategy: str, distiller: str, rank: int, processes: int) -> Outcome:
    """The state after each of two steps, by name and number of the step."""
    method = build(strategy, distiller)
    found: Outcome = {}
    method.start_epoch(1, 2)
    for number, size in enumerate(SIZES):
        if number and method.strategy.needs_held_out:
            method.strategy.finish_epoch(1.0)
        if number:
            method.start_epoch(2, 2)
        shard, batch = Shard.of(size, rank, processes, seed=number), make_batch(number)
        own = Batch(*(x[shard.start : shard.stop] for x in batch if x is not None))
        torch.manual_seed(number)
        method.zero_grad()
        with use_shard(shard):
            losses = method(own)
            (losses.total * shard.loss_weight).backward()
        average_gradients(method.parameters())
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad)
        state = {key: value for key, value in method.state_dict().items() if not key.startswith("teacher.")}
        found |= {f"{number} {key}": torch.as_tensor(value).clone() for key, value in state.items()}
        doses = losses.mask.sum(0) / size
        if processes > 1:
            dist.all_reduce(doses)
        found[f"{number} doses"] = doses
    return found


def without_batchnorm() -> None:
    """Wherever a part is made with it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("spotkd") and hasattr(module, "BatchNorm2d"):
            setattr(module, "BatchNorm2d", group_norm)  # noqa: B010


if __name__ == "__main__":
    torch.set_num_threads(1)
    without_batchnorm()
    trust.FEWEST, trust.SEPARATION = 4, 0.0  # so few samples are enough
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if processes > 1:
        dist.init_process_group("gloo")
    outcomes = {f"{s} {d}": run_cell(s, d, rank, processes) for s, d in cells()}
    if not rank:
        torch.save(outcomes, sys.argv[1])
    if processes > 1:
        dist.destroy_process_group()
