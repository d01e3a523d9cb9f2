"""The training loop, for every method there is."""

from __future__ import annotations

import time

from torch.optim import Optimizer

from ..distributed import use_shard
from ..runs.summary import Scores, Summary
from ..runtime.collectives import average_gradients, average_statistics
from ..runtime.device import describe_machine
from .evaluation import evaluate
from .gradients import Gradients
from .hooks import Epoch, Hooks, Start, Step
from .means import shares_of
from .session import Session
from .state import Training


def fit(session: Session) -> Summary:
    """Train for all epochs of the session, or for what is left of them where its run is resumed.

    After each epoch the student is evaluated and the state saved; inside of it, when the run says so.

    Raises:
        SpotkdError: a loss term or the gradient was not finite; a file cannot be written.
        Stopped: a signal asked for it; the state is saved.
    """
    forward, optimizer = session.device.fabric.setup(session.method, session.optimizer)
    gradients = session.make_gradients(forward, session.optimizer, session.device.fabric)
    training, hooks = Training(session, optimizer), Hooks(session.hooks)
    session.run.begin()
    at, epochs, scores = training.position, session.schedule.epochs, None
    with hooks.running(Start(at.epochs, at.steps, at.skipped, session.run.history() if at.epochs else {})):
        for epoch in range(at.epochs + 1, epochs + 1):
            if session.selection.stopping is not None:
                break
            forward.train()
            session.method.start_epoch(epoch, epochs)
            gradients.start_epoch()
            _train_epoch(gradients, optimizer, session, training, hooks)
            scores = _finish_epoch(session, training, hooks)
            session.run.checkpoint(training.state_dict(hooks.before_save()))
        return _summarise(session, training, scores)


def _train_epoch(
    gradients: Gradients, optimizer: Optimizer, session: Session, training: Training, hooks: Hooks
) -> None:
    """The steps of an epoch; of one that was interrupted, those that are left."""
    at, loader = training.position, session.data.train
    epoch, started = at.epochs + 1, time.perf_counter() - at.spent
    if not at.steps:
        at.rates = [group["lr"] for group in optimizer.param_groups]
    for batch in loader.epoch(epoch, skip=at.steps):
        hooks.before_step()
        with use_shard(loader.shard(epoch, at.steps)) as shard:
            losses = gradients(batch, shard.loss_weight)
        average_gradients(session.method.parameters())
        if hooks.allows_step(Step(epoch, at.steps + 1, losses, batch)):
            optimizer.step()
            average_statistics(session.method, shard)
            session.trained.update()
            training.meter.add(losses, batch, shard)
        session.schedule.rates.step()
        at.steps, at.spent = at.steps + 1, time.perf_counter() - started
        hooks.on_step(training.meter.read)
        session.run.after_step(lambda: training.state_dict(hooks.before_save()))


def _finish_epoch(session: Session, training: Training, hooks: Hooks) -> Scores:
    """Evaluate, and write down what the epoch gave."""
    hooks.before_save()  # nothing is evaluated before the steps are known to be sound
    at, method, data = training.position, session.method, session.data
    epoch, means = at.epochs + 1, training.meter.read()
    fabric, classes, split = session.device.fabric, len(data.dataset.classes), data.watched_split
    scores = evaluate(session.trained.network, data.watched, fabric, classes)
    session.selection.update(epoch, scores)
    rates = dict(zip(("lr", "lr_policy"), at.rates, strict=False))
    evaluated = {f"{split}_top1": scores.top1, f"{split}_top5": scores.top5, f"{split}_loss": scores.loss}
    if method.trained_teacher is not None:
        evaluated["teacher_top1"] = evaluate(method.trained_teacher, data.watched, fabric, classes).top1
    row = {"epoch": epoch, **rates, **means, **evaluated, "seconds": at.spent}
    session.run.log(row)
    training.finish_epoch(means)
    hooks.on_epoch(Epoch(epoch, row, means, split, scores.top1, training.newly_settled_spots()))
    return scores


def _summarise(session: Session, training: Training, last: Scores | None) -> Summary:
    """The result: the test scores of the last epoch and of the chosen one."""
    data, device, selection = session.data, session.device, session.selection
    student, classes = session.trained.network, len(data.dataset.classes)
    epochs = training.position.epochs
    if data.watched_split != "test" or last is None:
        last = evaluate(student, data.test, device.fabric, classes)
    selection.load_best()
    chosen = last
    if selection.epoch != epochs:
        chosen = evaluate(student, data.test, device.fabric, classes)
    return Summary(
        model=session.model,
        scores=chosen,
        protocol=selection.protocol,
        epoch=selection.epoch,
        last=last,
        epochs=epochs,
        stopped=selection.stopping if epochs < session.schedule.epochs else None,
        seconds=training.position.seconds,
        shares=shares_of(training.position.means),
        folder=session.run.folder,
        device=str(device),
        machine=describe_machine(device.fabric.device),
    )
