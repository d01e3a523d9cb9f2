"""A run in a process of its own: ``python -m spotkd.training.worker distill PLACE``.

``PLACE`` holds the options. For ``spotkd bench`` it is the run's folder, and the process one run; for ``--devices`` it
is a folder that the processes of one run share, and in which each reports why it ended (see :mod:`.launch`).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import STOPPED, SpotkdError, Stopped, one_line, refused_memory_as_error
from ..options import DistillOptions, TrainOptions, read_options
from ..runs.layout import LOCK
from ..runtime.process_group import PeerLostError, launched_processes
from ..runtime.workers import end_with_parent
from .jobs import distill, train
from .launch import FOLDER, OPTIONS, report

PATIENCE = 150.0  # seconds until a process without a parent must be gone; NFS keeps the lock of a dead machine for 90


def train_or_distill(command: str, place: Path) -> str:
    """Run ``command`` with the options in ``place``; returns the folder of the run."""
    with refused_memory_as_error():
        if command == "train":
            return str(train(read_options(TrainOptions, place / OPTIONS)).folder)
        return str(distill(read_options(DistillOptions, place / OPTIONS)).folder)


def run_alone(command: str, place: Path) -> int:
    """One run in its own folder; its exit status, 0 or as of the command line.

    The run's lock keeps a process that has not noticed that its parent is gone, and the one that resumes the run, from
    writing into one folder.
    """
    try:
        with FileLock(place / LOCK, timeout=PATIENCE):
            pass  # the run takes the lock again, and does not wait for it
        train_or_distill(command, place)
    except Timeout:
        sys.stderr.write(f"{place}: another process is writing there\n")
        return 2
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        return STOPPED
    except (SpotkdError, OSError) as error:
        sys.stderr.write(one_line(error) + "\n")
        return 2
    return 0


def run_together(command: str, place: Path) -> int:
    """One of several processes of a run; its exit status, with a report in ``place`` where it is not 0."""
    rank = int(os.environ["LOCAL_RANK"])
    try:
        folder = train_or_distill(command, place)
    except Stopped as stopped:
        report(place, rank, line=str(stopped))
        return STOPPED
    except (SpotkdError, OSError) as error:
        report(place, rank, line=one_line(error), echo=isinstance(error, PeerLostError))
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        report(place, rank, traceback=traceback.format_exc())
        return 1
    if rank == 0:
        (place / FOLDER).write_text(folder, encoding="utf-8")
    return 0


def main(command: str, place: str) -> int:
    """Run ``command`` (train, distill) as ``place`` says; ends with the process that started this one."""
    end_with_parent()
    run: Callable[[str, Path], int] = run_together if launched_processes() > 1 else run_alone
    return run(command, Path(place))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
