"""What the user sees while a network trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_REFRESH = 0.5  # seconds between two readings of the running means, each of which waits for the device


def describe_shares(shares: Mapping[str, float]) -> str:
    """``layer1 64 %, logits 100 %``"""
    return ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in shares.items())


class TrainingProgress:
    """A bar with the time left and the running means in a terminal; one plain line an epoch anywhere else.

    Args:
        title: what is being trained.
        epochs: number of epochs.
        steps: steps an epoch.
        console: where to write.
        quiet: write nothing.
        done: complete epochs, where a run goes on.
        inside: complete steps of the next.
    """

    def __init__(
        self, title: str, epochs: int, steps: int, console: Console, quiet: bool, done: int = 0, inside: int = 0
    ) -> None:
        self.title, self.epochs, self.steps, self.console, self.quiet = title, epochs, steps, console, quiet
        self._epoch, self._read, self._started = done + 1, 0.0, time.monotonic()
        self._ahead = epochs - done - inside / steps  # epochs that this process has to do
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(self._label(), total=epochs * steps, completed=done * steps + inside, note="")

    def _label(self) -> str:
        return f"{self.title}  epoch {self._epoch}/{self.epochs}"

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, means: Callable[[], tuple[float, Mapping[str, float]]]) -> None:
        """One step is done; ``means`` reads the running loss and shares and is called now and then only."""
        if self._bar.disable:
            return
        self._bar.advance(self._task)
        if time.monotonic() - self._read > _REFRESH:
            self._read = time.monotonic()
            loss, shares = means()
            note = f"loss {loss:.3f}" + (f"  distilled {describe_shares(shares)}" if shares else "")
            self._bar.update(self._task, description=self._label(), note=note)

    def note(self, text: str) -> None:
        """Something that the user should know, on a line of its own."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def epoch(
        self,
        number: int,
        loss: float,
        top1: tuple[str, float] | None = None,
        shares: Mapping[str, float] = {},
    ) -> None:
        """An epoch is done and, unless ``top1`` is None, evaluated on the images that it names (val, test)."""
        self._epoch = number + 1
        if self.quiet:
            return
        left = self.epochs - number
        seconds = (time.monotonic() - self._started) / (self._ahead - left) * left
        parts = [
            f"{self.title}: epoch {number}/{self.epochs}",
            f"loss {loss:.3g}" if top1 is None else f"loss {loss:.3f}",
        ]
        if top1 is not None:
            parts.append(f"{top1[0]} top-1 {top1[1]:.2f} %")
        if shares:
            parts.append(f"distilled {describe_shares(shares)}")
        if number < self.epochs:
            parts.append(f"about {_clock(seconds)} left")
        self.console.print("  ".join(parts), highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
