"""Former public names of the data's classes and functions work for one more release, with a warning."""

from __future__ import annotations

import pytest
import torch

import spotkd.data
from spotkd.data import EpochSpec, ImageSet, Preprocessing

FORMER = {
    "Pass": "EpochSpec",
    "canonical": "resolve_name",
    "picked": "pick_images",
    "prepare": "normalise",
    "preprocessing_of": "make_preprocessing",
}


@pytest.mark.parametrize("old", FORMER)
def test_functions_and_classes(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^spotkd\.data\.{old} is now {FORMER[old]};"):
        found = getattr(spotkd.data, old)
    assert found is getattr(spotkd.data, FORMER[old])
    assert FORMER[old] in spotkd.data.__all__
    assert old not in spotkd.data.__all__


def test_what_never_was() -> None:
    with pytest.raises(AttributeError, match=r"^module 'spotkd\.data' has no attribute 'nothing'$"):
        getattr(spotkd.data, "nothing")  # noqa: B009  # type checkers know that it is missing


def test_methods() -> None:
    rows, epoch = torch.arange(7), EpochSpec(7, rank=1, processes=2)
    with pytest.warns(DeprecationWarning, match="EpochSpec.own is now take_shard"):
        assert torch.equal(epoch.own(rows), epoch.take_shard(rows))
    with pytest.warns(DeprecationWarning, match="EpochSpec.part is now shard"):
        assert epoch.part(7) == epoch.shard(7)
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    preprocessing = Preprocessing((4, 4), (0.5,), (0.5,))
    with pytest.warns(DeprecationWarning, match="Preprocessing.normalised is now normalise"):
        assert torch.equal(preprocessing.normalised(images), preprocessing.normalise(images))
    split = ImageSet(images.repeat(3, 1, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1]))
    data = spotkd.data.Dataset("six", split, split, ("a", "b"), (0.5,), (0.5,))
    with pytest.warns(DeprecationWarning, match="Dataset.holding_out is now hold_out"):
        assert len(data.holding_out(0.3).train) == 4
