"""One run of a plan in a process of its own: ``python -m spotkd.experiments.cell FOLDER``.

The folder holds ``job.yaml`` with the command and its options. The process ends when the one that started it does, even
by SIGKILL: its standard input is a pipe, which closes then. A lock keeps a process that has not noticed yet, and the one
that begins anew, from writing into one folder.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from ..config import DistillConfig, TrainConfig, read_config
from ..errors import SpotkdError, one_line
from ..training import distill, train

JOB, OPTIONS = "job.yaml", "options.yaml"
PATIENCE = 60.0  # seconds until a process that lost its parent must have gone


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent's end of the pipe is gone
    os._exit(1)


def main(folder: str) -> int:
    """Run the job in ``folder``; 0, or 2 for a mistake that one line tells."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path = Path(folder)
    try:
        with FileLock(path / ".lock", timeout=PATIENCE):
            if yaml.safe_load((path / JOB).read_text(encoding="utf-8"))["command"] == "train":
                print(train(read_config(TrainConfig, path / OPTIONS)))
            else:
                print(distill(read_config(DistillConfig, path / OPTIONS)))
    except Timeout:
        print(f"{path}: another process is writing there", file=sys.stderr)
        return 2
    except (SpotkdError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
