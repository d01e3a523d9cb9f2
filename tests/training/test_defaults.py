"""What is chosen where the user chooses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spotkd.options import DistillOptions, OptimOptions, TrainOptions
from spotkd.options.values import epochs_for, result_options
from spotkd.recipes import resolved


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [(1, 64, 240), (1_200, 64, 240), (8_142, 64, 47), (50_000, 64, 30), (1_281_167, 256, 30), (6_400, 64, 60)],
)
def test_epochs_follow_the_number_of_steps(images: int, batch_size: int, epochs: int) -> None:
    assert epochs_for(TrainOptions(batch_size=batch_size), images) == epochs


def test_epochs_that_are_given_stay() -> None:
    assert epochs_for(DistillOptions(epochs=7), 1_200) == 7


def test_options_without_epochs_can_be_compared() -> None:
    multistep = TrainOptions(optim=OptimOptions(schedule="multistep"))
    assert result_options(multistep)["optim"]["milestones"] is None
    assert result_options(replace(multistep, epochs=8))["optim"]["milestones"] == [5, 6, 7]


def test_recipes_keep_the_papers_schedule() -> None:
    for name, overrides in (("cifar100/at/resnet56-resnet20", {}), ("cifar100/single/vgg8", {"epochs": "auto"})):
        options = resolved(name, overrides)
        assert (options.epochs, options.optim.schedule) == (240, "multistep")
