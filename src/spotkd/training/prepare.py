"""The phase of training that some distillers need before distillation begins: FT's paraphraser, AB's initialisation."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from ..config import DistillConfig, PreparationConfig
from ..data import Dataset, Loader
from ..distributed import use_shard
from ..errors import SpotkdError, one_line
from ..method import SpotKD
from .averages import average_gradients, average_statistics, total
from .checkpoint import read_sealed, set_random_state
from .progress import TrainingProgress
from .run import PREPARATION, Run
from .state import learnt, load_learnt

PREPARED = "prepared.ckpt"


def check_preparation(method: SpotKD, config: PreparationConfig) -> None:
    """Options of the preparation must mean something.

    Raises:
        SpotkdError: the distiller has no preparation, or a number is out of range.
    """
    given = [name for name in ("epochs", "lr", "checkpoint") if getattr(config, name) is not None]
    if method.preparation is None and given:
        raise SpotkdError(f"preparation.{given[0]} has no effect: this distiller is ready without preparation")
    if config.checkpoint is not None and len(given) > 1:
        raise SpotkdError(
            f"preparation.{given[0]} has no effect: preparation.checkpoint takes the result of another run"
        )
    if config.epochs is not None and config.epochs < 0:
        raise SpotkdError(f"preparation.epochs is {config.epochs}: it must be at least 0")
    if config.lr is not None and not 0 < config.lr < math.inf:
        raise SpotkdError(f"preparation.lr is {config.lr}: it must be above 0")


def prepare(method: SpotKD, data: Dataset, fabric: Fabric, config: DistillConfig, run: Run) -> None:
    """Prepare the distiller, or take over what an earlier run prepared; leaves ``prepared.ckpt`` in the run folder.

    Raises:
        SpotkdError: the loss is not finite, or the checkpoint belongs to other networks or another distiller.
    """
    preparation, chosen = method.preparation, config.preparation
    if preparation is None:
        return
    if run.state is not None and run.state["phase"] != PREPARATION:
        return  # what it learnt is part of the state that training goes on from
    noted = {"distiller": config.distiller, "teacher": config.teacher.name, "student": config.student.name}
    if chosen.checkpoint is not None:
        _take_over(method, chosen.checkpoint, noted)
    else:
        epochs = max(round(config.epochs * preparation.share), 1) if chosen.epochs is None else chosen.epochs
        method.to(fabric.device).train()
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        loader = Loader(
            data,
            data.train,
            config.batch_size,
            training=True,
            seed=config.seed,
            device=fabric.device,
            memory_format=layout,
            workers=config.data.workers,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        )
        done, steps, summed = 0, 0, torch.zeros((), device=fabric.device)
        if run.state is not None:
            done, steps = run.state["epoch"], run.state["step"]
        with (
            method.preparing() as parameters,
            TrainingProgress(preparation.what, epochs, len(loader), Console(), config.quiet, done, steps) as progress,
        ):
            optimizer = torch.optim.SGD(
                parameters,
                lr=preparation.lr if chosen.lr is None else chosen.lr,
                momentum=preparation.momentum,
                weight_decay=preparation.weight_decay,
            )
            spent = 0.0
            if run.state is not None:
                spent = _go_on(run.state, method, optimizer, summed)

            def state() -> dict[str, Any]:
                return {
                    "phase": PREPARATION,
                    "epoch": done,
                    "step": steps,
                    "spent": spent,
                    "summed": summed,
                    "method": learnt(method),
                    "optimizer": optimizer.state_dict()["state"],
                }

            for epoch in range(done + 1, epochs + 1):
                started = time.perf_counter() - spent
                for batch in loader.epoch(epoch, skip=steps):
                    with use_shard(loader.shard(epoch, steps)) as shard:
                        with fabric.autocast():
                            loss = method.preparation_loss(batch)
                        optimizer.zero_grad()
                        fabric.backward(loss * shard.loss_weight)
                    average_gradients(parameters)
                    optimizer.step()
                    average_statistics(method, shard)
                    summed += total(loss.detach() * shard.effective_size)
                    progress.step(lambda loss=loss: {"loss_preparation": float(loss.detach())})  # type: ignore[misc]
                    steps, spent = steps + 1, time.perf_counter() - started
                    run.after_step(state)
                mean = float(summed) / len(data.train)
                if not math.isfinite(mean):
                    raise SpotkdError(
                        f"preparation, epoch {epoch}: the loss is not finite; {run.last_good()}; lower --preparation.lr"
                    )
                run.log({"epoch": epoch, "loss": mean, "seconds": spent}, "preparation.csv")
                progress.epoch(epoch, {"loss_preparation": mean})
                done, steps, spent = epoch, 0, 0.0
                summed.zero_()
                run.checkpoint(state())
    parts = {name: part.state_dict() for name, part in _prepared_parts(method).items()}
    run.keep(PREPARED, {"prepared": parts, "noted": noted})


def _go_on(state: dict[str, Any], method: SpotKD, optimizer: torch.optim.Optimizer, summed: torch.Tensor) -> float:
    """Put everything where an interrupted preparation left it; returns the seconds spent on the epoch at work.

    Raises:
        SpotkdError: the state belongs to something else.
    """
    try:
        load_learnt(method, state["method"])
        optimizer.load_state_dict({"state": state["optimizer"], "param_groups": optimizer.state_dict()["param_groups"]})
        summed.copy_(state["summed"])
        set_random_state(state["random"])
        return float(state["spent"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SpotkdError(f"the run cannot go on from its checkpoint: {one_line(error)[:300]}") from error


def _prepared_parts(method: SpotKD) -> dict[str, nn.Module]:
    """What a preparation changes, by name."""
    if method.distiller is None or method.preparation is None:
        return {}
    student: dict[str, nn.Module] = {"student": method.student} if method.preparation.trains_student else {}
    return {"distiller": method.distiller} | student


def _take_over(method: SpotKD, checkpoint: str, noted: dict[str, str]) -> None:
    path = Path(checkpoint)
    path = path / PREPARED if path.is_dir() else path
    state = read_sealed(path)
    if not {"prepared", "noted"} <= set(state):
        raise SpotkdError(f"{path}: not a preparation of spotkd; 'spotkd distill' leaves {PREPARED} in a run folder")
    for key, value in noted.items():
        if state["noted"].get(key) != value:
            raise SpotkdError(f"{path}: prepared for {key} {state['noted'].get(key)}, and this run has {value}")
    parts, found = _prepared_parts(method), state["prepared"]
    try:
        for name, part in parts.items():
            part.load_state_dict(found[name])
    except (RuntimeError, KeyError) as error:
        raise SpotkdError(f"{path}: does not fit the networks of this run ({one_line(error)[:300]})") from error
