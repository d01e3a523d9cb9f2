"""Options whose values have a grammar of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..errors import SpotkdError

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")
HAZARDS = {"wrong": 1.0, "subgroup": 1.0, "shift": math.inf, "scale": math.inf, "mismatch": None, "noise": 1.0}
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


def parse_duration(text: str | None) -> float:
    """``20min``, ``1.5h`` or ``90s`` in seconds; without end where it is unset.

    Raises:
        SpotkdError: it is no length of time.
    """
    if text is None:
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h)", text.strip())
    if found is None or float(found[1]) == 0:
        raise SpotkdError(f"budget is {text}: give a length of time, as 20min, 1.5h or 90s")
    return float(found[1]) * {"s": 1, "h": 3600}.get(found[2], 60)


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


def parse_hazards(hazard: Sequence[str] | str | None) -> dict[str, float]:
    """``wrong:0.4,scale:30`` as strengths by name; one that takes none has strength 1.

    Raises:
        SpotkdError: an unknown name, one given twice, or a strength that it cannot have.
    """
    found: dict[str, float] = {}
    for word in (hazard.split(",") if isinstance(hazard, str) else hazard) or ():
        name, _, strength = (part.strip() for part in word.partition(":"))
        if name not in HAZARDS:
            raise SpotkdError(f"hazard is {word}: it must be {', '.join(HAZARDS)}, as wrong:0.4 or wrong:0.4,scale:30")
        if name in found:
            raise SpotkdError(f"hazard is {hazard}: {name} is given twice")
        found[name] = _read_strength(name, strength)
    return found


def _read_strength(name: str, strength: str) -> float:
    most = HAZARDS[name]
    if most is None:
        if strength:
            raise SpotkdError(f"hazard is {name}:{strength}: {name} takes no number")
        return 1.0
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if not (0 < value <= most and math.isfinite(value)):
        wanted = "a share above 0 and up to 1" if most == 1 else "a number above 0"
        given = f"{name}:{strength}" if strength else name
        raise SpotkdError(f"hazard is {given}: {name} takes {wanted}, as {name}:0.4")
    return value
