"""The search's memory: an Optuna study in a file of the search's folder, one JSON line an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpotkdError, one_line
from .space import Space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

JOURNAL = "study.log"
_NAME = "search"  # Hyperband's brackets follow from it and a run's number
_OPTIONS, _SECONDS, _TESTED = "options", "seconds", "tested"


class Study:
    """Which runs were tried, with which choices and which accuracy on validation images.

    Nothing is ever drawn from where a sampler stood: a run's draws follow from the seed and its number, so that a
    search that was killed goes on as if it had not been.

    Args:
        folder: of the search.
        space: what is searched.
        sampler: tpe or random.
        prune: whether runs that are behind are stopped.
        seed: of the draws.
    """

    def __init__(self, folder: Path, space: Space, sampler: str, prune: bool, seed: int) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise SpotkdError("spotkd search needs Optuna: pip install 'spotkd[search]'") from error
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._sampler, self._seed = optuna, space, sampler, seed
        pruner = optuna.pruners.HyperbandPruner(min_resource=3) if prune else optuna.pruners.NopPruner()
        path = folder / JOURNAL
        try:
            self.study: optuna.Study = optuna.create_study(
                study_name=_NAME,
                storage=JournalStorage(JournalFileBackend(str(path))),
                pruner=pruner,
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:  # whatever Optuna makes of a damaged file
            raise SpotkdError(f"{path}: damaged ({one_line(error)[:200]}); give another --out") from error
        for choices in space.first:
            self.study.enqueue_trial(choices, skip_if_exists=True)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """The search must have the options that it began with.

        Raises:
            SpotkdError: which ones differ.
        """
        began = self.study.user_attrs.get(_OPTIONS)
        if began is None:
            self.study.set_user_attr(_OPTIONS, dict(options))
            return
        other = [key for key in {**began, **options} if began.get(key) != options.get(key)]
        if other:
            raise SpotkdError(f"the search there was begun with another {', '.join(other)}: give another --out")

    @property
    def seconds(self) -> float:
        """How long all calls have searched."""
        return float(self.study.user_attrs.get(_SECONDS, 0.0))

    @seconds.setter
    def seconds(self, value: float) -> None:
        self.study.set_user_attr(_SECONDS, value)

    def tested(self, number: int) -> dict[str, Any] | None:
        """The test scores of a run that won; None where it was not tested."""
        found = self.study.user_attrs.get(f"{_TESTED}_{number}")
        return found if isinstance(found, dict) else None

    def note_test(self, number: int, scores: Mapping[str, float]) -> None:
        """Keep the test scores of the winner, which is not tested again."""
        self.study.set_user_attr(f"{_TESTED}_{number}", dict(scores))

    @property
    def trials(self) -> Sequence[FrozenTrial]:
        """All that were begun."""
        waiting = self._optuna.trial.TrialState.WAITING
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != waiting]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """The complete runs, the best first; of equal ones the first."""
        complete = self._optuna.trial.TrialState.COMPLETE
        found = [trial for trial in self.trials if trial.state == complete and trial.value is not None]
        return sorted(found, key=lambda trial: (-(trial.value or 0.0), trial.number))

    def begin(self) -> optuna.Trial:
        """A new trial."""
        return self.study.ask()

    def unfinished(self) -> list[optuna.Trial]:
        """Trials that were begun and interrupted."""
        running = self._optuna.trial.TrialState.RUNNING
        return [self._optuna.trial.Trial(self.study, t._trial_id) for t in self.trials if t.state == running]

    def choose(self, trial: optuna.Trial) -> dict[str, Any]:
        """The trial's choices; the same ones however often it is asked."""
        samplers = {"tpe": self._optuna.samplers.TPESampler, "random": self._optuna.samplers.RandomSampler}
        self.study.sampler = samplers[self._sampler](seed=(self._seed + trial.number) % 2**32)
        return self._space.choose(trial)

    def should_stop(self, trial: optuna.Trial, accuracies: Sequence[float]) -> bool:
        """Tell a trial's accuracies so far, one an epoch; whether it is behind. The first runs never are."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch in range(len(known) + 1, len(accuracies) + 1):
            trial.report(accuracies[epoch - 1], epoch)
            if trial.number >= len(self._space.first) and trial.should_prune():
                return True
        return False

    def finish(self, trial: optuna.Trial, accuracy: float) -> None:
        """A run is complete."""
        self.study.tell(trial, accuracy)

    def stop(self, trial: optuna.Trial) -> None:
        """A run was behind, and has stopped."""
        self.study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)

    def fail(self, trial: optuna.Trial) -> None:
        """A run has failed."""
        self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
