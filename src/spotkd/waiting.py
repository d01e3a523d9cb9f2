"""Work on many things, shown on standard error while it lasts: a bar in a terminal, lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .escaping import escape_terminal
from .formatting import format_duration

Item = TypeVar("Item")
_SOON, _LATER = 2.0, 60.0  # seconds to the first line where there is no bar, and to the next


def shown(
    items: Iterable[Item], title: str, total: int, weigh: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The items themselves, one by one, while how many are done is shown; nothing is left of a bar in the end.

    Args:
        items: what is worked on.
        title: what is done, and to what.
        total: how many items there are, each as many as ``weigh`` says.
        weigh: what an item counts.
    """
    from rich.console import Console  # slow to import, and needed by few commands
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    moves = console.is_interactive and console.file.isatty()
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    text = TextColumn("{task.description}", markup=False)
    bar = Progress(text, *columns, console=console, transient=True, disable=not moves)
    started = time.monotonic()
    due, done = started + _SOON, 0
    with bar:
        task = bar.add_task(escape_terminal(title), total=total)
        for item in items:
            now = time.monotonic()
            if not moves and done and now > due:
                due = now + _LATER
                left = format_duration((now - started) / done * (total - done))
                sys.stderr.write(f"{escape_terminal(title)}: {done} of {total}, about {left} left\n")
            yield item
            done += weigh(item)
            bar.update(task, completed=done)
