"""What distilling at a spot, or some of the samples at it, does to the loss on validation images: `spotkd trial`.

In the runs of the strategies `trial` and `cohort` chance decides in every epoch how much each cohort is distilled at
each spot. So a regression of the loss after the epoch on what was drawn estimates effects, not mere associations. The
loss before the epoch and a curve through the epochs are adjusted for: they explain most of the loss, and no draw is
made by them. Losses are compared by their logarithms, since one of 5 moves far more by chance than one of 0.5.
Intervals are Student's; what is called significant is so by Holm's method over all spots, and over all cells.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import RunError, SpotkdError
from ..escaping import escape_csv
from ..files import atomic_write, check_target
from ..options.values import result_differences
from ..runs.folder import RunFolder

Array = npt.NDArray[np.float64]
LEVEL = 0.05  # of significance, and of the intervals
FEWEST = 5  # degrees of freedom
_CURVE = 3  # coefficients of the curve through the epochs
_RANDOMISED = {"trial": "distilling", "cohort": "distilling twice as much"}  # what a level of 1 means against 0


class Estimate(NamedTuple):
    """An effect, half the width of its 95 % interval, and the probability of so large a one where there is none."""

    value: float
    half: float
    p: float

    def __str__(self) -> str:
        return f"{self.value:+.3g} +- {self.half:.2g}"


class Effect(NamedTuple):
    """What distilling somewhere for one epoch does.

    Attributes:
        spot: where.
        cohort: which samples; None for all of them.
        share: of the training samples that they are.
        loss: the change of the mean cross entropy on the validation images, in percent of it: 100 times that of its
            logarithm; negative is good.
        top1: that of the accuracy on them, in points of a percent.
        p: of the change of the loss, corrected for the number of effects that are looked at beside it.
    """

    spot: str
    cohort: str | None
    share: float
    loss: Estimate
    top1: Estimate
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether chance alone would hardly give it."""
        return self.p < LEVEL

    def __str__(self) -> str:
        """``at layer1 helps (+0.8 +- 0.3 points; loss -2.1 +- 1.4 %)``."""
        verdict = "has no clear effect" if not self.is_significant else "helps" if self.loss.value < 0 else "hurts"
        who = f", where the teacher is {self.cohort}," if self.cohort else ""
        return f"at {self.spot}{who} {verdict} ({self.top1} points; loss {self.loss} %)"


class TrialResult(NamedTuple):
    """The effects that runs show.

    Attributes:
        what: which act has them, in words.
        runs: how many.
        epochs: in which chance decided, over all runs.
        effects: of all samples at each spot, then of every cohort.
    """

    what: str
    runs: int
    epochs: int
    effects: list[Effect]


class _Run(NamedTuple):
    """The epochs of a run whose levels were drawn.

    Attributes:
        levels: ``(N, cohorts, spots)``.
        shares: ``(N, cohorts)``.
        loss: ``(N, 2)``: 100 times its logarithm after each epoch, and before it.
        top1: likewise, in percent.
    """

    levels: Array
    shares: Array
    loss: Array
    top1: Array


def estimate_trial(runs: Sequence[RunFolder]) -> TrialResult:
    """The effects of distilling by spot and cohort.

    Raises:
        RunError: a run was not randomised, its table is damaged, the runs differ in more than their seeds, or there
            are too few epochs.
    """
    kind = _kind(runs[0])
    spots, cohorts = _head(runs[0])
    for run in runs[1:]:
        changed = set(result_differences(runs[0].distill_options, run.distill_options)) - {"seed"}
        if changed or _head(run) != (spots, cohorts):
            raise RunError(
                f"{run.path}: differs from {runs[0].path} in {min(changed, default='its spots or cohorts')}; name runs "
                "that differ in their seeds alone"
            )
    drawn = [_read(run, len(cohorts)) for run in runs]
    epochs = sum(len(run.loss) for run in drawn)
    missing = len(spots) + (_CURVE + 1) * len(runs) + FEWEST - epochs
    if missing > 0:
        raise RunError(
            f"{runs[0].path}: chance has decided in {epochs} epochs, and {missing} more are needed; make the run "
            "longer, or name several with other seeds"
        )
    shares = np.mean([run.shares.mean(0) for run in drawn], axis=0)
    everyone = [np.einsum("ncs,nc->ns", run.levels, run.shares) for run in drawn]
    effects = _with_p(
        [Effect(spot, None, 1.0, *both, 1.0) for spot, both in zip(spots, _estimate_both(drawn, everyone), strict=True)]
    )
    cells = []
    for number, cohort in enumerate(cohorts):
        for place, spot in enumerate(spots):
            columns = [run.levels[:, number, place : place + 1] for run in drawn]
            if shares[number] > 0:
                cells.append(Effect(spot, cohort, float(shares[number]), *_estimate_both(drawn, columns)[0], 1.0))
    return TrialResult(_RANDOMISED[kind], len(runs), epochs, effects + _with_p(cells))


def effect_table(result: TrialResult) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table of all effects."""
    rows = []
    for effect in result.effects:
        who = "all" if effect.cohort is None else f"teacher {effect.cohort}"
        numbers = [f"{effect.share:.0%}", str(effect.top1), f"{effect.loss} %", f"{effect.p:.2g}"]
        rows.append([effect.spot, who, *numbers])
    return ["spot", "samples", "share", "points", "loss", "p"], rows


def conclude(result: TrialResult) -> list[str]:
    """What was found, a line each: of every spot, and of every cohort with an effect that is no chance."""
    runs = f"{result.runs} run{'s' * (result.runs != 1)}"
    told = [effect for effect in result.effects if effect.cohort is None or effect.is_significant]
    lines = [
        f"what {result.what} in one epoch does to the loss and the accuracy on validation images, from {result.epochs} "
        f"epochs of {runs} in which chance decided; +- is a 95 % interval, p is corrected for the number of rows",
        *(f"{result.what} {effect}" for effect in told),
    ]
    if not any(effect.is_significant for effect in told):
        width = max(effect.loss.half for effect in told)
        lines.append(
            f"nothing is significant in so many epochs: an effect on the loss below {width:.2g} % would hardly be "
            "seen; take a longer run, average its weights (--ema 0.98), or name several with other seeds"
        )
    return lines


def write_effects(result: TrialResult, path: str) -> None:
    """All effects as a table, a row each."""
    check_target("csv", path)
    try:
        with atomic_write(path) as place, place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["spot", "cohort", "share", "loss", "loss_half", "top1", "top1_half", "p"])
            for spot, cohort, share, loss, top1, p in result.effects:
                numbers = (share, *loss[:2], *top1[:2], p)
                words = escape_csv(spot), escape_csv(cohort or "all")
                writer.writerow([*words, *(f"{number:.6g}" for number in numbers)])
    except OSError as error:
        raise SpotkdError(f"csv is {path}: cannot be written ({error.strerror or error})") from error


def _kind(run: RunFolder) -> str:
    strategy = run.distill_options.strategy
    found = next((name for name in strategy.split("+") if name in _RANDOMISED), None)
    if found is None:
        raise RunError(
            f"{run.path}: was not randomised, its strategy is {strategy}; spotkd distill --strategy trial "
            "--data.val_share 0.1 makes a run that is"
        )
    return found


def _head(run: RunFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a run's spots and cohorts."""
    table = run.trial
    return table.spots, tuple(dict.fromkeys(row.cohort for row in table.rows))


def _read(run: RunFolder, cohorts: int) -> _Run:
    """What was drawn in a run from its second epoch on.

    Raises:
        RunError: its table is damaged.
    """
    rows = run.trial.rows
    epochs = [row.epoch for row in rows[:: max(cohorts, 1)]]
    expected = [epoch for epoch in range(1, len(epochs) + 1) for _ in range(cohorts)]
    if [row.epoch for row in rows] != expected:
        raise RunError(f"{run.path}: its trial is damaged, an epoch lacks rows or has some twice")
    if not rows:
        raise RunError(f"{run.path}: no epoch of it is complete")
    table = np.array([[row.loss, row.top1, row.share, *row.levels] for row in rows], dtype=np.float64)
    table = table.reshape(len(epochs), cohorts, -1)
    outcomes = table[:, 0, :2].copy()
    with np.errstate(invalid="ignore", divide="ignore"):  # such an epoch is left out
        outcomes[:, 0] = 100 * np.log(outcomes[:, 0])
    pairs = np.stack([outcomes[1:], outcomes[:-1]], axis=1)
    table = table[1:]
    sound = np.isfinite(table).all(axis=(1, 2)) & np.isfinite(pairs).all(axis=(1, 2))
    table, pairs = table[sound], pairs[sound]
    return _Run(table[..., 3:], table[..., 2], pairs[..., 0], pairs[..., 1])


def _estimate_both(runs: Sequence[_Run], columns: Sequence[Array]) -> list[tuple[Estimate, Estimate]]:
    """For each column of what was drawn its effects on the loss and on the accuracy."""
    return list(
        zip(_regress(columns, [run.loss for run in runs]), _regress(columns, [run.top1 for run in runs]), strict=True)
    )


def _regress(columns: Sequence[Array], outcomes: Sequence[Array]) -> list[Estimate]:
    """Least squares of what followed on what was drawn, over all runs, each with a curve of its own.

    Args:
        columns: for each run ``(N, k)``.
        outcomes: for each run ``(N, 2)``, after and before an epoch.
    """
    from scipy.stats import t  # slow to import

    drawn, followed, used = [], [], columns[0].shape[1]
    for x, outcome in zip(columns, outcomes, strict=True):
        time = np.linspace(-1, 1, len(x))
        known = np.column_stack([*(time**power for power in range(_CURVE)), outcome[:, 1]])
        basis, sizes, _ = np.linalg.svd(known, full_matrices=False)
        basis = basis[:, sizes > 1e-9 * sizes.max(initial=0.0)]
        drawn.append(x - basis @ (basis.T @ x))
        followed.append(outcome[:, 0] - basis @ (basis.T @ outcome[:, 0]))
        used += basis.shape[1]
    x, y = np.concatenate(drawn), np.concatenate(followed)
    inverse = np.linalg.pinv(x.T @ x, hermitian=True)
    effects = inverse @ (x.T @ y)
    freedom = max(len(y) - used, 1)
    errors = np.sqrt(np.diag(inverse) * ((y - x @ effects) ** 2).sum() / freedom)
    sure = np.divide(np.abs(effects), errors, out=np.zeros_like(effects), where=errors > 0)
    halves, p = t.ppf(1 - LEVEL / 2, freedom) * errors, 2 * t.sf(sure, freedom)
    return [Estimate(*map(float, numbers)) for numbers in zip(effects, halves, p, strict=True)]


def _with_p(effects: Sequence[Effect]) -> list[Effect]:
    """The effects with their probabilities corrected by Holm's method."""
    order = sorted(range(len(effects)), key=lambda place: effects[place].loss.p)
    corrected, highest = dict.fromkeys(order, 1.0), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min((len(effects) - rank) * effects[place].loss.p, 1.0))
        corrected[place] = highest
    return [effect._replace(p=corrected[place]) for place, effect in enumerate(effects)]
