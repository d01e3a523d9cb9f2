"""Former names work for one more release and warn which name took their place."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

import spotkd
from spotkd import Batch, SpotKD, Supervised
from spotkd.data import Preprocessing
from spotkd.deploy import Classifier, Student, StudentMetadata
from spotkd.distillers import AT

from .conftest import IMAGE_SHAPE, TinyNet


@pytest.mark.parametrize(("old", "new"), [("compiled", "compile_method"), ("folded", "fold_batchnorm")])
def test_renamed_functions(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^spotkd\.{old} is now spotkd\.{new}; ") as caught:
        found = getattr(spotkd, old)
    assert found is getattr(spotkd, new)
    assert caught[0].filename == __file__  # the line that uses the old name
    assert old not in spotkd.__all__


@pytest.mark.parametrize(
    ("package", "old", "new"),
    [
        ("analysis", "split_of", "get_split"),
        ("deploy", "Exported", "ExportedFile"),
        ("deploy", "Facts", "StudentMetadata"),
        ("deploy", "Page", "HubPage"),
        ("deploy", "tabled", "save_predictions"),
        ("experiments", "teach", "find_or_train_teacher"),
        ("experiments", "teacher_for", "teacher_options"),
        ("report", "runs_below", "find_runs"),
    ],
)
def test_renamed_names_of_packages(package: str, old: str, new: str) -> None:
    module = import_module(f"spotkd.{package}")
    with pytest.warns(DeprecationWarning, match=rf"^spotkd\.{package}\.{old} is now {new}; ") as caught:
        found = getattr(module, old)
    assert found is getattr(module, new)
    assert caught[0].filename == __file__
    assert old not in module.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_what_is_known_of_a_student_is_its_metadata() -> None:
    metadata = StudentMetadata("resnet8", "glyph94", ("a", "b"), Preprocessing((8, 8), (0.2,), (0.35,), "grey"))
    student = Student(torch.nn.Identity(), metadata)
    with pytest.warns(DeprecationWarning, match=r"^Student\.facts is now Student\.metadata; "):
        assert student.facts is metadata
    with pytest.warns(DeprecationWarning, match=r"^Classifier\.facts is now Classifier\.metadata; "):
        assert Classifier(lambda images: images, metadata).facts is metadata


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


def test_former_names_of_options() -> None:
    from spotkd import config, options

    with pytest.warns(DeprecationWarning, match=r"spotkd\.config\.TrainConfig is now spotkd\.options\.TrainOptions"):
        assert config.TrainConfig is options.TrainOptions
    with pytest.warns(DeprecationWarning, match=r"read_config is now spotkd\.options\.read_options"):
        assert config.read_config is options.read_options
    with pytest.raises(AttributeError, match="no attribute 'NoConfig'"):
        _ = config.NoConfig
