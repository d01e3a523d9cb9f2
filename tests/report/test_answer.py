"""The first lines of the page: which runs belong together, what is compared with what, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spotkd.analysis import Inspection
from spotkd.options import DistillOptions, ModelOptions, PolicyOptions, TrainOptions
from spotkd.report.answer import answer_question, describe_price, pick_subject
from spotkd.report.compare import Comparison
from spotkd.report.effects import Effect, find_controls, measure_effect
from spotkd.report.groups import Group, group_runs
from spotkd.report.patterns import describe_patterns
from spotkd.report.run_record import RunRecord
from spotkd.report.run_summary import tell_apart
from spotkd.report.section import Section
from spotkd.runs.summary import Scores, Summary
from spotkd.runs.tables import Decisions

ALWAYS = DistillOptions(distiller="at", strategy="always", student=ModelOptions("resnet8"))
ADAPTIVE = replace(ALWAYS, strategy="adaptive", policy=PolicyOptions(target_share=0.6))
KD = replace(ALWAYS, distiller="kd")
ALONE = TrainOptions(model=ModelOptions("resnet8"))


def made(
    name: str, options: Any, top1: float | None, seed: int = 0, seconds: float = 10.0, share: float = 0.5
) -> Section:
    """A finished run with this result; without one, a run that has not finished."""
    options = replace(options, seed=seed)
    summary = None
    if top1 is not None:
        scores = Scores(top1, 90.0, 1.0, 1000)
        summary = Summary("resnet8", scores, "last epoch", 3, scores, 3, seconds, {}, Path(name), "cpu", "a machine")
    metrics = {"epoch": [1.0], "test_top1": [1.0]}
    adaptive = getattr(options, "strategy", "") == "adaptive"
    if isinstance(options, DistillOptions):
        metrics |= {f"share_{spot}": [share if adaptive else 1.0] for spot in ("layer1", "logits")}
    run = RunRecord(name, Path(name), options, "", metrics, summary, Decisions((), (), None))
    return Section(run, learns=adaptive, step_milliseconds=seconds)


def counted(only_before: int, only_after: int) -> Comparison:
    return Comparison("a", "b", 500, only_before, only_after, 500 - only_before - only_after, 1.0, [], [])


def effects_of(groups: list[Group], subject: Group, comparison: Comparison | None = None) -> list[Effect]:
    found = [measure_effect(subject, control, lambda *_: comparison) for control in find_controls(subject, groups)]
    return [effect for effect in found if effect is not None]


def test_seeds_of_a_configuration_belong_together() -> None:
    groups = group_runs(
        [made("teacher", TrainOptions(model=ModelOptions(ALWAYS.teacher.name)), 80)]
        + [made(f"sakd-{seed}", ADAPTIVE, 70 + seed, seed) for seed in (2, 0, 1)]
        + [made("at/seed0", ALWAYS, 68), made("at/seed1", ALWAYS, 69, 1), made("kd", KD, 75), made("alone", ALONE, 50)]
    )
    assert [(group.name, group.role) for group in groups] == [
        ("sakd", "adaptive"), ("at", "always"), ("kd", "kd"), ("alone", "alone"), ("teacher", "teacher"),
    ]  # fmt: skip
    assert [run.options.seed for run in groups[0].runs] == [0, 1, 2]
    assert groups[0].top1 is not None
    assert (groups[0].top1.mean, groups[0].top1.std) == (71, 1)


def test_the_answer_names_control_interval_and_price() -> None:
    groups = group_runs(
        [made(f"sakd-{seed}", ADAPTIVE, 70 + seed / 10, seed, seconds=20) for seed in range(3)]
        + [made(f"at-{seed}", ALWAYS, 69 - seed / 10, seed) for seed in range(3)]
        + [made("kd", KD, 60), made("alone", ALONE, 50)]
    )
    subject = pick_subject(groups)
    assert subject is not None
    answer = answer_question(subject, effects_of(groups, subject, counted(10, 60)), groups)
    assert answer.verdict == "better"
    assert answer.sentence.startswith(
        "Yes: sakd (at, adaptive) is better than the same distiller at every spot (at): +1.20 points, 95 % interval "
    )
    assert answer.sentence.endswith(", 3 seeds.")
    price, kd, alone = answer.more
    assert price.startswith(
        "Price: training took 2 times as long as that of at (20 s instead of 10 s, 20 instead of 10 ms a step)"
    )
    assert kd.startswith("Beside plain KD (kd): +")
    assert alone.startswith("Beside the student alone (alone): +")
    assert answer.command is None


@pytest.mark.parametrize(
    ("only_before", "only_after", "verdict", "words"),
    [
        (10, 60, "better", "Yes: "),
        (60, 10, "worse", "No: sakd (at, adaptive) is worse than"),
        (20, 22, "open", "Not shown: "),
    ],
)
def test_one_run_each_is_judged_by_its_images(only_before: int, only_after: int, verdict: str, words: str) -> None:
    groups = group_runs([made("sakd", ADAPTIVE, 70), made("at", ALWAYS, 69)])
    answer = answer_question(groups[0], effects_of(groups, groups[0], counted(only_before, only_after)), groups)
    assert answer.verdict == verdict
    assert answer.sentence.startswith(words)
    assert answer.sentence.endswith("one run each, 1000 test images.")


def test_without_a_control_the_command_that_makes_it() -> None:
    groups = group_runs([made("sakd", ADAPTIVE, 70), made("alone", TrainOptions(model=ModelOptions("vgg8")), 69)])
    answer = answer_question(groups[0], effects_of(groups, groups[0]), groups)
    assert answer.verdict == "none"
    assert answer.command is not None
    assert "adaptive" not in answer.command
    assert "sakd-always" in answer.command


def test_a_control_that_differs_in_little_says_so() -> None:
    groups = group_runs([made("sakd", ADAPTIVE, 70), made("at", replace(ALWAYS, alpha=2.0), 69)])
    (control,) = find_controls(groups[0], groups)
    assert control.label == "the same distiller at every spot (at, which also differs in alpha)"


def test_a_policy_that_decides_nothing_is_named() -> None:
    groups = group_runs([made("settled", ADAPTIVE, 90, share=1.0), made("sakd", replace(ADAPTIVE, alpha=2.0), 70)])
    said = groups[0].sections[0].ordinary
    assert said is not None
    assert said.startswith("This run is ordinary distillation")
    assert groups[1].sections[0].ordinary is None
    subject = pick_subject(groups)
    assert subject is not None
    assert subject.name == "sakd", "the one that decides something"


def test_configurations_of_a_kind_are_told_apart() -> None:
    groups = group_runs(
        [
            made("a", ADAPTIVE, 70),
            made("b", replace(ADAPTIVE, alpha=2.0, policy=PolicyOptions()), 69),
            made("at", ALWAYS, 60),
        ]
    )
    assert [tell_apart(group, groups) for group in groups] == [
        "alpha 1.0, target_share 0.6", "alpha 2.0, target_share unset", "",
    ]  # fmt: skip


def test_a_teacher_that_guesses_is_named() -> None:
    groups = group_runs([replace(made("sakd", ADAPTIVE, 70), teacher_guesses=True), made("at", ALWAYS, 69)])
    answer = answer_question(groups[0], effects_of(groups, groups[0], counted(10, 60)), groups)
    assert "Its teacher does no better than guessing: there is nothing to learn from it." in answer.more


def test_prices_of_different_machines_are_not_compared() -> None:
    ours, theirs = group_runs([made("sakd", ADAPTIVE, 70), made("at", ALWAYS, 69)])
    assert ours.runs[0].summary is not None
    moved = replace(ours.runs[0], summary=replace(ours.runs[0].summary, machine="another"))
    group = Group("sakd", "adaptive", (Section(moved),))
    assert describe_price(group, theirs) == ("Price: not compared, since the two were trained on different machines.")
    assert describe_price(ours, theirs) is not None


def test_runs_that_are_not_finished_have_no_result() -> None:
    groups = group_runs([made("sakd", ADAPTIVE, None), made("at", ALWAYS, 69)])
    subject = pick_subject(groups)
    assert subject is not None
    assert subject.name == "at"


def test_patterns_are_told_in_words() -> None:
    right = np.array([True, False] * 50)
    wrong_first = np.where(right, 0.2, 0.8)
    flat, noise = np.full(100, 0.9), np.linspace(0, 1, 100)
    labels = np.zeros(100, np.int64)
    inspection = Inspection(
        "test", 3, "adaptive", True, ("layer1", "layer2", "logits"), ("a", "b"), None, labels,
        np.stack([wrong_first, noise, flat], 1).astype(np.float32), np.ones(100, np.float32), np.ones(100, np.float32),
        labels, np.where(right, 0, 1), step=4,
    )  # fmt: skip
    assert list(describe_patterns(inspection)) == [
        "At layer1 the teacher is used more for samples that the student gets wrong "
        "(P(teacher) and 'student is right': r = -1.00).",
        "At layer2 no pattern was found: P(teacher) goes with neither network's loss or correctness.",
        "All samples are treated alike at logits (P = 0.90).",
    ]
    assert inspection.when == "inside epoch 4, after its step 4"


def test_classes_that_differ_are_named() -> None:
    labels = np.arange(100) % 4
    probability = np.stack([0.9 - 0.2 * labels, np.full(100, 1.0)], 1).astype(np.float32)
    ones = np.ones(100, np.float32)
    inspection = Inspection(
        "test", 3, "adaptive", True, ("layer1", "logits"), ("a", "b", "c", "d"), None, labels, probability, ones, ones,
        labels, labels,
    )  # fmt: skip
    assert list(describe_patterns(inspection))[1] == (
        "Classes differ: the teacher is used most for 'a' (90 %) and 'b' (70 %), least for 'd' (30 %) and 'c' (50 %)."
    )
