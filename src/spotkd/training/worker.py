"""One run in a process of its own: ``python -m spotkd.training.worker distill FOLDER``.

The folder holds the run's options. The process ends when the one that started it does, even by SIGKILL: its standard
input is a pipe, which closes then. A lock keeps a process that has not noticed yet, and the one that begins anew, from
writing into one folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO

import yaml
from filelock import FileLock, Timeout

from ..config import DistillConfig, TrainConfig, read_config
from ..errors import SpotkdError, one_line
from ..files import replacing
from .jobs import distill, train

OPTIONS = "options.yaml"
PATIENCE = 60.0  # seconds until a process that lost its parent must have gone


def start(
    config: TrainConfig | DistillConfig,
    folder: Path,
    variables: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes] = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """Start a process that runs ``config``, whose ``out`` is ``folder``, with ``variables`` in its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / OPTIONS) as path:
        path.write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
    command = "distill" if isinstance(config, DistillConfig) else "train"
    return subprocess.Popen(
        [sys.executable, "-m", "spotkd.training.worker", command, str(folder)],
        stdin=subprocess.PIPE,  # never written to: it closes when this process ends, however it ends
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **variables},
    )


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe is gone
    os._exit(1)


def main(command: str, folder: str) -> int:
    """Run ``command`` (train, distill) with the options in ``folder``; 0, or 2 for a mistake that one line tells."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the one that started this answers it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path = Path(folder)
    try:
        with FileLock(path / ".lock", timeout=PATIENCE):
            if command == "train":
                train(read_config(TrainConfig, path / OPTIONS))
            else:
                distill(read_config(DistillConfig, path / OPTIONS))
    except Timeout:
        sys.stderr.write(f"{path}: another process is writing there\n")
        return 2
    except (SpotkdError, OSError) as error:
        sys.stderr.write(one_line(error) + "\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
