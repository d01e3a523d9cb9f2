"""The training loop, for every method there is."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..config import RunConfig
from ..data import Dataset, Loader
from ..errors import SpotkdError
from ..method import Losses, Method
from ..stages import Batch
from .course import Course
from .device import choose_precision, describe_machine
from .evaluate import evaluate
from .progress import TrainingProgress
from .run import Run, Summary
from .select import Selection


class Meter:
    """Means over an epoch, summed on the device and read only when somebody looks."""

    def __init__(self, spot_names: tuple[str, ...], device: torch.device) -> None:
        self.names = [*(f"loss_{term}" for term in Losses.terms()), "train_top1", *(f"share_{n}" for n in spot_names)]
        precise = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self._sums = torch.zeros(len(self.names), device=device, dtype=precise)
        self._count = 0

    def add(self, losses: Losses, batch: Batch) -> None:
        hits = 100 * (losses.logits.argmax(1) == batch.labels).float().mean()
        terms = torch.stack([*losses[: len(Losses.terms())], hits]).detach()
        self._sums += torch.cat([terms, losses.mask.mean(0)]).to(self._sums.dtype) * len(batch.labels)
        self._count += len(batch.labels)

    def read(self) -> dict[str, float]:
        """Means by name. Waits for the device."""
        values = (self._sums / max(self._count, 1)).tolist()
        return dict(zip(self.names, values, strict=True))


def shares_of(means: dict[str, float]) -> dict[str, float]:
    """The shares of distilled samples by spot, out of the means of a meter."""
    return {name.removeprefix("share_"): value for name, value in means.items() if name.startswith("share_")}


def total_of(means: dict[str, float]) -> float:
    """The total loss, out of the means of a meter."""
    return sum(means[f"loss_{term}"] for term in Losses.terms())


def fit(
    method: Method,
    data: Dataset,
    optimizer: Optimizer,
    schedule: LRScheduler,
    fabric: Fabric,
    config: RunConfig,
    run: Run,
    title: str,
) -> Summary:
    """Train ``method`` for ``config.epochs`` epochs; after each, evaluate its student and write a checkpoint.

    Raises:
        SpotkdError: a loss term was not finite.
    """
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    common: dict[str, Any] = {
        "seed": config.seed,
        "device": fabric.device,
        "memory_format": layout,
        "workers": config.data.workers,
    }
    train = Loader(data, data.train, config.batch_size, training=True, **common)
    networks = {"student": method.student}
    if method.trained_teacher is not None:
        networks["teacher"] = method.trained_teacher
    selection = Selection(config.select, data, networks, run)
    name, split = selection.watched
    watched = Loader(data, split, config.eval_batch_size, training=False, **common)
    course = Course(method, data, config, run, common)
    method.to(memory_format=layout)  # type: ignore[call-overload]
    wrapped, optimizer = fabric.setup(method, optimizer)
    board = TensorBoardLogger(run.folder, name="tensorboard", version="")
    seconds = 0.0

    with TrainingProgress(title, config.epochs, len(train), Console(), config.quiet) as progress:
        for epoch in range(1, config.epochs + 1):
            wrapped.train()
            method.start_epoch(epoch, config.epochs)
            meter, started = Meter(method.spot_names, fabric.device), time.perf_counter()
            rates = [group["lr"] for group in optimizer.param_groups]
            for batch in train.epoch(epoch):
                losses = wrapped(batch)
                optimizer.zero_grad()
                fabric.backward(losses.total)
                optimizer.step()
                schedule.step()
                meter.add(losses, batch)
                progress.step(lambda meter=meter: _summary_of(meter))  # type: ignore[misc]
            means = meter.read()
            spent = time.perf_counter() - started
            seconds += spent
            _stop_if_not_finite(means, epoch, run)

            scores = evaluate(method.student, watched, fabric, len(data.classes))
            selection.after(epoch, scores)
            rate = dict(zip(("lr", "lr_policy"), rates, strict=False))
            tested = {f"{name}_top1": scores.top1, f"{name}_top5": scores.top5, f"{name}_loss": scores.loss}
            if method.trained_teacher is not None:
                tested["teacher_top1"] = evaluate(method.trained_teacher, watched, fabric, len(data.classes)).top1
            row = {"epoch": epoch, **rate, **means, **tested, "seconds": spent}
            run.log(row)
            board.log_metrics(row, epoch)
            course.after(epoch)
            run.checkpoint(_state(method, optimizer, schedule, config, epoch))
            progress.epoch(epoch, total_of(means), (name, scores.top1), shares_of(means))
        test = Loader(data, data.test, config.eval_batch_size, training=False, **common)
        last = scores if name == "test" else evaluate(method.student, test, fabric, len(data.classes))
        selection.load_best()
        chosen = last if selection.epoch == config.epochs else evaluate(method.student, test, fabric, len(data.classes))
    board.finalize("success")
    device = f"{fabric.device.type}, {choose_precision(config.precision, fabric.device)}"
    return Summary(
        model=title,
        scores=chosen,
        protocol=selection.protocol,
        epoch=selection.epoch,
        last=last,
        epochs=config.epochs,
        seconds=seconds,
        shares=shares_of(means),
        folder=run.folder,
        device=device,
        machine=describe_machine(fabric.device),
    )


def _summary_of(meter: Meter) -> tuple[float, dict[str, float]]:
    means = meter.read()
    return total_of(means), shares_of(means)


def _stop_if_not_finite(means: dict[str, float], epoch: int, run: Run) -> None:
    broken = [name.removeprefix("loss_") for name, value in means.items() if not math.isfinite(value)]
    if broken:
        good = f"{run.folder / 'last.ckpt'} holds epoch {epoch - 1}" if epoch > 1 else "no epoch was completed"
        raise SpotkdError(
            f"epoch {epoch}: not finite: {', '.join(broken)}; {good}; lower --optim.lr or the weight of that loss"
        )


def _state(
    method: Method, optimizer: Optimizer, schedule: LRScheduler, config: RunConfig, epoch: int
) -> dict[str, Any]:
    weights = method.state_dict()
    if method.trained_teacher is None:  # a frozen teacher has a file of its own
        weights = {key: value for key, value in weights.items() if not key.startswith("teacher.")}
    random: dict[str, Tensor | list[Tensor]] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state_all()
    return {
        "epoch": epoch,
        "method": weights,
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": random,
        "config": asdict(config),
    }
