"""DOT: two momenta, against the formula written down in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spotkd import SpotKD, SpotkdError
from spotkd.options import DistillOptions, TrainOptions
from spotkd.options.values import with_values
from spotkd.stages import Batch
from spotkd.training.build import check_run_options
from spotkd.training.optim import make_optimizer

from ..conftest import IMAGE_SHAPE, TinyNet

Pair = tuple[TinyNet, TinyNet]


def test_momenta_are_those_of_the_formula(pair: Pair, batch: Batch) -> None:
    method = SpotKD(*pair, "at", "always", image_shape=IMAGE_SHAPE)
    options = {"epochs": 1, "steps_per_epoch": 4, "lr": 0.1, "weight_decay": 0.01, "milestones": []}
    optimizer, _ = make_optimizer(method, momentum=0.9, dot_delta=0.075, **options)  # type: ignore[arg-type]
    trained = method.student_parameters()
    theta = [p.detach().clone() for p in trained]
    by_labels, by_teacher = ([torch.zeros_like(p) for p in trained] for _ in range(2))

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]

    for _ in range(4):
        losses = method(batch)
        labels, teacher = gradients(losses.task), gradients(losses.kl + losses.distill)
        for i, old in enumerate(theta):
            by_labels[i] = (0.9 - 0.075) * by_labels[i] + labels[i] + 0.01 * old
            by_teacher[i] = (0.9 + 0.075) * by_teacher[i] + teacher[i]
            theta[i] = old - 0.1 * (by_labels[i] + by_teacher[i])
        optimizer.zero_grad()
        optimizer.backward(losses, lambda loss, **how: loss.backward(**how), 1.0)  # type: ignore[attr-defined]
        optimizer.step()
        for mine, expected in zip(trained, theta, strict=True):
            torch.testing.assert_close(mine.detach(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim.momentum": 0.95}, "both momenta must be between 0 and 1"),
        ({"optim.momentum": 0.05}, "both momenta must be between 0 and 1"),
        ({"optim.kind": "adamw"}, "leave out it or optim.kind adamw"),
        ({"optim.clip": 1.0}, "leave out it or optim.clip"),
        ({"compile": True}, "leave it out, or compile"),
    ],
)
def test_what_it_cannot_go_with_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpotkdError, match=message):
        check_run_options(with_values(DistillOptions(), {"optim.dot_delta": 0.075, **options}))


def test_plain_training_has_one_gradient() -> None:
    with pytest.raises(SpotkdError, match=r"optim\.dot_delta has no effect"):
        check_run_options(with_values(TrainOptions(), {"optim.dot_delta": 0.075}))
