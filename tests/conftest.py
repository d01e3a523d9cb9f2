"""Small networks and data for all tests; one thread, since the tests themselves run side by side."""

from __future__ import annotations

import copy
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from spotkd.data import DATASETS, Dataset, DataSpec, ImageSet, Split, load_glyph94
from spotkd.stages import Batch, StagedModel

pytest_plugins = ["tests.tiers"]

torch.set_num_threads(1)
SPARE = 512 << 20  # bytes of memory that reading a stranger's file may take


@pytest.fixture(scope="session", autouse=True)
def entry_points_once() -> Iterator[None]:
    """Lightning looks for callbacks in all installed packages whenever a Fabric is made: once is enough here."""
    registry = sys.modules.get("lightning_fabric.utilities.registry")
    with pytest.MonkeyPatch.context() as patch:
        if registry is not None:
            patch.setattr(registry, "entry_points", cache(registry.entry_points))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[None]:
    """The key with which runs are signed is not that of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        # One for all workers, who share runs that were made once.
        made = made_once("settings", lambda _: None, tmp_path_factory, request.config)
        patch.setenv("XDG_CONFIG_HOME", str(made))
        yield


@pytest.fixture(scope="session")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """``teacher``, ``kd`` and ``sakd``: runs on images whose class names mean harm. Read them, or copy them."""
    from .hostile_runs import hostile_data, make_runs

    def make(folder: Path) -> None:
        with hostile_data(folder) as data:
            make_runs(folder, data)

    return made_once("hostile runs", make, tmp_path_factory, request.config)


def made_once(
    name: str, make: Callable[[Path], object], factory: pytest.TempPathFactory, config: pytest.Config
) -> Path:
    """A folder that is filled by whichever process of pytest-xdist needs it first; the others wait and find it."""
    base = factory.getbasetemp()
    folder = (base.parent if hasattr(config, "workerinput") else base) / name
    finished = folder.with_name(f"{name}.finished")
    with FileLock(f"{folder}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than a little memory beyond what the process has."""
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


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


@cache
def few_glyphs(train: int, test: int) -> Dataset:
    """The first images of glyph94, 94 a typeface."""
    data = load_glyph94()
    few_train, few_test = data.train.subset(torch.arange(train)), data.test.subset(torch.arange(test))
    return replace(data, train=few_train, test=few_test)


def instead_of_glyph94(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the small data set the large one's name, which is the usual one; so that no test takes 9 964 images."""

    def glyph94(spec: DataSpec) -> Dataset:
        """94 printable characters, of a few typefaces"""
        return small

    monkeypatch.setitem(DATASETS._entries, "glyph94", glyph94)


@pytest.fixture
def few_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two typefaces of glyph94 to train on and one to test."""
    instead_of_glyph94(few_glyphs(188, 94), monkeypatch)


@pytest.fixture
def untrained_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers need not know anything: for tests of what does not depend on it."""
    monkeypatch.setattr("spotkd.training.build.check_teacher", lambda *_, **__: None)
