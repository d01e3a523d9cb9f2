"""What a data set is asked for with: the command line's options as plain values."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from spotkd import SpotkdError, load_dataset
from spotkd.data import DataSpec
from spotkd.options import DataOptions
from spotkd.training.build import data_spec, reopen_data


def test_options_and_spec_have_the_same_fields_and_defaults() -> None:
    of_options, of_spec = (
        [(field.name, field.type, field.default) for field in dataclasses.fields(kind)]
        for kind in (DataOptions, DataSpec)
    )
    assert of_options == of_spec


def test_options_become_a_spec() -> None:
    options = DataOptions("cifar10", root="there", limit=5, val_share=0.1, augment=False, workers=2)
    spec = data_spec(options)
    assert type(spec) is DataSpec
    assert dataclasses.asdict(spec) == dataclasses.asdict(options)


def test_a_spec_stays_as_it_is() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataSpec().name = "cifar10"  # type: ignore[misc]
    assert len({DataSpec(), DataSpec("glyph94"), DataSpec("cifar10")}) == 2


def test_an_unknown_field() -> None:
    with pytest.raises(SpotkdError, match=r"^load_dataset: .*'size'"):
        load_dataset("glyph94", size=32)


def test_the_data_set_of_a_run_that_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("spotkd.data.download.fetch", refuse)
    with pytest.raises(SpotkdError, match=r"let .--data.download true. fetch it"):
        reopen_data(DataOptions("cifar100", root=str(tmp_path), download=True))
