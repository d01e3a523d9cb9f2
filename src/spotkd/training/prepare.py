"""The phase of training that some distillers need before distillation begins: FT's paraphraser, AB's initialisation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ..data import Loader
from ..distributed import use_shard
from ..errors import RunError, SpotkdError, one_line
from ..method import SpotKD
from ..runs.checkpoint import read_checkpoint
from ..runs.layout import PREPARATION_LOSSES, PREPARED
from ..runs.writer import PREPARATION, RunWriter
from ..runtime.collectives import all_reduce_sum, average_gradients, average_statistics
from ..runtime.device import Device
from ..runtime.random_state import set_random_state
from .guard import Guard
from .progress import TrainingProgress
from .state import changing_buffers, learned_state, load_learned_state


@dataclass(frozen=True)
class PreparationPlan:
    """How a distiller is prepared.

    Attributes:
        names: of the distiller and of both networks, which the result belongs to.
        epochs: passes over the training images.
        lr: learning rate of its SGD; None takes the distiller's own.
        checkpoint: a run folder or a prepared.ckpt, to take the result from instead.
        quiet: show no progress.
        skip_nonfinite: how many of its steps may be left out because a number is not finite.
    """

    names: Mapping[str, str]
    epochs: int
    lr: float | None = None
    checkpoint: str | None = None
    quiet: bool = False
    skip_nonfinite: int = 0


def prepare(method: SpotKD, loader: Loader, device: Device, run: RunWriter, plan: PreparationPlan) -> None:
    """Prepare the distiller, or load what an earlier run prepared; leaves ``prepared.ckpt`` in the run folder.

    Nothing is done where the distiller needs no preparation, or where the run is past it.

    Raises:
        SpotkdError: a loss or gradient is not finite, or the checkpoint belongs to other networks or another distiller.
    """
    if method.preparation is None or (run.state is not None and run.state["phase"] != PREPARATION):
        return
    if plan.checkpoint is not None:
        _load_prepared(method, plan.checkpoint, plan.names)
    else:
        _Preparing(method, loader, device, run, plan).train()
    parts = {name: part.state_dict() for name, part in _prepared_parts(method).items()}
    run.keep(PREPARED, {"prepared": parts, "noted": dict(plan.names)})


class _Preparing:
    """A preparation under way: its position, and its state in the checkpoints of the run."""

    def __init__(self, method: SpotKD, loader: Loader, device: Device, run: RunWriter, plan: PreparationPlan) -> None:
        self.method, self.loader, self.device, self.run, self.plan = method, loader, device, run, plan
        method.to(device.fabric.device).train()
        saved = run.state
        self.done: int = 0 if saved is None else saved["epoch"]
        self.steps: int = 0 if saved is None else saved["step"]
        self.spent, self.summed, self.seen = 0.0, torch.zeros((), device=device.fabric.device), 0

    def train(self) -> None:
        """All epochs, or what is left of them."""
        preparation, plan = self.method.preparation, self.plan
        assert preparation is not None
        steps, title = len(self.loader), preparation.what
        with (
            self.method.preparing() as parameters,
            TrainingProgress(title, plan.epochs, steps, Console(), plan.quiet, self.done, self.steps) as progress,
        ):
            self.parameters = parameters
            self.guard = Guard(
                self.run, steps, plan.skip_nonfinite, parameters, changing_buffers(self.method), "preparation"
            )
            self.optimizer = torch.optim.SGD(
                parameters,
                lr=preparation.lr if plan.lr is None else plan.lr,
                momentum=preparation.momentum,
                weight_decay=preparation.weight_decay,
            )
            if self.run.state is not None:
                self._load_state_dict(self.run.state)
            self.run.begin()
            for epoch in range(self.done + 1, plan.epochs + 1):
                self._train_epoch(epoch, progress)
                self._finish_epoch(epoch, progress)

    def _train_epoch(self, epoch: int, progress: TrainingProgress) -> None:
        fabric, started = self.device.fabric, time.perf_counter() - self.spent
        for batch in self.loader.epoch(epoch, skip=self.steps):
            self.guard.before_step()
            with use_shard(self.loader.shard(epoch, self.steps)) as shard:
                with fabric.autocast():
                    loss = self.method.preparation_loss(batch)
                self.optimizer.zero_grad()
                fabric.backward(loss * shard.loss_weight)
            average_gradients(self.parameters)
            if self.guard.allows({"loss": loss}, batch, (epoch, self.steps + 1)):
                self.optimizer.step()
                average_statistics(self.method, shard)
                self.summed += all_reduce_sum(loss.detach() * shard.effective_size)
                self.seen += shard.total
            progress.step(lambda loss=loss: {"loss_preparation": float(loss.detach())})  # type: ignore[misc]
            self.steps, self.spent = self.steps + 1, time.perf_counter() - started
            self.run.after_step(self._state_dict)

    def _finish_epoch(self, epoch: int, progress: TrainingProgress) -> None:
        self.guard.before_save()  # nothing is written before the steps are known to be sound
        mean = float(self.summed) / max(self.seen, 1)
        self.run.log({"epoch": epoch, "loss": mean, "seconds": self.spent}, PREPARATION_LOSSES)
        progress.epoch(epoch, {"loss_preparation": mean})
        self.done, self.steps, self.spent, self.seen = epoch, 0, 0.0, 0
        self.summed.zero_()
        self.run.checkpoint(self._state_dict())

    def _state_dict(self) -> dict[str, Any]:
        skipped = self.guard.before_save()
        return {
            "phase": PREPARATION,
            "epoch": self.done,
            "step": self.steps,
            "spent": self.spent,
            "summed": self.summed,
            "seen": self.seen,
            "skipped": skipped,
            "method": learned_state(self.method),
            "optimizer": self.optimizer.state_dict()["state"],
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        """Put everything where an interrupted preparation left it.

        Raises:
            RunError: the state belongs to something else.
        """
        groups = self.optimizer.state_dict()["param_groups"]
        try:
            load_learned_state(self.method, state["method"])
            self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
            self.summed.copy_(state["summed"])
            set_random_state(state["random"])
            self.spent = float(state["spent"])
            self.seen = int(state.get("seen", self.steps * self.loader.batch_size))  # former checkpoints do not say
            self.guard.skipped = int(state.get("skipped", 0))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"the run cannot be resumed from its checkpoint: {one_line(error)[:300]}") from error


def _prepared_parts(method: SpotKD) -> dict[str, nn.Module]:
    """What a preparation changes, by name."""
    if method.distiller is None or method.preparation is None:
        return {}
    student: dict[str, nn.Module] = {"student": method.student} if method.preparation.trains_student else {}
    return {"distiller": method.distiller} | student


def _load_prepared(method: SpotKD, checkpoint: str, names: Mapping[str, str]) -> None:
    """Load what another run prepared for the same networks and distiller."""
    path = Path(checkpoint)
    path = path / PREPARED if path.is_dir() else path
    state = read_checkpoint(path)
    if not {"prepared", "noted"} <= set(state):
        raise SpotkdError(f"{path}: not a preparation of spotkd; 'spotkd distill' leaves {PREPARED} in a run folder")
    for key, value in names.items():
        if state["noted"].get(key) != value:
            raise SpotkdError(f"{path}: prepared for {key} {state['noted'].get(key)}, and this run has {value}")
    parts, found = _prepared_parts(method), state["prepared"]
    try:
        for name, part in parts.items():
            part.load_state_dict(found[name])
    except (RuntimeError, KeyError) as error:
        raise SpotkdError(f"{path}: does not fit the networks of this run ({one_line(error)[:300]})") from error
