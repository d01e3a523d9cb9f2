"""The first lines of the page: did it help, against what, by how much, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..training.controls import control_options
from .effects import Effect, name_control
from .groups import Group
from .run_record import repeat_command

_WORDS = {
    "better": ("Yes", "is better than"),
    "worse": ("No", "is worse than"),
    "open": ("Not shown", "is not shown to differ from"),
}
_SAME = 0.05  # a price that differs by no more is the same


@dataclass(frozen=True)
class Answer:
    """Did it help?

    Attributes:
        verdict: better, worse, open, or none where there is nothing to compare with.
        sentence: the answer.
        more: what else is to be known, a sentence each.
        command: what makes the missing control; None where it is there.
    """

    verdict: str
    sentence: str
    more: list[str] = field(default_factory=list)
    command: str | None = None


def pick_subject(groups: Sequence[Group]) -> Group | None:
    """What the page is about: a spot-adaptive configuration; without one, another distillation.

    Of several one that decides something, with the most seeds, and only then the best.
    """
    finished = [group for group in groups if group.top1 is not None and group.runs[0].distill_options is not None]
    alike = [group for group in finished if group.role == finished[0].role]  # in the order of their roles
    return min(alike, key=_weight, default=None)


def answer_question(subject: Group, own: Sequence[Effect], groups: Sequence[Group]) -> Answer:
    """The answer for one configuration, from its effects, the closest control first."""
    first_section = subject.sections[0]
    more = [first_section.ordinary] if first_section.ordinary is not None else []
    if first_section.teacher_guesses:
        more.append("Its teacher does no better than guessing: there is nothing to learn from it.")
    command = _missing_control(subject, own)
    if not own:
        sentence = f"{describe_group(subject)} cannot be judged: no run to compare it with is here."
        return Answer("none", sentence, more, command)
    first, *others = own
    answer, words = _WORDS[first.verdict]
    sentence = f"{answer}: {describe_group(subject)} {words} {first.control.label}: {first}."
    price = describe_price(subject, first.control.group)
    more = [price, *more] if price else more
    more += [f"Beside {effect.control.label}: {effect}." for effect in others]
    rivals = [group for group in groups if group.role == subject.role and _weight(group) == _weight(subject)]
    if len(rivals) > 1:
        more.append(
            f"The best of {len(rivals)} configurations of its kind, chosen by these test images, which flatters it."
        )
    if first.seeds == 1:
        more.append("One run each: the interval weighs the test images, and other seeds give other students.")
    return Answer(first.verdict, sentence, more, command)


def _weight(group: Group) -> tuple[bool, int]:
    """By which the subject of a page is chosen, before its accuracy: the lower the better."""
    return group.sections[0].ordinary is not None, -len([run for run in group.runs if run.summary is not None])


def _missing_control(subject: Group, effects: Sequence[Effect]) -> str | None:
    """The command that makes the closest control where it is not there."""
    run = subject.runs[0]
    if run.distill_options is None:
        return None
    key, options = next(iter(control_options(run.distill_options).items()))
    if any(effect.control.what == name_control(key) for effect in effects):
        return None
    return repeat_command(options, f"{run.folder}-{'always' if key.endswith('at every spot') else 'control'}")


def describe_group(group: Group) -> str:
    """``at, adaptive (sakd)``."""
    options = group.runs[0].distill_options
    return group.name if options is None else f"{group.name} ({options.distiller}, {options.strategy})"


def describe_price(ours: Group, theirs: Group) -> str | None:
    """What the one costs beside the other in training; None where that was not measured."""
    if ours.seconds is None or theirs.seconds is None or theirs.seconds <= 0:
        return None
    if _machines(ours) != _machines(theirs):
        return "Price: not compared, since the two were trained on different machines."
    ratio = ours.seconds / theirs.seconds
    times = "as long" if abs(ratio - 1) <= _SAME else f"{ratio:.2g} times as long"
    steps = (ours.step_milliseconds, theirs.step_milliseconds)
    a_step = f", {steps[0]:.3g} instead of {steps[1]:.3g} ms a step" if None not in steps else ""
    seconds = f"{ours.seconds:.3g} s instead of {theirs.seconds:.3g} s"
    return f"Price: training took {times} as that of {theirs.name} ({seconds}{a_step})."


def _machines(group: Group) -> set[tuple[str, str]]:
    return {(run.summary.machine, run.summary.device) for run in group.runs if run.summary is not None}
