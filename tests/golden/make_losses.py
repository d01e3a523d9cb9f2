"""Golden values of the losses, computed with NumPy alone: no line is shared with the package or with PyTorch.

Run from the repository root, by hand, only when a loss is meant to change:

    python tests/golden/make_losses.py

It writes tests/golden/losses.json. Features are drawn as sin(step * k) over a running index k, so that the test can
rebuild them exactly.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
B = 7
SHAPES: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "kd": [((10,), (10,))],
    "at": [((4, 6, 6), (5, 6, 6)), ((6, 3, 3), (7, 3, 3))],
    "fitnet": [((6, 3, 3), (6, 3, 3))],
}
SHAPES |= {"sp": [((6, 3, 3), (7, 3, 3))], "rkd": [((8,), (9,))]}
MASKS = {"all": [1] * 7, "some": [1, 0, 1, 1, 0, 0, 1], "two": [0, 1, 0, 0, 0, 1, 0]}


def wave(shape: tuple[int, ...], step: float) -> Array:
    return np.sin(step * np.arange(1, B * int(np.prod(shape)) + 1)).reshape(B, *shape)


def unit(x: Array, axis: int) -> Array:
    length = np.sqrt((x**2).sum(axis, keepdims=True))
    return np.divide(x, length, out=np.zeros_like(x), where=length > 1e-12)


def smooth_l1(x: Array) -> Array:
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def kd(s: Array, t: Array) -> float:
    def log_softmax(z: Array) -> Array:
        z = z / 4 - (z / 4).max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    log_t, log_s = log_softmax(t), log_softmax(s)
    return float(16 * (np.exp(log_t) * (log_t - log_s)).sum(1).mean())


def fitnet(s: Array, t: Array) -> float:
    return float(((s - t) ** 2).mean())


def at(s: Array, t: Array) -> float:
    a, b = (unit((f**2).mean(1).reshape(len(f), -1), 1) for f in (s, t))
    return float(((a - b) ** 2).mean())


def sp(s: Array, t: Array) -> float:
    a, b = (unit(f.reshape(len(f), -1) @ f.reshape(len(f), -1).T, 1) for f in (s, t))
    return float(((a - b) ** 2).sum() / len(s) ** 2)


def rkd(s: Array, t: Array) -> float:
    def relations(x: Array) -> tuple[Array, Array]:
        edges = x[None] - x[:, None]
        lengths = np.sqrt((edges**2).sum(-1))
        directions = unit(edges, -1)
        return lengths / lengths[lengths > 0].mean(), np.einsum("ijd,ikd->ijk", directions, directions)

    (d_s, a_s), (d_t, a_t) = relations(s), relations(t)
    return float(25 * smooth_l1(d_s - d_t).mean() + 50 * smooth_l1(a_s - a_t).mean())


def main() -> None:
    losses = {"kd": kd, "fitnet": fitnet, "at": at, "sp": sp, "rkd": rkd}
    values: dict[str, dict[str, float]] = {}
    for name, loss in losses.items():
        for kind, mask in MASKS.items():
            chosen = np.array(mask, bool)
            terms = []
            for i, (shape_s, shape_t) in enumerate(SHAPES[name]):
                s, t = wave(shape_s, 0.7 + i), wave(shape_t, 1.3 + i)
                terms.append(chosen.mean() * loss(s[chosen], t[chosen]))
            values.setdefault(name, {})[kind] = float(sum(terms))
    content = {"batch": B, "shapes": SHAPES, "masks": MASKS, "losses": values}
    Path(__file__).with_name("losses.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
