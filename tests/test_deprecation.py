"""Former names work for one more release and warn which name took their place."""

from __future__ import annotations

import pytest
import torch

import spotkd
from spotkd import Batch, SpotKD, Supervised
from spotkd.distillers import AT

from .conftest import IMAGE_SHAPE, TinyNet


@pytest.mark.parametrize(("old", "new"), [("compiled", "compile_method"), ("folded", "fold_batchnorm")])
def test_renamed_functions(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^spotkd\.{old} is now spotkd\.{new}; ") as caught:
        found = getattr(spotkd, old)
    assert found is getattr(spotkd, new)
    assert caught[0].filename == __file__  # the line that uses the old name
    assert old not in spotkd.__all__


def test_an_unknown_name_is_still_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'foldet'"):
        spotkd.foldet  # noqa: B018


def test_renamed_methods_give_what_the_new_ones_give(pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    teacher, student = pair
    student.eval()
    with pytest.warns(DeprecationWarning, match=r"^StagedModel\.observe is now features_and_preactivations; "):
        old = student.observe(batch.images)
    for some, others in zip(old, student.features_and_preactivations(batch.images), strict=True):
        assert all(map(torch.equal, some, others))

    method = SpotKD(teacher, student, "at", image_shape=IMAGE_SHAPE, gamma=2.0, share_cost=0.5)
    high, low = torch.tensor(3.0), torch.tensor(2.0)
    with pytest.warns(DeprecationWarning, match=r"^SpotKD\.class_weighted is now gamma_weighted; "):
        assert method.class_weighted(high, low) == method.gamma_weighted(high, low) == 6
    with pytest.warns(DeprecationWarning, match=r"^SpotKD\.share_terms is now share_penalty; "):
        assert method.share_terms(torch.ones(2)) == method.share_penalty(torch.ones(2)) == 1
    with pytest.warns(DeprecationWarning, match=r"\.passes is now compilable_calls; "):
        assert method.passes() == method.compilable_calls()
    with pytest.warns(DeprecationWarning, match=r"\.passes is now compilable_calls; "):
        assert Supervised(student).passes() == [(student, "forward")]


def test_renamed_attributes_are_read_and_set(pair: tuple[TinyNet, TinyNet]) -> None:
    method = SpotKD(*pair, "at", image_shape=IMAGE_SHAPE)
    with pytest.warns(DeprecationWarning, match=r"\.memory is now teacher_cache; "):
        found = method.memory
    assert found is None
    with pytest.warns(DeprecationWarning, match=r"\.remember_teacher is now cache_teacher; "):
        method.remember_teacher(30, itemsize=8)
    assert method.teacher_cache is not None
    with pytest.warns(DeprecationWarning, match=r"\.memory is now teacher_cache; "):
        found = method.memory
    assert found is method.teacher_cache
    with pytest.warns(DeprecationWarning, match=r"\.memory is now teacher_cache; "):
        setattr(method, "memory", kept := object())  # noqa: B010  # of a type that the checker refuses
    assert method.teacher_cache is kept

    assert isinstance(method.distiller, AT)
    with pytest.warns(DeprecationWarning, match=r"^Distiller\.ramp is now warmup_factor; "):
        method.distiller.ramp = 0.5
    assert method.distiller.warmup_factor == 0.5
    with pytest.warns(DeprecationWarning, match=r"^Distiller\.ramp is now warmup_factor; "):
        assert method.distiller.ramp == 0.5


def test_the_class_knows_its_former_names_too() -> None:
    with pytest.warns(DeprecationWarning, match=r"\.remember_teacher is now cache_teacher; "):
        assert SpotKD.remember_teacher is SpotKD.cache_teacher
