"""The paper's own accuracies stand beside ours, with the caution that they need."""

from __future__ import annotations

from statistics import fmean

import pytest

from spotkd import DISTILLERS, MODELS
from spotkd.published import CAUTION, published_results, published_top1
from spotkd.recipes import as_yaml, recipe_names, resolved


def test_every_published_pair_is_an_experiment_by_name() -> None:
    known = set(recipe_names())
    for data, distiller, teacher, student in published_results():
        assert {teacher, student} <= set(MODELS)
        assert distiller in DISTILLERS
        assert f"{data}/{distiller}/{teacher}-{student}" in known


def test_their_gain_is_what_the_tables_say() -> None:
    pairs = published_results()
    gains = {key: pair.sakd - pair.standard for key, pair in pairs.items()}
    assert len(gains) == 149
    assert fmean(gain for key, gain in gains.items() if key[0] == "tiny-imagenet") == pytest.approx(0.43, abs=0.005)
    assert sum(gain > 0 for gain in gains.values()) == 138


def test_a_recipe_is_shown_with_the_papers_numbers() -> None:
    shown = as_yaml(resolved("cifar100/fitnet/resnet56-resnet20", {}))
    assert shown.startswith(f"# In the paper: 71.34 % by SAKD, 71.05 % at every spot; {CAUTION}.\n")
    assert not as_yaml(resolved("cifar100/single/resnet56", {})).startswith("# In the paper")


def test_where_the_paper_has_no_number() -> None:
    pair = ("cifar100", "fitnet", "resnet56", "resnet20")
    assert (published_top1(*pair, "adaptive"), published_top1(*pair, "always")) == (71.34, 71.05)
    assert published_top1(*pair, "random") is None
    assert published_top1("glyph94", *pair[1:], "always") is None
