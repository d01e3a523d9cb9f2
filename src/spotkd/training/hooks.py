"""What watches or guards a training: progress, loggers, the log of decisions, the guard against numbers that are not
finite, the policy's notes. The loop calls all of them alike and knows none by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from ..losses import Losses
from ..stages import Batch


class Start(NamedTuple):
    """Where a training begins, or is resumed.

    Attributes:
        epochs: complete epochs.
        steps: complete steps of the one after them.
        skipped: steps that were left out because a number was not finite.
        history: the metrics of the complete epochs, by column.
    """

    epochs: int
    steps: int
    skipped: int
    history: Mapping[str, Sequence[float]]


class Step(NamedTuple):
    """A step that is about to change the networks; ``epoch`` and ``number`` count from 1."""

    epoch: int
    number: int
    losses: Losses
    batch: Batch


class Epoch(NamedTuple):
    """An epoch that is complete and evaluated.

    Attributes:
        number: counted from 1.
        row: all that ``metrics.csv`` holds of it, by column.
        means: of the losses, of the accuracy on the training images and of the shares, by the same names.
        split: which images it was evaluated on: val or test.
        top1: accuracy on them, in percent.
        settled_spots: spots at which, for the first time, the policy sent all samples one way.
    """

    number: int
    row: Mapping[str, float | int]
    means: Mapping[str, float]
    split: str
    top1: float
    settled_spots: Sequence[str]


class Hook:
    """Watches a training; a subclass writes the methods that it needs.

    Nothing that it does may change the result, but for the guard, which leaves steps out, and the log of a trial, from
    which the strategy learns.
    """

    def on_start(self, start: Start) -> None:
        """The training begins, or is resumed."""

    def before_step(self) -> None:
        """A step begins; nothing of it has been computed."""

    def allows_step(self, step: Step) -> bool:
        """Whether the step may change the networks; called after the backward pass of every step."""
        return True

    def on_step(self, means: Callable[[], Mapping[str, float]]) -> None:
        """A step is done. ``means`` reads the means of the epoch so far and waits for the device."""

    def before_save(self) -> int:
        """The state is about to be read: finish what is pending. Returns the steps left out so far, where counted."""
        return 0

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch is complete; its row is in ``metrics.csv``, and its state is not saved yet."""

    def on_stop(self, error: BaseException | None) -> None:
        """The training ends: because of ``error``, or well."""


class Hooks(Hook):
    """Several hooks as one, called in their order and stopped in the opposite one."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)

    @contextmanager
    def running(self, start: Start) -> Iterator[Hooks]:
        """Starts all hooks, and stops at the end of the block those that were started."""
        with ExitStack() as stack:
            for hook in self._hooks:
                hook.on_start(start)
                stack.push(lambda _, error, __, hook=hook: hook.on_stop(error))
            yield self

    def before_step(self) -> None:
        for hook in self._hooks:
            hook.before_step()

    def allows_step(self, step: Step) -> bool:
        answers = [hook.allows_step(step) for hook in self._hooks]  # every one is asked
        return all(answers)

    def on_step(self, means: Callable[[], Mapping[str, float]]) -> None:
        for hook in self._hooks:
            hook.on_step(means)

    def before_save(self) -> int:
        return sum(hook.before_save() for hook in self._hooks)

    def on_epoch(self, epoch: Epoch) -> None:
        for hook in self._hooks:
            hook.on_epoch(epoch)
