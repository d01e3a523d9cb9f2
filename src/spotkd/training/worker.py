"""One run in a process of its own: ``python -m spotkd.training.worker distill FOLDER``.

The folder holds the run's options. The process ends when the one that started it does, even by SIGKILL: its standard
input is a pipe, which closes then. The run's lock keeps a process that has not noticed yet, and the one that goes on,
from writing into one folder.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from ..config import DistillConfig, TrainConfig, read_config
from ..errors import STOPPED, SpotkdError, Stopped, one_line
from .jobs import distill, train

OPTIONS = "options.yaml"
PATIENCE = 60.0  # seconds until a process that lost its parent must have gone


def end_with_parent() -> None:
    """Return never: end this process when its standard input is closed."""
    os.read(0, 1)  # returns when the parent's end of the pipe is gone
    os._exit(1)


def main(command: str, folder: str) -> int:
    """Run ``command`` (train, distill) with the options in ``folder``.

    0; 2 for a mistake that one line tells; :data:`~spotkd.errors.STOPPED` where it saved and stopped on a signal.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    path = Path(folder)
    try:
        with FileLock(path / ".lock", timeout=PATIENCE):
            pass  # the run takes the lock again, and does not wait for it
        if command == "train":
            train(read_config(TrainConfig, path / OPTIONS))
        else:
            distill(read_config(DistillConfig, path / OPTIONS))
    except Timeout:
        sys.stderr.write(f"{path}: another process is writing there\n")
        return 2
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        return STOPPED
    except (SpotkdError, OSError) as error:
        sys.stderr.write(one_line(error) + "\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
