"""What the user sees while a network trains."""

from __future__ import annotations

import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..escaping import escape_terminal
from ..formatting import format_duration, join_words
from .hooks import Epoch, Hook, Start
from .means import losses_of, shares_of, weights_of

DOMINANT = 5.0  # times the rest of the loss: more than that and a distiller is remarked upon
_SOON, _LATER = 2.0, 60.0  # seconds from the first step to a line within an epoch, where no table is; and to the next
_REFRESH = 0.5  # seconds between two readings of the running means, each of which waits for the device
_NARROW, _WIDE = 58, 80  # columns below which the parts of the table stand one above another; from which there is room


def describe_shares(shares: Mapping[str, float]) -> str:
    """``layer1 64 %, logits 100 %``"""
    return ", ".join(f"{name} {_percent(share)}" for name, share in shares.items())


class TrainingProgress:
    """A table that changes in place, below a line for every finished epoch; lines alone where it cannot.

    Those come within an epoch, too: two seconds after the first step at the latest, then every minute. The table needs
    a terminal that can move its cursor: not a pipe, not ``TERM=dumb``. Means are given by the names that they have in
    ``metrics.csv``.

    Args:
        title: what is being trained.
        epochs: number of epochs.
        steps: steps an epoch.
        console: where to write.
        quiet: write nothing.
        done: complete epochs, where a run is resumed.
        inside: complete steps of the next.
        tested: top-1 of the complete epochs, in percent.
    """

    def __init__(
        self,
        title: str,
        epochs: int,
        steps: int,
        console: Console,
        quiet: bool,
        done: int = 0,
        inside: int = 0,
        tested: Sequence[float] = (),
    ) -> None:
        self.title, self.epochs, self.steps, self.console, self.quiet = title, epochs, steps, console, quiet
        self._begun = self._at = done * steps + inside  # steps of the whole training
        self._started, self._read, self._due = time.monotonic(), -math.inf, -math.inf
        self._means: Mapping[str, float] = {}
        self._split, self._tested = "test", list(tested)  # on which images, and how well after each epoch
        # FORCE_COLOR makes rich take anything for a terminal; that of a pipe has no cursor to move.
        self._live = None
        if not quiet and console.is_interactive and console.file.isatty():
            self._live = Live(
                console=console,
                auto_refresh=False,
                transient=True,
                get_renderable=self._table,
                redirect_stderr=sys.stderr.isatty(),  # elsewhere it has a file of its own
            )

    def __enter__(self) -> TrainingProgress:
        if self._live is not None:
            self._live.start(refresh=True)
            self.console.show_cursor(True)  # hidden, it would stay so where the process is killed
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, means: Callable[[], Mapping[str, float]]) -> None:
        """One step is done; ``means`` reads the running means and is called now and then only."""
        self._at += 1
        now = time.monotonic()
        if self._live is not None and now - self._read > _REFRESH:
            self._read, self._means = now, means()
            self._live.refresh()
        elif self._live is None and not self.quiet:
            self._print_step(now, means)

    def _print_step(self, now: float, means: Callable[[], Mapping[str, float]]) -> None:
        """A line within an epoch, where the next step would come too late for it."""
        made = self._at - self._begun
        if made == 1:
            self._due = now + _SOON
        step = self._at % self.steps  # none at the end: the epoch's own line comes next
        if step and now + (now - self._started) / made > self._due:
            self._due = now + _LATER
            epoch, loss = self._at // self.steps + 1, sum(losses_of(means()).values())
            parts = [f"{self.title}: epoch {epoch}/{self.epochs}, step {step}/{self.steps}", f"loss {loss:.3g}"]
            self._print([*parts, f"about {self._left()} left"], "  ")

    def note(self, text: str) -> None:
        """Something that the user should know, on a line of its own."""
        if not self.quiet:
            self._print(text.split(" "))

    def epoch(self, number: int, means: Mapping[str, float], top1: tuple[str, float] | None = None) -> None:
        """An epoch is done and, unless ``top1`` is None, evaluated on the images that it names (val, test)."""
        self._at, self._means = number * self.steps, means
        if top1 is not None:
            self._split = top1[0]
            self._tested.append(top1[1])
        if self.quiet:
            return
        loss, shares = sum(losses_of(means).values()), shares_of(means)
        parts = [
            f"{self.title}: epoch {number}/{self.epochs}",
            f"loss {loss:.3g}" if top1 is None else f"loss {loss:.3f}",
        ]
        if top1 is not None:
            parts.append(f"{top1[0]} top-1 {top1[1]:.2f} %")
        if shares:
            parts.append(f"distilled {describe_shares(shares)}")
        if self._live is None and number < self.epochs:  # the table shows it, and it grows old
            parts.append(f"about {self._left()} left")
        self._print(parts, "  ")

    def _print(self, parts: Iterable[str], between: str = " ") -> None:
        """A line; above the table as many as its parts need."""
        parts = [escape_terminal(part) for part in parts]
        text = between.join(parts)
        if self._live is not None:
            self._live.refresh()  # what is printed takes along the table as it last was
            text = _folded(parts, between, self.console.width)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> str:
        """The time that the steps ahead take at the pace so far; nothing before the first step."""
        made = self._at - self._begun
        seconds = (time.monotonic() - self._started) / max(made, 1) * (self.epochs * self.steps - self._at)
        return format_duration(seconds) if made else ""

    def _table(self) -> RenderableType:
        """All that is known now, as wide as the terminal allows."""
        width = self.console.width
        blocks = [block for block in (self._losses(), self._accuracies(width), self._spots(width)) if block.row_count]
        if width < _NARROW:
            return Group(self._head(width), *blocks)
        body = _grid(space=2 if width < _WIDE else 4)
        body.add_row(*blocks)
        return Group(self._head(width), body)

    def _head(self, width: int) -> Table:
        """The title, the bar of the whole training, and what is left of it."""
        epoch = min(self._at // self.steps + 1, self.epochs)
        step = self._at - (epoch - 1) * self.steps
        wide = width >= _WIDE
        row: list[RenderableType] = [_cut(self.title, "bold"), Text(f"epoch {epoch}/{self.epochs}")]
        if wide:
            row.append(Text(f"step {step}/{self.steps}"))
        share = self._at / (self.epochs * self.steps)
        if width >= _NARROW:
            row.append(_bar(share, 24 if wide else 12))
        row.append(_percent(share))
        left = self._left()
        row.append(Text(f"{left} left" if left else ""))
        head = _grid(space=2)
        head.add_row(*row)
        for column in head.columns[1:]:  # the title gives way
            column.no_wrap = True
        return head

    def _losses(self) -> Table:
        """The total, and the terms that it has."""
        block = _grid("left", "right")
        terms = {name: value for name, value in losses_of(self._means).items() if value}
        if self._means:
            block.add_row(Text("loss", "bold"), _number(sum(terms.values())))
        for name, value in terms.items() if len(terms) > 1 else ():
            block.add_row(_cut(name), _number(value))
        return block

    def _accuracies(self, width: int) -> Table:
        """Top-1 so far: of the epoch on the images it trains on, of the last evaluation, and of the best one."""
        block = _grid("left", "right")
        rows = {"train": self._means["train_top1"]} if "train_top1" in self._means else {}
        if self._tested:
            best = max(self._tested)
            which = f" (epoch {self._tested.index(best) + 1})" if width >= _WIDE else ""
            rows |= {self._split: self._tested[-1], f"best{which}": best}
        if rows:
            block.add_row(Text("top-1", "bold"), "")
        for name, value in rows.items():
            block.add_row(_cut(name), f"{value:.2f} %")
        return block

    def _spots(self, width: int) -> Table:
        """The share of the samples that is distilled at each spot."""
        block, shares = _grid("left", "left", "right"), shares_of(self._means)
        if shares:
            block.add_row(Text("distilled", "bold"), "", "")
        for name, share in shares.items():
            block.add_row(_cut(name), _bar(share, 16 if width >= _WIDE else 8), _percent(share))
        return block


class Progress(Hook):
    """Shows the progress of a training on the terminal.

    Args:
        title: what is being trained.
        epochs: number of epochs.
        steps: steps an epoch.
        split: which images are evaluated after every epoch: val or test.
        quiet: write nothing.
    """

    def __init__(self, title: str, epochs: int, steps: int, split: str, quiet: bool) -> None:
        self.title, self.epochs, self.steps, self.split, self.quiet = title, epochs, steps, split, quiet

    def on_start(self, start: Start) -> None:
        tested = start.history.get(f"{self.split}_top1", ())
        self._shown = TrainingProgress(
            self.title, self.epochs, self.steps, Console(), self.quiet, start.epochs, start.steps, tested
        )
        self._shown.__enter__()

    def on_step(self, means: Callable[[], Mapping[str, float]]) -> None:
        self._shown.step(means)

    def on_epoch(self, epoch: Epoch) -> None:
        self._shown.epoch(epoch.number, epoch.means, (epoch.split, epoch.top1))

    def on_stop(self, error: BaseException | None) -> None:
        self._shown.__exit__(None, None, None)

    def note(self, text: str) -> None:
        """Print something that the user should know, on a line of its own."""
        self._shown.note(text)


class Notes(Hook):
    """Prints what a user should know while there is time to change it, each on one line and once.

    A policy that no longer decides makes the run ordinary distillation at a higher price. A distiller whose term is
    many times the rest of the loss is what the student learns instead of its labels: a published weight is made for
    maps of the published size.

    Args:
        note: prints a line.
        advises_share: whether a share of the samples may be asked for; False where it already was.
        bound: how a distiller that outweighs the labels can be bounded; None where it is, and its weights are told.
    """

    def __init__(self, note: Callable[[str], None], advises_share: bool = True, bound: str | None = None) -> None:
        self.note, self.advises_share, self.bound = note, advises_share, bound

    def on_epoch(self, epoch: Epoch) -> None:
        if epoch.settled_spots:
            shares = {spot: shares_of(epoch.means)[spot] for spot in epoch.settled_spots}
            alike: dict[str, list[str]] = {}
            for spot, share in shares.items():
                alike.setdefault(_percent(share), []).append(spot)
            spots = ", ".join(f"{share} of the samples at {join_words(names)}" for share, names in alike.items())
            remedies = ["--strategy always does the same for less"] if min(shares.values()) > 0.5 else []
            remedies += ["--policy.target_share 0.6 keeps it deciding"] if self.advises_share else []
            told = f"note: in epoch {epoch.number} the policy distilled {spots}: it no longer decides there"
            self.note("; ".join([told, *remedies]))
        terms = losses_of(epoch.means)
        rest = terms.get("task", 0.0) + terms.get("kl", 0.0)
        if epoch.number == 1 and (weights := weights_of(epoch.means)):
            told = ", ".join(f"{100 * weight:.3g} % of its weight at {spot}" for spot, weight in weights.items())
            self.note(f"note: in epoch 1 the distiller pulled with {told} (--balance; weight_* in metrics.csv)")
        if epoch.number == 1 and self.bound is not None and terms.get("distill", 0.0) > DOMINANT * rest:
            self.note(
                f"note: in epoch 1 the distiller's term is {terms['distill']:.3g} beside {rest:.3g} of labels and "
                f"logits: it may be too heavy for these networks; {self.bound}, --beta sets it"
            )


def _grid(*justify: str, space: int = 1) -> Table:
    grid = Table.grid(padding=(0, space, 0, 0))
    for side in justify:
        grid.add_column(justify=side)  # type: ignore[arg-type]
    return grid


def _cut(text: str, style: str = "") -> Text:
    """A name that may be long, on one line."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _bar(share: float, width: int) -> ProgressBar:
    return ProgressBar(1, share, width, complete_style="cyan", finished_style="cyan", style="bright_black")


def _folded(parts: Iterable[str], between: str, width: int) -> str:
    """Parts on as many lines as they need, each number beside its name."""
    whole = between.join(part.replace(", ", ",\n").replace(" ", "\xa0") for part in parts)
    lines = textwrap.wrap(whole, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\xa0", " ")


def _number(value: float) -> str:
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
