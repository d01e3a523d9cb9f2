"""Small networks and data for all tests; one thread, since the tests themselves run side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spotkd.data import Dataset, ImageSet, Split
from spotkd.stages import Batch, StagedModel

pytest_plugins = ["tests.tiers"]

torch.set_num_threads(1)


class TinyNet(StagedModel):
    """Three maps, an embedding and logits; small enough for float64 and finite differences."""

    stage_names = ("stem", "layer1", "layer2", "layer3", "pool", "fc")

    def __init__(self, width: int = 4, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = self._block(3, width, 1)
        self.layer1 = self._block(width, width, 1)
        self.layer2 = self._block(width, 2 * width, 2)
        self.layer3 = self._block(2 * width, 3 * width, 2)
        self.fc = nn.Linear(3 * width, num_classes)

    @staticmethod
    def _block(width_in: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU())

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        return (self.stem, self.layer1, self.layer2, self.layer3, lambda x: x.mean((2, 3)), self.fc)


IMAGE_SHAPE = (3, 8, 8)
TRAINING_LABELS = torch.arange(30) % 5  # for distillers that keep a memory of the training set
OPTIONS = {"crd": {"negatives": 8}}  # by distiller: what suits so small a training set
EQUAL_WIDTH = ("fsp", "kdsvd")  # distillers that compare networks channel by channel


def randomise_statistics(model: nn.Module) -> None:
    """Running statistics and scales as a trained network has them, so that train and eval mode differ."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)


@pytest.fixture
def pair() -> tuple[TinyNet, TinyNet]:
    """A teacher and a narrower student in float64."""
    torch.manual_seed(0)
    teacher, student = TinyNet(6).double(), TinyNet(4).double()
    randomise_statistics(teacher)
    randomise_statistics(student)
    return teacher, student


def for_distiller(pair: tuple[TinyNet, TinyNet], distiller: object) -> tuple[TinyNet, TinyNet]:
    """Copies of the pair; the teacher as narrow as the student for distillers that need it."""
    teacher, student = copy.deepcopy(pair)
    if distiller in EQUAL_WIDTH:
        teacher = TinyNet(4).double()
        randomise_statistics(teacher)
    return teacher, student


@pytest.fixture
def batch() -> Batch:
    """Eleven images, an odd number, and which of the training samples they are."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(11, *IMAGE_SHAPE, generator=generator, dtype=torch.float64)
    indices = torch.randperm(30, generator=generator)[:11]
    return Batch(images, TRAINING_LABELS[indices], indices)


@pytest.fixture
def tiny_data() -> Dataset:
    """Forty grey images of five classes, told apart by their brightness."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(40) % 5
    noise = torch.randint(0, 40, (40, 1, 8, 8), generator=generator)
    images = (noise + 40 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    split = ImageSet(images, labels)
    return Dataset("tiny", split, split, tuple("abcde"), (0.3,), (0.3,), padding=1)


def in_memory(split: Split) -> ImageSet:
    """The split, known to lie in memory."""
    assert isinstance(split, ImageSet)
    return split


@pytest.fixture
def untrained_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers need not know anything: for tests of what does not depend on it."""
    monkeypatch.setattr("spotkd.training.build.check_teacher", lambda *_, **__: None)
