"""Independent references: each loss written for a plain list of selected samples, in the words of its paper.

Float64, autograd for gradients, loops where loops are clearest; nothing is imported from the code under test. A
reference takes the features of the selected samples only and returns the mean loss over them, to be scaled by n / B.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Reference = Callable[[list[Tensor], list[Tensor]], Tensor]


def kd(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    p_t, p_s = F.softmax(teacher[0] / 4, 1), F.softmax(student[0] / 4, 1)
    return 16 * (p_t * (p_t.log() - p_s.log())).sum() / len(p_t)


def fitnet(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    return F.mse_loss(student[0], teacher[0])


def at(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    def attention(f: Tensor) -> Tensor:
        return F.normalize(f.pow(2).mean(1).reshape(len(f), -1))

    s, t = student[0], teacher[0]
    if s.shape[2] > t.shape[2]:
        s = F.adaptive_avg_pool2d(s, t.shape[2])
    elif s.shape[2] < t.shape[2]:
        t = F.adaptive_avg_pool2d(t, s.shape[2])
    return F.mse_loss(attention(s), attention(t))


def sp(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    def gram(f: Tensor) -> Tensor:
        rows = f.reshape(len(f), -1)
        return F.normalize(torch.einsum("id,jd->ij", rows, rows), dim=1)

    return (gram(teacher[0]) - gram(student[0])).pow(2).sum() / len(teacher[0]) ** 2


def rkd(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    def distances(x: Tensor) -> Tensor:
        gram = x @ x.T
        square = gram.diag()[:, None] + gram.diag()[None, :] - 2 * gram
        d = square.clamp(min=1e-12).sqrt() * (1 - torch.eye(len(x), dtype=x.dtype))
        return d / d[d > 0].mean() if len(x) > 1 else d

    def angle(x: Tensor, i: int, j: int, k: int) -> Tensor:
        a, b = x[j] - x[i], x[k] - x[i]
        if i in (j, k):
            return x.sum() * 0
        return (a / a.norm()) @ (b / b.norm())

    s, t = student[0], teacher[0]
    by_distance = F.smooth_l1_loss(distances(s), distances(t))
    triples = list(itertools.product(range(len(s)), repeat=3))
    by_angle = torch.stack([F.smooth_l1_loss(angle(s, *ijk), angle(t, *ijk)) for ijk in triples]).mean()
    return 25 * by_distance + 50 * by_angle


REFERENCES: dict[str, Reference] = {"kd": kd, "fitnet": fitnet, "at": at, "sp": sp, "rkd": rkd}
