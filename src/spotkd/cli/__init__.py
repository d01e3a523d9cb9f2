"""The command line: ``spotkd demo | train | distill | evaluate``, and lists of what can be named.

A mistake of the user is one line on standard error and exit status 2. Nothing heavy is imported before the arguments
have been read. :mod:`.arguments` turns words into options, :mod:`.commands` has a function for each command.
"""

from __future__ import annotations

import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

from .. import __version__
from ..errors import STOPPED, SpotkdError, Stopped, one_line, refused_memory_as_error
from ..escaping import escape_terminal
from .arguments import as_sentence, read
from .commands import COMMANDS, is_one_of_several
from .lists import LISTS, list_recipes

__all__ = ["main", "read"]

_USAGE = f"""usage: spotkd COMMAND [options]

Spot-adaptive knowledge distillation: a policy decides, sample by sample, where the teacher teaches.

commands:
{chr(10).join(f"  {name:<10} {entry[-1]}" for name, entry in (COMMANDS | LISTS).items())}

  spotkd COMMAND --help            every option with its default
  spotkd COMMAND --config FILE     options from a YAML file; the command line overrides it
  spotkd COMMAND --print_config    the resolved options as such a file
  spotkd --version                 the version
"""


def _run(arguments: Sequence[str]) -> int:
    command, *rest = arguments
    if command == "recipes" and not {"--help", "-h"} & set(rest[:1]):
        list_recipes(rest)
        return 0
    if command in LISTS:
        function, help_text = LISTS[command]
        if rest in (["--help"], ["-h"]):
            print(f"usage: spotkd {command}\n\n{as_sentence(help_text)}")
        elif rest:
            raise SpotkdError(f"'spotkd {command}' takes no options, and got {' '.join(rest)}")
        else:
            function()
        return 0
    if command not in COMMANDS:
        from ..registry import unknown_name

        raise unknown_name("command", command, [*COMMANDS, *LISTS])
    _, run, _ = COMMANDS[command]
    return run(read(command, rest)) or 0


def _format_warning(message: Warning | str, *where: Any, **more: Any) -> str:
    """As Python does, without characters that a terminal would obey: a warning of a library may quote a class."""
    return _FORMAT_WARNING(escape_terminal(str(message)), *where, **more)


_FORMAT_WARNING = warnings.formatwarning


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0; 1 where runs of a plan failed or a picture could not be read; 2 for a mistake of the user; 75 where a run was
    asked to stop (SIGTERM, SIGINT) and has saved its state; 130 when interrupted otherwise.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0
    if arguments[0] == "--version":
        print(f"spotkd {__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):  # names of files and classes may hold what a terminal's code cannot say
        if isinstance(stream, TextIOWrapper):  # and in a pipe, too, a line is shown when it is written
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    warnings.formatwarning = _format_warning
    if is_one_of_several() and os.environ.get("RANK") != "0":  # the first process alone prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        with refused_memory_as_error():
            return _run(arguments)
    except (SpotkdError, ArgumentError) as error:
        print(f"spotkd: {one_line(error)}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"spotkd: {one_line(stopped)}", file=sys.stderr)
        return STOPPED
    except SystemExit as end:  # --help and --print_config end the reading of arguments so
        return int(end.code or 0)
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that vanished: the system's words name the file
        print(f"spotkd: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spotkd: interrupted", file=sys.stderr)
        return 130
