"""The runs that a distillation must be compared with, and a word where it falls behind the student alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from ..errors import SpotkdError
from ..options import DistillOptions, PolicyOptions, PreparationOptions, RunOptions, TrainOptions
from ..options.values import result_differences
from ..runs.folder import RunFolder
from .hooks import Epoch, Hook, Start

ALONE = "the student alone"
_ALIKE = ("seed", "data.mean", "data.std")  # in which a run and its control may differ
_FROM, _OVER, _FEWEST = 2, 20, 3  # told from a half of the epochs on, of medians over a twentieth, but three of them
_CERTAIN = 2.0  # standard errors


def control_options(options: DistillOptions) -> dict[str, TrainOptions | DistillOptions]:
    """The options of the runs that a distillation must be compared with, the closest one first, by what they are.

    They differ from it in one thing each: where it distils, what it distils, whether it has a teacher.
    """
    always = replace(options, strategy="always", policy=PolicyOptions())
    found: dict[str, TrainOptions | DistillOptions] = {}
    if options.strategy != "always":
        found[f"{options.distiller} at every spot"] = always
    if options.distiller != "kd":
        found["plain kd"] = replace(
            always, distiller="kd", options={}, spots=None, beta=None, preparation=PreparationOptions()
        )
    shared = {field.name: getattr(options, field.name) for field in fields(RunOptions)}
    found[ALONE] = TrainOptions(**shared | {"recipe": None}, model=options.student)
    return found


def differences_to_control(wanted: RunOptions, options: RunOptions) -> list[str]:
    """Names of the options in which a run differs from a control; those of a policy, which no control has, are none."""
    return [name for name in result_differences(wanted, options) if not name.startswith("policy.")]


def find_control(run: RunFolder, wanted: RunOptions) -> RunFolder | None:
    """The finished run beside another one that has these options; of several, the one most alike."""
    found: list[tuple[int, RunFolder]] = []
    for path in _folders_beside(run.path.resolve()):
        beside = RunFolder(path)
        try:
            if not (beside.exists and beside.finished):
                continue
            options = beside.options
        except (SpotkdError, OSError):  # of another version, damaged, or not for our eyes: no control
            continue
        differences = differences_to_control(wanted, options)
        if isinstance(options, type(wanted)) and set(differences) <= set(_ALIKE):
            found.append((len(differences), RunFolder(run.path.parent / path.name)))
    return min(found, key=lambda pair: pair[0], default=(0, None))[1]


def _folders_beside(folder: Path) -> list[Path]:
    """What lies in the same folder; nothing where that may not be read."""
    try:
        return [path for path in sorted(folder.parent.iterdir()) if path != folder]
    except OSError:
        return []


class Behind(Hook):
    """Says once, from a half of the training on, that the student is behind the student alone at the same epoch.

    Args:
        note: prints a line.
        alone: the finished run of the student alone.
        images: how many it is evaluated on after every epoch.
        remedy: what may help.
    """

    def __init__(self, note: Callable[[str], None], alone: RunFolder, images: int, remedy: str) -> None:
        self.note, self.alone, self.images, self.remedy = note, alone, images, remedy
        self._before: Mapping[str, Sequence[float]] = alone.metrics
        self._after: list[float] = []
        self._told = False

    def on_start(self, start: Start) -> None:
        self._after = list(next((start.history[key] for key in ("val_top1", "test_top1") if key in start.history), ()))

    def on_epoch(self, epoch: Epoch) -> None:
        self._after.append(epoch.top1)
        before, number = self._before.get(f"{epoch.split}_top1", ()), len(self._after)
        if self._told or number * _FROM < len(before) or number > len(before):
            return
        window = slice(max(number - max(_FEWEST, len(before) // _OVER), 0), number)
        mine, theirs = statistics.median(self._after[window]), statistics.median(before[window])
        share = (mine + theirs) / 200
        if theirs - mine > _CERTAIN * 100 * math.sqrt(2 * share * (1 - share) / self.images):
            self._told = True
            self.note(
                f"note: up to epoch {number} the student gets {mine:.1f} % right, and the student alone "
                f"{theirs:.1f} % ({self.alone.path}): what is distilled does harm so far; {self.remedy}"
            )


def behind_alone(note: Callable[[str], None], options: DistillOptions, folder: str | Path, images: int) -> list[Behind]:
    """The hook, where the run of the student alone lies beside this one's folder."""
    alone = find_control(RunFolder(folder), control_options(options)[ALONE])
    if alone is None:
        return []
    remedies = ["--alpha 0.3 weakens it"] if options.distiller == "kd" else ["--distiller kd is the safest"]
    remedies += ["--balance auto bounds it"] if options.balance != "auto" else []
    return [Behind(note, alone, images, f"{', '.join(remedies)}, and a better teacher helps most")]
