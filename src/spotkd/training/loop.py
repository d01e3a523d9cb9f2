"""The training loop, for every method there is."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..compiling import compiled
from ..config import RunConfig
from ..data import Dataset, Loader
from ..distributed import use_shard
from ..method import Method
from .averages import average_gradients, average_statistics
from .course import Course
from .device import choose_precision, describe_machine
from .evaluate import evaluate
from .guard import Guard
from .loggers import Loggers
from .progress import TrainingProgress
from .run import TRAINING, Run, Summary, read_metrics
from .select import Selection
from .state import Meter, Training, changing_buffers, shares_of


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
    """Train ``method`` for ``config.epochs`` epochs, or for what is left of them where ``run`` holds a state.

    After each epoch the student is evaluated and the state saved; inside of it, when ``run`` says so.

    Raises:
        SpotkdError: a loss term or the gradient was not finite; a file cannot be written.
        Stopped: somebody asked for it; the state is saved.
    """
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    common: dict[str, Any] = {
        "seed": config.seed,
        "device": fabric.device,
        "memory_format": layout,
        "workers": config.data.workers,
        "rank": fabric.global_rank,
        "processes": fabric.world_size,
    }
    train = Loader(data, data.train, config.batch_size, training=True, **common)
    networks = {"student": method.student}
    if method.trained_teacher is not None:
        networks["teacher"] = method.trained_teacher
    selection = Selection(config.select, data, networks)
    name, split = selection.watched
    watched = Loader(data, split, config.eval_batch_size, training=False, **common)
    method.to(memory_format=layout)  # type: ignore[call-overload]
    wrapped, optimizer = fabric.setup(method, optimizer)
    training = Training(method, optimizer, schedule, selection, Meter(method.spot_names, fabric.device), data)
    if run.state is not None and run.state["phase"] == TRAINING:
        training.load_state_dict(run.state, len(train))
    at = training.position
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    guard = Guard(run, len(train), config.skip_nonfinite, trained, changing_buffers(method), at.skipped)
    writes = fabric.is_global_zero
    history = read_metrics(run.folder) if writes and at.epochs else {}
    loggers = Loggers(run, config, at.epochs, history, writes)
    course = Course(method, data, config, run, common, loggers)
    tested = history.get(f"{name}_top1", [])
    progress = TrainingProgress(title, config.epochs, len(train), Console(), config.quiet, at.epochs, at.steps, tested)
    scores = None
    full = train.shard(1, 0)  # what this process has of a full batch
    programs = compiled(method, full.stop - full.start, progress.note, config.cuda_graphs)

    def state() -> dict[str, Any]:
        guard.settle()
        at.skipped = guard.skipped
        return training.state_dict()

    with loggers, progress, programs if config.compile else nullcontext():
        for epoch in range(at.epochs + 1, config.epochs + 1):
            wrapped.train()
            method.start_epoch(epoch, config.epochs)
            meter, started = training.meter, time.perf_counter() - at.spent
            if not at.steps:
                at.rates = [group["lr"] for group in optimizer.param_groups]
            for batch in train.epoch(epoch, skip=at.steps):
                guard.begin()
                with use_shard(train.shard(epoch, at.steps)) as shard:
                    losses = wrapped(batch)
                    optimizer.zero_grad()
                    fabric.backward(losses.total * shard.loss_weight)
                average_gradients(method.parameters())
                if guard.passes(losses, batch, epoch, at.steps + 1):
                    optimizer.step()
                    average_statistics(method, shard)
                    meter.add(losses, batch, shard)
                schedule.step()
                at.steps, at.spent = at.steps + 1, time.perf_counter() - started
                progress.step(meter.read)
                run.after_step(state)
            guard.settle()
            means = meter.read()
            scores = evaluate(method.student, watched, fabric, len(data.classes))
            selection.after(epoch, scores)
            rate = dict(zip(("lr", "lr_policy"), at.rates, strict=False))
            evaluated = {f"{name}_top1": scores.top1, f"{name}_top5": scores.top5, f"{name}_loss": scores.loss}
            if method.trained_teacher is not None:
                evaluated["teacher_top1"] = evaluate(method.trained_teacher, watched, fabric, len(data.classes)).top1
            row = {"epoch": epoch, **rate, **means, **evaluated, "seconds": at.spent}
            run.log(row)
            loggers.log(row, epoch)
            course.after(epoch)
            training.next_epoch(means)
            progress.epoch(epoch, means, (name, scores.top1))
            if method.policy_parameters():
                for spot in training.newly_collapsed():
                    share = 100 * at.means[f"share_{spot}"]
                    progress.note(
                        f"note: in epoch {epoch} the policy sent {share:.0f} % of the samples to the teacher at "
                        f"{spot}: it no longer decides there; --policy.target_share and --policy.target_weight may help"
                    )
            run.checkpoint(state())
        test = Loader(data, data.test, config.eval_batch_size, training=False, **common)
        if name != "test" or scores is None:
            scores = evaluate(method.student, test, fabric, len(data.classes))
        selection.load_best()
        chosen = scores
        if selection.epoch != config.epochs:
            chosen = evaluate(method.student, test, fabric, len(data.classes))
    device = f"{fabric.device.type}, {choose_precision(config.precision, fabric.device)}"
    device += f", {fabric.world_size} processes" * (fabric.world_size > 1)
    return Summary(
        model=title,
        scores=chosen,
        protocol=selection.protocol,
        epoch=selection.epoch,
        last=scores,
        epochs=config.epochs,
        seconds=at.seconds,
        shares=shares_of(at.means),
        folder=run.folder,
        device=device,
        machine=describe_machine(fabric.device),
    )
