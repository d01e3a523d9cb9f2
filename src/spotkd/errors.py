"""Mistakes that the user can fix: one exception, one line."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .escaping import escape_terminal
from .formatting import fold


class SpotkdError(ValueError):
    """Wrong input: an unknown name, shapes that do not fit, a file that cannot be read.

    The message is one line that names the key or the file and says what to do. The command line prints it and
    exits with status 2; library code lets it propagate.
    """


class RunError(SpotkdError):
    """A folder that holds no run, or a run with a damaged file."""


class Stopped(Exception):  # noqa: N818  # it is no error
    """A run was asked to stop (SIGTERM, SIGINT) and has saved its state; the message says how to resume it.

    The command line prints it and exits with status :data:`STOPPED`.
    """


STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


def one_line(error: Exception) -> str:
    """An exception's words on one line, without characters that a terminal would obey: they may quote a file."""
    return escape_terminal(" ".join(str(error).split()) or type(error).__name__)


def tell(text: str) -> None:
    """A line for the user on standard error, for what is done otherwise than may be thought."""
    sys.stderr.write(f"{fold(escape_terminal(text), sys.stderr)}\n")


_REFUSED = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|_ALLOC_FAILED|storage size calculation over",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)")
_PACKAGE = Path(__file__).parent


@contextmanager
def refused_memory_as_error(state: Callable[[], str] = str) -> Iterator[None]:
    """Within this context memory that the system, torch or CUDA refuses is a mistake of the user, as others are.

    Args:
        state: says what is left of the work so far; called when memory was refused.

    Raises:
        SpotkdError: memory was refused; the message names how much, and the modules that asked for it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and _REFUSED.search(str(error)) is None:
            raise
        asked = _AMOUNT.search(str(error))
        much = "" if asked is None else f" ({asked[2] or f'{int(asked[1]) / 2**30:.3g} GiB'})"
        left = state()
        raise SpotkdError(
            f"there is not enough memory for what {_asking_modules(error)} asked for{much}{left and f'; {left}'}; take "
            "smaller batches, images, networks or options of the distiller"
        ) from error


def _asking_modules(error: BaseException) -> str:
    """The innermost modules of ours on the way to where an error was raised, outermost first."""
    places = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [place.relative_to(_PACKAGE).as_posix() for place in places if place.is_relative_to(_PACKAGE)]
    return " and ".join([*dict.fromkeys(ours)][-2:]) or "Python"
