"""One of several processes that train together: ``python -m spotkd.training.member distill PLACE``.

Started by :func:`spotkd.training.processes.launch`, which put the options into ``PLACE`` and reads there how it ended.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

from ..config import DistillConfig, TrainConfig, read_config
from ..errors import STOPPED, SpotkdError, Stopped, one_line
from .jobs import distill, train
from .processes import FOLDER, OPTIONS, ForsakenError, report
from .worker import end_with_parent


def main(command: str, place: Path) -> int:
    """Run ``command`` with the options in ``place``; 0, 2 for a mistake that one line tells, 1 for any other.

    :data:`~spotkd.errors.STOPPED` where it saved and stopped on a signal.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    rank = int(os.environ["LOCAL_RANK"])
    try:
        if command == "train":
            summary = train(read_config(TrainConfig, place / OPTIONS))
        else:
            summary = distill(read_config(DistillConfig, place / OPTIONS))
    except Stopped as stopped:
        report(place, rank, line=str(stopped))
        return STOPPED
    except (SpotkdError, OSError) as error:
        report(place, rank, line=one_line(error), echo=isinstance(error, ForsakenError))
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        report(place, rank, traceback=traceback.format_exc())
        return 1
    if rank == 0:
        (place / FOLDER).write_text(str(summary.folder), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
