"""Options whose values have a grammar of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import SpotkdError

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")
_NONE = "none"


def parse_interval(every: int | str | None) -> tuple[int, float]:
    """``checkpoint_every`` in steps and in seconds; 0 where it is not counted so.

    Raises:
        SpotkdError: it is neither a number of steps nor of minutes.
    """
    if every is None:
        return 0, 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(steps?|m|min|minutes?)?", str(every).strip())
    number = float(found[1]) if found else 0.0
    if found and number > 0 and (found[2] or "step").startswith("m"):
        return 0, 60 * number
    if found and number >= 1 and number.is_integer():
        return int(number), 0.0
    raise SpotkdError(f"checkpoint_every is {every}: give steps, as 500, or minutes, as 10min")


def parse_loggers(logger: Sequence[str] | str) -> list[str]:
    """``tensorboard,csv`` as a list of names; ``none`` is an empty one.

    Raises:
        SpotkdError: an unknown name.
    """
    names = [name.strip() for name in (logger.split(",") if isinstance(logger, str) else logger)]
    for name in names:
        if name not in (*LOGGERS, _NONE):
            raise SpotkdError(f"logger is {name}: it must be {', '.join(LOGGERS)} or {_NONE}")
    if _NONE in names and len(names) > 1:
        raise SpotkdError(f"logger is {','.join(names)}: {_NONE} stands alone")
    return [] if _NONE in names else list(dict.fromkeys(names))


def parse_names(names: list[str] | str | None) -> list[str] | None:
    """``layer1,layer2`` as a list; None where it is unset."""
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def parse_spots(spots: list[str] | str | None) -> list[tuple[str, str]] | None:
    """``layer1:layer2,layer3:layer4`` as pairs of stage names, the student's and the teacher's.

    Raises:
        SpotkdError: a part of it is no pair.
    """
    pairs = [pair.partition(":") for pair in parse_names(spots) or ()]
    if any(not (student and teacher) for student, _, teacher in pairs):
        raise SpotkdError(f"spots is {spots}: give pairs of stages student:teacher, as layer1:layer2,layer3:layer4")
    return [(student, teacher) for student, _, teacher in pairs] or None
