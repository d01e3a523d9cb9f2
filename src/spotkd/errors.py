"""Mistakes that the user can fix: one exception, one line."""

from __future__ import annotations

import sys

from .escaping import escape_terminal


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
    sys.stderr.write(f"{escape_terminal(text)}\n")
