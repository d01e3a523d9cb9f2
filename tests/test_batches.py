"""What a user's own loop may give: labels of any kind that makes sense, and one line for what does not."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spotkd import DISTILLERS, STRATEGIES, Batch, Dataset, SpotKD, SpotkdError, Supervised, stage
from spotkd.data import ImageSet

from .conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller

Pair = tuple[TinyNet, TinyNet]
INDICES = torch.tensor([3, 8, 11, 0, 22, 25, 17, 29])
LABELS = TRAINING_LABELS[INDICES]


def images(size: int = 8) -> Tensor:
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def build(pair: Pair, distiller: str, strategy: str = "always") -> SpotKD:
    torch.manual_seed(1)
    teacher, student = for_distiller(pair, distiller)
    return SpotKD(
        teacher, student, distiller, strategy, image_shape=IMAGE_SHAPE, labels=TRAINING_LABELS,
        options=OPTIONS.get(distiller),
    ).double()  # fmt: skip


def terms(method: SpotKD, labels: Tensor) -> Tensor:
    torch.manual_seed(2)
    losses = method(Batch(images(), labels, INDICES))
    return torch.stack([losses.task, losses.kl, losses.distill, losses.route])


KINDS = [Tensor.int, Tensor.short, lambda x: F.one_hot(x, 5), lambda x: F.one_hot(x, 5).float()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distiller", DISTILLERS)
def test_labels_of_other_kinds_mean_the_same(distiller: str, kind: Callable[[Tensor], Tensor], pair: Pair) -> None:
    expected = terms(build(pair, distiller, "adaptive"), LABELS)
    torch.testing.assert_close(terms(build(pair, distiller, "adaptive"), kind(LABELS)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("distiller", ["kd", "dkd", "dist", "crd"])
def test_mixed_labels(distiller: str, strategy: str, pair: Pair) -> None:
    mixed = 0.7 * F.one_hot(LABELS, 5) + 0.3 * F.one_hot(LABELS.flip(0), 5)
    method = build(pair, distiller, strategy)
    found = terms(method, mixed.float())
    assert torch.isfinite(found).all()
    logits = method.student(images())
    expected = -(mixed.double() * logits.log_softmax(1)).sum(1).mean()
    if strategy != "joint":
        torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((images().mul(255).byte(), LABELS), "images are torch.uint8: give floats"),
        ((images(10), LABELS), r"images are (3, 10, 10), and the features that are compared were built for"),
        ((images()[:0], LABELS[:0]), "images are (0, 3, 8, 8): give (B, C, H, W), of one image at least"),
        ((images()[0], LABELS), "images are (3, 8, 8): give (B, C, H, W)"),
        ((images().float(), LABELS), "images are torch.float32 and the networks' weights torch.float64: give one as"),
        ((images(), LABELS[:, None]), "labels are (8, 1) of torch.int64 for 8 images: give class indices (B,), or"),
        ((images(), torch.full((8,), -100)), "labels are indices of 5 classes, from 0 to 4"),
        ((images(), LABELS[:5]), "labels are (5,) of torch.int64 for 8 images"),
        ((images(), LABELS.float()), "labels are (8,) of torch.float32 for 8 images: give class indices (B,), or"),
        ((images(), LABELS[:, None, None]), "labels are (8, 1, 1)"),
        ((images(), torch.rand(8, 7)), "labels have 7 classes and the logits 5"),
        ((images(), LABELS + 5), "labels are indices of 5 classes, from 0 to 4"),
        ((images(), -LABELS - 1), "labels are indices of 5 classes, from 0 to 4"),
        ((images(),), "a batch is (images, labels)"),
        (images(), "a batch is (images, labels)"),
    ],
)
def test_what_makes_no_sense_gets_one_line(given: tuple[Tensor, ...], told: str, pair: Pair) -> None:
    for method in (build(pair, "at"), Supervised(pair[1])):
        if isinstance(method, Supervised) and ("compared" in told or "weights" in told):
            continue
        with pytest.raises(SpotkdError, match=re.escape(told)) as caught:
            method(given)
        assert "\n" not in str(caught.value)


def test_logits_alone_take_images_of_any_size(pair: Pair) -> None:
    assert torch.isfinite(build(pair, "kd")((images(12), LABELS)).total)


class Probabilities(nn.Module):
    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head, self.end = nn.Linear(4, 5), end

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.head(self.features(x).flatten(1)))
        return out


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_network_that_ends_in_a_softmax_is_refused(which: str, pair: Pair) -> None:
    other = stage(Probabilities(nn.Identity()), image_shape=IMAGE_SHAPE)
    soft = TinyNetWithSoftmax()
    teacher, student = (soft, other) if which == "teacher" else (other, soft)
    with pytest.raises(SpotkdError, match=f"the {which} puts out probabilities .* take the softmax away"):
        SpotKD(teacher, student, "kd", image_shape=IMAGE_SHAPE)


class TinyNetWithSoftmax(TinyNet):
    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        *before, last = super().stages()
        return (*before, lambda x: last(x).softmax(1))


def test_logarithms_of_probabilities_are_logits(pair: Pair) -> None:
    class Logarithms(TinyNet):
        def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
            *before, last = super().stages()
            return (*before, lambda x: last(x).log_softmax(1))

    plain, logarithms = TinyNet(6).double(), Logarithms(6).double()
    logarithms.load_state_dict(plain.state_dict())
    student = pair[1]
    found = [
        SpotKD(t.eval(), student, "kd", "always", image_shape=IMAGE_SHAPE)((images(), LABELS)).kl
        for t in (plain, logarithms)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (torch.rand(10), "labels of training images are torch.float32"),
        (torch.arange(5), "has 10 training images and 5 labels"),
        (torch.arange(10) % 7, "has label 6"),
    ],
)
def test_a_data_set_with_labels_that_are_no_indices(labels: Tensor, told: str) -> None:
    split = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), labels)
    with pytest.raises(SpotkdError, match=told):
        Dataset("mine", split, split, tuple("abcde"), (0.3,), (0.3,))


def test_indices_of_other_samples_than_the_memorys_get_one_line(pair: Pair) -> None:
    for indices in (torch.full((8,), 30), torch.full((8,), -1)):
        with pytest.raises(SpotkdError, match=r"Batch\.indices must be from 0 to 29: CRD was given 30 labels"):
            build(pair, "crd")(Batch(images(), LABELS, indices))


def test_networks_without_stages_get_one_line(pair: Pair) -> None:
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    for networks, which in (((plain, pair[1]), "teacher"), ((pair[0], plain), "student")):
        with pytest.raises(SpotkdError, match=rf"the {which} is a Sequential, and has no stages: give stage\("):
            SpotKD(*networks, image_shape=IMAGE_SHAPE)
    with pytest.raises(SpotkdError, match=r"image_shape is \(8, 8\): give \(C, H, W\)"):
        SpotKD(*pair, image_shape=(8, 8))
