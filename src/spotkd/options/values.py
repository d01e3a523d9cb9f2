"""What follows from the metadata beside the fields: checks of values, and what two sets of options differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from ..errors import SpotkdError
from .fields import Option, known_options
from .grammar import parse_names
from .run import DataOptions, DistillOptions, OptimOptions, RunOptions

STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 6000, 30, 240  # of a run whose epochs are not given
_MEASURED = ("data.mean", "data.std")  # by a run itself, where they are not given
AnyOptions = TypeVar("AnyOptions", bound=Any)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their full names, as ``optim.lr``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def with_values(options: AnyOptions, values: Mapping[str, Any]) -> AnyOptions:
    """A copy with other values, by full name: ``with_values(options, {"out": "runs/a", "optim.lr": 0.1})``."""
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, dot, rest = name.partition(".")
        if dot:
            below.setdefault(section, {})[rest] = value
        else:
            own[name] = value
    sections = {section: with_values(getattr(options, section), inner) for section, inner in below.items()}
    return replace(options, **own, **sections)


def from_values(kind: type, values: Mapping[str, Any]) -> Any:
    """Options of a kind from values of the right types, section by section; what is left out has its default."""
    hints = get_type_hints(kind)
    sections = {name: hints[name] for name in values if is_dataclass(hints[name])}
    return kind(**{**values, **{name: from_values(section, values[name]) for name, section in sections.items()}})


def check_values(options: Any) -> None:
    """Every value must lie within the bounds of its option, and follow its grammar if it has one.

    Raises:
        SpotkdError: which one does not, and what it must be.
    """
    for name, value, known in _values(options):
        problem = known.problem(value)
        if problem is not None:
            raise SpotkdError(f"{name} is {value}: {problem}")
        if known.parse is not None:
            known.parse(value)


def _values(options: Any) -> Iterator[tuple[str, Any, Option]]:
    """Full name, value and metadata of every option."""
    for name, known in known_options(type(options)).items():
        value = options
        for part in name.split("."):
            value = getattr(value, part)
        yield name, value, known


def changes_of_run(was: RunOptions, now: RunOptions) -> list[str]:
    """In what options differ that must stay while a run lasts: ``epochs was 2 and is 4``."""
    known = known_options(type(now))
    before, after = flatten(asdict(was)), flatten(asdict(now))
    return [
        f"{name} was {before.get(name)} and is {after.get(name)}"
        for name in {**before, **after}
        if before.get(name) != after.get(name) and not (name in known and known[name].may_change)
    ]


def result_options(options: RunOptions) -> dict[str, Any]:
    """What of the options decides what is learnt, section by section, with defaults that depend on others filled in."""
    content = asdict(options)
    for name, known in known_options(type(options)).items():
        if known.affects != "result":
            *sections, key = name.split(".")
            place = content
            for section in sections:
                place = place[section]
            del place[key]
    content["optim"]["lr"] = learning_rate(options.optim)
    if options.optim.schedule == "multistep" and options.epochs != "auto":
        content["optim"]["milestones"] = milestones(options.optim, options.epochs)
    return content


def result_differences(one: RunOptions, other: RunOptions) -> list[str]:
    """Names of the options that decide what is learnt and differ, as ``optim.lr``."""
    mine, theirs = flatten(result_options(one)), flatten(result_options(other))
    return [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]


def describe_teachers(options: DistillOptions) -> str:
    """``resnet56``, or ``resnet56 and 2 others`` where there are more."""
    others = len(parse_names(options.more_teachers) or ())
    return options.teacher.name + (f" and {others} other{'s' * (others > 1)}" if others else "")


def deviations(run: RunOptions, plan: RunOptions) -> list[str]:
    """Names of the options that decide what is learnt in which a run deviates from what was planned for it.

    What a run measures, where its plan leaves it open, is none.
    """
    planned = flatten(result_options(plan))
    return [name for name in result_differences(run, plan) if name not in _MEASURED or planned[name] is not None]


def options_of_test_images(options: RunOptions) -> dict[str, Any]:
    """The options of the data set that must be known to find the same test images again."""
    return {name: getattr(options.data, name) for name in test_image_keys()}


def tested_images(options: RunOptions) -> tuple[Any, ...]:
    """What is alike in two runs that were tested on the same images: concealed ones are the validation images."""
    data = options.data
    return (data.name, *options_of_test_images(options).values(), data.val_share if data.conceal_test else None)


def test_image_keys() -> list[str]:
    """Their names, in the order of the files."""
    known = known_options(DataOptions)
    places = {name: option.test_image_key for name, option in known.items() if option.test_image_key is not None}
    return sorted(places, key=places.__getitem__)


def epochs_for(options: RunOptions, images: int) -> int:
    """The passes over so many training images: those asked for, or as many as suit a set of this size.

    A small set needs more passes than a large one, since what a network learns is a matter of steps; but it is learnt
    by heart in the end, and a large one holds more in each pass.
    """
    if options.epochs != "auto":
        return options.epochs
    steps_per_epoch = -(-images // options.batch_size)
    return min(max(round(STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)


def learning_rate(optim: OptimOptions) -> float:
    """The learning rate that was asked for, or the one that is usual with this optimizer."""
    return {"sgd": 0.05, "adamw": 0.001}[optim.kind] if optim.lr is None else optim.lr


def check_dot(optim: OptimOptions, compiled: bool, has_teacher: bool) -> None:
    """What DOT, two momenta, goes with.

    Raises:
        SpotkdError: an option that excludes it.
    """
    delta, momentum = optim.dot_delta, optim.momentum
    if not has_teacher:
        raise SpotkdError("optim.dot_delta has no effect: without a teacher there is one gradient; leave it out")
    if not delta <= momentum < 1 - delta:
        raise SpotkdError(
            f"optim.dot_delta is {delta:g}: with optim.momentum {momentum:g} both momenta must be between 0 and 1"
        )
    for key, excluded in (("optim.kind adamw", optim.kind == "adamw"), ("optim.clip", optim.clip)):
        if excluded:
            raise SpotkdError(f"optim.dot_delta is for SGD as it is; leave out it or {key}")
    if compiled:
        raise SpotkdError("optim.dot_delta takes two gradients, and compiled passes give one; leave it out, or compile")


def warmup(optim: OptimOptions, epochs: int) -> float | None:
    """The epochs in which the rate of a cosine schedule rises, a twentieth of all by default; None for other schedules.

    Raises:
        SpotkdError: it takes the whole run; or it is given beside another schedule.
    """
    if optim.schedule != "cosine":
        if optim.warmup is not None:
            raise SpotkdError("optim.warmup belongs to optim.schedule cosine; leave it out")
        return None
    if optim.warmup is None:
        return epochs / 20
    if optim.warmup >= epochs:
        raise SpotkdError(f"optim.warmup is {optim.warmup:g}: it must be below epochs={epochs}")
    return optim.warmup


def milestones(optim: OptimOptions, epochs: int) -> list[int] | None:
    """The last epoch before each drop of the rate, counted from 1; the paper's 150, 180, 210 of 240 by default.

    None for other schedules, which have none.

    Raises:
        SpotkdError: they do not rise, or lie outside of the run; or they are given beside another schedule.
    """
    chosen = optim.milestones
    if optim.schedule != "multistep":
        if chosen is not None:
            raise SpotkdError(f"optim.milestones belong to optim.schedule multistep; {optim.schedule} has none")
        return None
    if chosen is None:
        return [round(epochs * share) for share in (5 / 8, 6 / 8, 7 / 8)]
    if any(not 1 <= epoch <= epochs for epoch in chosen) or sorted(set(chosen)) != chosen:
        raise SpotkdError(f"optim.milestones is {chosen}: give rising epochs between 1 and epochs={epochs}")
    return chosen
