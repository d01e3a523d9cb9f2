"""Golden values of the losses, computed with NumPy alone: no line is shared with the package or with PyTorch.

Run from the repository root, by hand, only when a loss is meant to change:

    python tests/golden/make_losses.py

It writes tests/golden/losses.json. Features are drawn as sin(step * k) over a running index k, so that the test can
rebuild them exactly (sin(step * k^2) for KDSVD: a plain wave makes matrices of rank two). What a loss takes beside the
features of student and teacher (labels, margins, memories and so on) follows rules of the same kind, which the test
repeats.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Loss = Callable[..., float]
B = 7
SHAPES: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "kd": [((10,), (10,))],
    "at": [((4, 6, 6), (5, 6, 6)), ((6, 3, 3), (7, 3, 3))],
    "fitnet": [((6, 3, 3), (6, 3, 3))],
}
SHAPES |= {"sp": [((6, 3, 3), (7, 3, 3))], "rkd": [((8,), (9,))]}
SHAPES |= {"dkd": [((10,), (10,))], "dist": [((10,), (10,))], "pkt": [((8,), (9,))], "cc": [((8,), (8,))]}
SHAPES |= {"nst": [((4, 6, 6), (5, 6, 6)), ((9, 2, 2), (8, 2, 2)), ((6, 6, 6), (7, 3, 3))]}
SHAPES |= {"vid": [((5, 4, 4), (5, 4, 4))], "ft": [((3, 4, 4), (3, 4, 4)), ((3, 4, 4), (3, 2, 2))]}
SHAPES |= {"ab": [((4, 3, 3), (4, 3, 3))], "ofd": [((4, 3, 3), (4, 3, 3))]}
SHAPES |= {"reviewkd": [((4, 8, 8), (4, 8, 8)), ((5, 3, 3), (5, 3, 3)), ((6, 1, 1), (6, 1, 1))]}
# Each pair of shapes is one map of student and teacher; the loss is of one map and the next.
SHAPES |= {
    "fsp": [((4, 6, 6), (4, 6, 6)), ((5, 3, 3), (5, 6, 6))],
    "kdsvd": [((4, 3, 3), (4, 3, 3)), ((6, 2, 2), (6, 3, 3))],
}
SHAPES |= {"crd": [((6,), (6,))]}
CONSECUTIVE = ("fsp", "kdsvd")
POWERS = {"kdsvd": 2}
MASKS = {"all": [1] * 7, "some": [1, 0, 1, 1, 0, 0, 1], "two": [0, 1, 0, 0, 0, 1, 0]}


def wave(shape: tuple[int, ...], step: float, count: int = B, power: int = 1) -> Array:
    return np.sin(step * np.arange(1, count * int(np.prod(shape)) + 1) ** power).reshape(count, *shape)


def unit(x: Array, axis: int) -> Array:
    length = np.sqrt((x**2).sum(axis, keepdims=True))
    return np.divide(x, length, out=np.zeros_like(x), where=length > 1e-12)


def smooth_l1(x: Array) -> Array:
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def averaged(x: Array, size: int) -> Array:
    """Adaptive average pooling of square maps: cell i covers floor(i H / size) to ceil((i + 1) H / size)."""
    height = x.shape[-1]
    edges = [(i * height // size, -(-(i + 1) * height // size)) for i in range(size)]
    rows = [[x[..., a:b, c:d].mean((-2, -1)) for c, d in edges] for a, b in edges]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def smaller(s: Array, t: Array) -> tuple[Array, Array]:
    size = min(s.shape[-1], t.shape[-1])
    return averaged(s, size), averaged(t, size)


def kd(s: Array, t: Array) -> float:
    def log_softmax(z: Array) -> Array:
        z = z / 4 - (z / 4).max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    log_t, log_s = log_softmax(t), log_softmax(s)
    return float(16 * (np.exp(log_t) * (log_t - log_s)).sum(1).mean())


def dkd(s: Array, t: Array, labels: NDArray[np.int64]) -> float:
    def kl(p: Array, q: Array) -> float:
        return float((p * np.log(p / q)).sum())

    losses = []
    for z_s, z_t, y in zip(s / 4, t / 4, labels, strict=True):
        p_s, p_t = softmax(z_s)[y], softmax(z_t)[y]
        target = kl(np.array([p_t, 1 - p_t]), np.array([p_s, 1 - p_s]))
        losses.append(16 * (target + 8 * kl(softmax(np.delete(z_t, y)), softmax(np.delete(z_s, y)))))
    return float(np.mean(losses))


def dist(s: Array, t: Array) -> float:
    p_s, p_t = softmax(s / 4), softmax(t / 4)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)])
    return float(16 * (2 * inter + 2 * intra))


def fitnet(s: Array, t: Array) -> float:
    return float(((s - t) ** 2).mean())


def at(s: Array, t: Array) -> float:
    a, b = (unit((f**2).mean(1).reshape(len(f), -1), 1) for f in (s, t))
    return float(((a - b) ** 2).mean())


def nst(s: Array, t: Array) -> float:
    s, t = smaller(s, t)
    p, q = (unit(f.reshape(*f.shape[:2], -1), 2) for f in (s, t))

    def kernel(a: Array, b: Array) -> float:
        return float((np.einsum("nip,njp->nij", a, b) ** 2).mean())

    return kernel(q, q) + kernel(p, p) - 2 * kernel(p, q)


def vid(mean: Array, t: Array, log_scale: Array) -> float:
    variance = (np.log1p(np.exp(log_scale)) + 1e-5)[None, :, None, None]
    return float((((mean - t) ** 2 / variance + np.log(variance)) / 2).mean())


def ft(s: Array, t: Array) -> float:
    s, t = smaller(s, t)
    a, b = (unit((f**2).mean(1).reshape(len(f), -1), 1) for f in (s, t))
    return float(np.abs(a - b).mean())


def ab(s: Array, t: Array) -> float:
    d = np.where((s > -1) & (t <= 0), (s + 1) ** 2, 0) + np.where((s <= 1) & (t > 0), (s - 1) ** 2, 0)
    return float(d.sum() / len(s))


def ofd(s: Array, t: Array, margin: Array) -> float:
    t = np.maximum(t, margin[None, :, None, None])
    return float(np.where((s > t) | (t > 0), (s - t) ** 2, 0).sum() / len(s))


def reviewkd(s: Array, t: Array) -> float:
    terms = [(1.0, fitnet(s, t))]
    for size in (4, 2, 1):
        if size < s.shape[-1]:
            terms.append((terms[-1][0] / 2, fitnet(averaged(s, size), averaged(t, size))))
    return sum(w * e for w, e in terms) / sum(w for w, _ in terms)


def fsp(s: Array, s_next: Array, t: Array, t_next: Array) -> float:
    def flow(below: Array, above: Array) -> Array:
        below, above = smaller(below, above)
        return np.einsum("njhw,nihw->nji", above, below) / below[0, 0].size

    return float(((flow(s, s_next) - flow(t, t_next)) ** 2).mean())


def kdsvd(s: Array, s_next: Array, t: Array, t_next: Array) -> float:
    def directions(a: Array, b: Array) -> tuple[Array, Array]:
        ours, theirs = (np.linalg.svd(f.reshape(len(f), -1).T, full_matrices=False)[2] for f in (a, b))
        v_t = theirs[0] * np.sign(theirs[0].sum())
        cosines = ours[:4] @ v_t
        best = int(np.abs(cosines).argmax())
        return ours[best] * np.sign(cosines[best]), v_t

    losses = []
    for a, a_next, b, b_next in zip(s, s_next, t, t_next, strict=True):
        (v_s, v_t), (w_s, w_t) = directions(a, b), directions(a_next, b_next)
        relation_s, relation_t = (np.exp(-((w[:, None] - v) ** 2) / 8) for v, w in ((v_s, w_s), (v_t, w_t)))
        losses.append(((relation_s - relation_t) ** 2).sum())
    return float(np.mean(losses))


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


def pkt(s: Array, t: Array) -> float:
    def neighbours(x: Array) -> Array:
        x = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-7)
        kernel = (x @ x.T + 1) / 2
        return kernel / kernel.sum(1, keepdims=True)

    p_s, p_t = neighbours(s), neighbours(t)
    return float((p_t * np.log((p_t + 1e-7) / (p_s + 1e-7))).mean())


def cc(s: Array, t: Array) -> float:
    delta = np.abs(s - t)
    return float((delta[:-1] * delta[1:]).sum(1).mean())


def crd(s: Array, t: Array, own: NDArray[np.int64]) -> float:
    """16 training samples, of which ``own`` are the batch's; the next five, in a circle, are the negatives of each.

    The memories are waves too, and Z is that of the first batch.
    """
    memory_s, memory_t = (unit(wave((6,), step, 16), 1) for step in (0.9, 1.7))
    drawn = (own[:, None] + np.arange(6)) % 16
    total = 0.0
    for query, memory in ((s, memory_t), (t, memory_s)):
        scores = np.exp(np.einsum("bd,bkd->bk", unit(query, 1), memory[drawn]) / 0.07)
        o = scores / (scores.mean() * 16)
        q = 5 / 16
        hit, misses = np.log(o[:, 0] / (o[:, 0] + q + 1e-7)), np.log(q / (o[:, 1:] + q + 1e-7))
        total += float((-hit - misses.sum(1)).mean())
    return total


def more(name: str) -> dict[str, Array | NDArray[np.int64]]:
    """What some losses take beside the features; arrays over the batch are cut down to the selected samples."""
    if name == "dkd":
        return {"labels": np.arange(B) * 3 % 10}
    if name == "crd":
        return {"own": np.arange(B) * 2}
    if name == "vid":
        return {"log_scale": wave((5,), 0.5, 1)[0]}
    if name == "ofd":
        return {"margin": -np.abs(wave((4,), 0.5, 1)[0])}
    return {}


LOSSES: dict[str, Loss] = {"kd": kd, "fitnet": fitnet, "at": at, "sp": sp, "rkd": rkd}
LOSSES |= {"dkd": dkd, "dist": dist, "nst": nst, "vid": vid, "ft": ft, "ab": ab, "ofd": ofd, "reviewkd": reviewkd}
LOSSES |= {"fsp": fsp, "kdsvd": kdsvd, "pkt": pkt, "cc": cc, "crd": crd}


def main() -> None:
    values: dict[str, dict[str, float]] = {}
    for name, loss in LOSSES.items():
        for kind, mask in MASKS.items():
            chosen = np.array(mask, bool)
            power = POWERS.get(name, 1)
            maps = [
                (wave(shape_s, 0.7 + i, power=power)[chosen], wave(shape_t, 1.3 + i, power=power)[chosen])
                for i, (shape_s, shape_t) in enumerate(SHAPES[name])
            ]
            rest = {key: value[chosen] if len(value) == B else value for key, value in more(name).items()}
            if name in CONSECUTIVE:
                (s, t), (s_next, t_next) = maps
                terms = [loss(s, s_next, t, t_next)]
            else:
                terms = [loss(s, t, **rest) for s, t in maps]
            values.setdefault(name, {})[kind] = float(chosen.mean() * sum(terms))
    content = {"batch": B, "shapes": SHAPES, "powers": POWERS, "masks": MASKS, "losses": values}
    Path(__file__).with_name("losses.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
