"""What is searched: the choices for a run, and the options that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from ..data import load_data
from ..distillers import DISTILLERS
from ..distillers.base import LogitDistiller
from ..options import DistillOptions, PolicyOptions, PreparationOptions, SearchOptions, learning_rate, with_values
from ..options.grammar import parse_names
from ..registry import PYTHON
from ..routing import make_strategy
from ..training.build import data_spec

VAL_SHARE = 0.2  # of the training images, where nothing else is asked for and the data set brings no validation images
# Factors of what the run would have without a search: of the learning rate, and of the weights of both losses.
FACTORS = {"rate": (0.2, 5.0), "logits": (0.25, 4.0), "weight": (0.1, 10.0)}
_WEIGHT = "weight"  # which a distiller of the logits has not: theirs is that of the logits

Choices = Mapping[str, Any]


class Trial(Protocol):
    """What chooses: an Optuna trial."""

    def suggest_categorical(self, name: str, choices: list[str]) -> str: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...


@dataclass(frozen=True)
class Space:
    """The distillers and strategies to choose from; the first ones are those of the default.

    Raises:
        SpotkdError: an unknown name.
    """

    distillers: list[str]
    strategies: list[str]

    def __post_init__(self) -> None:
        for name in self.distillers:
            DISTILLERS[name]
        for name in self.strategies:
            make_strategy(name)

    @property
    def first(self) -> list[dict[str, Any]]:
        """The choices of the first runs: the default, and plain KD; once where they are the same."""
        default = _unchanged(self.distillers[0], self.strategies[0])
        kd = _unchanged("kd", "always")
        return [default] if kd == default else [default, kd]

    def choose(self, trial: Trial) -> dict[str, Any]:
        """Let a trial choose."""
        distiller = trial.suggest_categorical("distiller", self.distillers)
        choices: dict[str, Any] = {"distiller": distiller}
        choices["strategy"] = trial.suggest_categorical("strategy", self.strategies)
        for name, (low, high) in FACTORS.items():
            if name != _WEIGHT or _is_weighed(distiller):
                choices[name] = trial.suggest_float(name, low, high, log=True)
        return choices


def _unchanged(distiller: str, strategy: str) -> dict[str, Any]:
    names = [name for name in FACTORS if name != _WEIGHT or _is_weighed(distiller)]
    return {"distiller": distiller, "strategy": strategy, **dict.fromkeys(names, 1.0)}


def _is_weighed(distiller: str) -> bool:
    """Whether a distiller has a weight of its own."""
    found = DISTILLERS[distiller]
    return not (isinstance(found, type) and issubclass(found, LogitDistiller))


def make_space(options: SearchOptions) -> Space:
    """What these options let a search choose from.

    Raises:
        SpotkdError: an unknown name.
    """
    distillers = [options.distiller, "kd", *(parse_names(options.distillers) or ())]
    strategies = [options.strategy, "always", *(parse_names(options.strategies) or ())]
    return Space(list(dict.fromkeys(distillers)), list(dict.fromkeys(strategies)))


def base_options(options: SearchOptions) -> DistillOptions:
    """The options of every run, with validation images and without test images.

    Raises:
        SpotkdError: the data set is not there.
    """
    shared = {field.name: getattr(options, field.name) for field in fields(DistillOptions)}
    base = DistillOptions(**shared)
    if base.data.val_share == 0 and load_data(data_spec(base.data)).val is None:
        base = with_values(base, {"data.val_share": VAL_SHARE})
    return with_values(base, {"data.conceal_test": True, "quiet": True, "resume": "auto", "overwrite": True})


def trial_options(base: DistillOptions, choices: Choices) -> DistillOptions:
    """The options of one run; a factor of 1 leaves its option as it is."""
    distiller, strategy = choices["distiller"], choices["strategy"]
    values: dict[str, Any] = {"distiller": distiller, "strategy": strategy}
    if distiller != base.distiller:  # its options are no other's
        values |= {"options": {}, "spots": None, "beta": None, "temperature": None}
        values["preparation"] = PreparationOptions()
    if not make_strategy(strategy).learns and make_strategy(base.strategy).learns:
        values["policy"] = PolicyOptions()
    chosen = with_values(base, values)
    factors = {name: choices.get(name, 1.0) for name in FACTORS}
    weights: dict[str, Any] = {}
    if factors["rate"] != 1:
        weights["optim.lr"] = round_factor(learning_rate(base.optim) * factors["rate"])
    if factors["logits"] != 1:
        weights["alpha"] = round_factor(base.alpha * factors["logits"])
    if factors["weight"] != 1 and not distiller.startswith(PYTHON):
        weight = getattr(DISTILLERS[distiller], "default_weight", 1.0) if chosen.beta is None else chosen.beta
        weights["beta"] = round_factor(weight * factors["weight"])
    return with_values(chosen, weights)


def round_factor(value: float) -> float:
    """Three digits, as a person would write it."""
    return float(f"{value:.3g}")


def describe(base: DistillOptions, choices: Choices) -> str:
    """``at, always, lr 0.02, alpha 1.3, beta 240``: what a run does otherwise than the default."""
    options = trial_options(base, choices)
    words = [options.distiller, options.strategy]
    given = {"lr": options.optim.lr, "alpha": options.alpha, "beta": options.beta}
    before = {"lr": base.optim.lr, "alpha": base.alpha, "beta": None if options.beta is None else base.beta}
    words += [f"{name} {value:g}" for name, value in given.items() if value is not None and value != before[name]]
    return ", ".join(words)


def fingerprint(options: SearchOptions, base: DistillOptions, space: Space) -> dict[str, Any]:
    """What must stay the same for a search to be resumed, as plain values."""
    place = {"out", "overwrite", "resume", "quiet", "compare", "logger", "recipe", "accept_changes"}
    runs = {key: value for key, value in asdict(base).items() if key not in place}
    return {**runs, **asdict(space), "sampler": options.sampler, "prune": options.prune}
