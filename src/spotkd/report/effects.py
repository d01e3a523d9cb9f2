"""What a configuration is worth: its accuracy less that of a control, with the interval of that difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..formatting import format_signed
from ..statistics import mean_interval
from ..training.controls import control_options, differences_to_control
from .compare import Comparison
from .groups import Group
from .run_record import RunRecord
from .verdict import is_comparable, paired_interval

# What a run is compared with, by the key of `control_options`, from the closest control on.
_MOST_DIFFERENCES = 3  # in which a run that stands in for a control may differ from one


@dataclass(frozen=True)
class Control:
    """A configuration to compare another one with.

    Attributes:
        what: what it is, such as ``plain KD``.
        group: its runs.
        differs: options in which it differs, beyond what makes it a control.
        is_here: whether the page shows it; else it lies beside the run.
    """

    what: str
    group: Group
    differs: tuple[str, ...] = ()
    is_here: bool = True

    @property
    def label(self) -> str:
        """``plain KD (kd-0)``, and what else is different."""
        place = self.group.name if self.is_here else f"{self.group.name}, in the same folder"
        also = f", which also differs in {' and '.join(self.differs)}" if self.differs else ""
        return f"{self.what} ({place}{also})"


@dataclass(frozen=True)
class Effect:
    """A difference of test accuracies in points.

    Attributes:
        control: what was compared with.
        difference: ours less the control's.
        interval: 95 %; None where there is none.
        seeds: how many pairs of runs of one seed it is the mean of; with a single pair the interval is that of
            the test images.
        images: of the test.
        comparison: of one run with one control, where their predictions are there.
    """

    control: Control
    difference: float
    interval: tuple[float, float] | None
    seeds: int
    images: int
    comparison: Comparison | None = None

    @property
    def verdict(self) -> str:
        """Of the interval: better, worse, or open."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if self.interval[0] > 0 else "worse"

    @property
    def basis(self) -> str:
        """What the interval rests on."""
        return f"{self.seeds} seeds" if self.seeds > 1 else f"one run each, {self.images} test images"

    def __str__(self) -> str:
        """``+1.20 points, 95 % interval +0.40 to +2.00, 3 seeds``."""
        return f"{format_signed(self.difference)} points, {self.interval_text}{self.basis}"

    @property
    def interval_text(self) -> str:
        if self.interval is None:
            return "no interval, "
        return f"95 % interval {format_signed(self.interval[0])} to {format_signed(self.interval[1])}, "


def find_controls(group: Group, groups: Sequence[Group]) -> Iterator[Control]:
    """Its controls among the configurations of a page, the closest one first: exact ones, else those nearly so."""
    options = group.runs[0].distill_options
    if options is None:
        return
    for key, wanted in control_options(options).items():
        found: list[tuple[list[str], Group]] = []
        for other in groups:
            theirs = other.options
            if other is group or type(theirs) is not type(wanted) or other.top1 is None:
                continue
            if not is_comparable(options, theirs):
                continue
            differs = [name for name in differences_to_control(wanted, theirs) if name != "seed"]
            if len(differs) <= _MOST_DIFFERENCES and not {"strategy", "distiller"} & set(differs):
                found.append((differs, other))
        if found:
            differs, other = min(found, key=lambda pair: len(pair[0]))
            yield Control(name_control(key), other, tuple(differs))


def name_control(key: str) -> str:
    """A key of `control_options`, as the page calls it."""
    if key.endswith("at every spot"):
        return "the same distiller at every spot"
    return {"plain kd": "plain KD"}.get(key, key)


def measure_effect(
    group: Group, control: Control, compare_runs: Callable[[RunRecord, RunRecord], Comparison | None]
) -> Effect | None:
    """The difference over the seeds that both have; of one run each, over their test images.

    Args:
        group: ours.
        control: theirs.
        compare_runs: compares the predictions of theirs and ours; None where these are not there.
    """
    pairs = pair_runs(group, control.group)
    if not pairs:
        return None
    theirs, ours = pairs[0]
    differences = mean_interval([_top1(our) - _top1(their) for their, our in pairs])
    assert differences is not None
    assert ours.summary is not None
    images = ours.summary.scores.images
    if len(pairs) > 1:
        return Effect(control, differences.mean, differences.interval, len(pairs), images, None)
    comparison = compare_runs(theirs, ours)
    if comparison is None:
        return Effect(control, differences.mean, None, 1, images)
    difference, low, high = paired_interval(comparison)
    return Effect(control, difference, (low, high), 1, images, comparison)


def pair_runs(group: Group, control: Group) -> list[tuple[RunRecord, RunRecord]]:
    """Finished runs ``(theirs, ours)`` of one seed; where no seed is common, the first of either."""
    theirs = {run.options.seed: run for run in control.runs if run.summary is not None}
    ours = {run.options.seed: run for run in group.runs if run.summary is not None}
    pairs = [(theirs[seed], ours[seed]) for seed in ours if seed in theirs]
    return pairs or list(zip(theirs.values(), ours.values(), strict=False))[:1]


def _top1(run: RunRecord) -> float:
    assert run.summary is not None
    return run.summary.scores.top1
