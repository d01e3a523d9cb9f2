"""Decisions without sampling noise, and pictures that are drawn."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.image import imread

from spotkd import Dataset, Loader, SpotKD
from spotkd.analysis import plot_accuracy, plot_decisions, plot_shares, teacher_probability

from ..conftest import TinyNet

Pair = tuple[TinyNet, TinyNet]


def test_probability_is_the_closed_form(pair: Pair, tiny_data: Dataset) -> None:
    teacher, student = (network.float() for network in pair)
    method = SpotKD(teacher, student, "at", image_shape=tiny_data.image_shape).train()
    probability = teacher_probability(method, Loader(tiny_data, tiny_data.test, 7, training=False))
    assert method.student.training
    assert probability.shape == (40, 4)
    images = next(iter(Loader(tiny_data, tiny_data.test, 40, training=False).epoch(0))).images
    method.eval()
    inputs = torch.cat([method.teacher.features(images)[-2], method.student.features(images)[-2]], dim=1)
    weight, bias = method.policy.linear.weight.view(4, 2, -1), method.policy.linear.bias.view(4, 2)
    expected = torch.sigmoid(inputs @ (weight[:, 0] - weight[:, 1]).T + bias[:, 0] - bias[:, 1])
    torch.testing.assert_close(probability, expected, atol=1e-6, rtol=0)


def test_without_a_policy_it_is_what_the_strategy_does(pair: Pair, tiny_data: Dataset) -> None:
    teacher, student = (network.float() for network in pair)
    for strategy, expected in (("always", 1.0), ("random", 0.5), ("never", 0.0)):
        method = SpotKD(teacher, student, "at", strategy, image_shape=tiny_data.image_shape)
        probability = teacher_probability(method, Loader(tiny_data, tiny_data.test, 7, training=False))
        assert probability.shape == (40, 4)
        assert (probability == expected).all()


def test_pictures_are_drawn(tiny_data: Dataset, tmp_path: Path) -> None:
    curves = {"one": [10.0, 50.0, 60.0], "two": [20.0, 55.0, 61.0]}
    plot_accuracy(curves, tmp_path / "a.png")
    plot_shares({"layer1": [0.2, 0.5], "logits": [1.0, 1.0]}, tmp_path / "s.png")
    plot_decisions(tiny_data.test, torch.rand(40, 2), ("layer1", "logits"), tmp_path / "d.png", count=4)
    for name in ("a", "s", "d"):
        picture = imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.05  # not blank
