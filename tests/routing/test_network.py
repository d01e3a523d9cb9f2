"""The grafted network: its ends are the two networks themselves."""

from __future__ import annotations

import pytest
import torch

from spotkd.distillers import DISTILLERS, LogitDistiller
from spotkd.routing import RoutingNetwork
from spotkd.stages import Batch, FrozenTwin, feature_shapes

from ..conftest import IMAGE_SHAPE, TRAINING_LABELS, TinyNet, for_distiller


def build(pair: tuple[TinyNet, TinyNet], distiller: str) -> RoutingNetwork:
    teacher, student = (network.eval().requires_grad_(False) for network in pair)
    shapes = feature_shapes(student, IMAGE_SHAPE), feature_shapes(teacher, IMAGE_SHAPE)
    chosen = DISTILLERS[distiller](*shapes, labels=TRAINING_LABELS)
    return RoutingNetwork(() if isinstance(chosen, LogitDistiller) else chosen.spots, *shapes).double()


@pytest.mark.parametrize("distiller", list(DISTILLERS))
def test_all_teacher_and_all_student(distiller: str, pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    teacher, student = pair = for_distiller(pair, distiller)
    routing = build(pair, distiller)
    images = batch[0]
    features = teacher.features(images)
    decisions = len(routing.hints) + 1
    for value, network in ((1.0, teacher), (0.0, student)):
        route = torch.full((len(images), decisions), value, dtype=images.dtype)
        routed = routing(images, teacher, FrozenTwin(student), features, route)
        assert torch.equal(routed, network(images))


def test_each_sample_goes_its_own_way(pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    """With frozen batch statistics no sample sees another one, so rows can be checked one by one, by hand."""
    teacher, student = pair
    routing = build(pair, "at").eval()
    images = batch[0]
    torch.manual_seed(0)
    route = (torch.rand(len(images), 4) < 0.5).double()
    routed = routing(images, teacher, FrozenTwin(student), teacher.features(images), route)
    for b in range(len(images)):
        x_t = x_s = images[b : b + 1]
        for i, (start, stop) in enumerate([(0, 2), (2, 3), (3, 4), (4, 6)]):
            h_s, h_t = student.run(x_s, start, stop), teacher.run(x_t, start, stop)
            to_teacher = bool(route[b, i])
            if i == 3:
                expected = h_t if to_teacher else h_s
                continue
            x_t = h_t if to_teacher else routing.hints[i](h_s)
            x_s = routing.antihints[i](h_t) if to_teacher else h_s
        torch.testing.assert_close(routed[b : b + 1], expected)


def test_adapters_exist_for_intermediate_spots_only(pair: tuple[TinyNet, TinyNet]) -> None:
    assert [len(build(pair, name).hints) for name in ("kd", "fitnet", "at", "sp", "rkd")] == [0, 1, 3, 1, 1]
