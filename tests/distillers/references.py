"""Independent references: each loss written for a plain list of selected samples, in the words of its paper.

Float64, autograd for gradients, loops where loops are clearest; nothing is imported from the code under test. A
reference takes the features of the selected samples at one spot (FSP and KDSVD: at two consecutive ones), after the
distiller's own layers where it has any, and returns the mean loss over these samples, to be scaled by n / B.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Reference = Callable[..., Tensor]


def at_the_smaller_size(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    if s.shape[2] > t.shape[2]:
        s = F.adaptive_avg_pool2d(s, t.shape[2])
    elif s.shape[2] < t.shape[2]:
        t = F.adaptive_avg_pool2d(t, s.shape[2])
    return s, t


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


# Logits.


def kd(s: Tensor, t: Tensor) -> Tensor:
    return 16 * kl(F.softmax(t / 4, 1), F.softmax(s / 4, 1)) / len(t)


def dkd(s: Tensor, t: Tensor, labels: Tensor, tckd: float = 1, nckd: float = 8) -> Tensor:
    losses = []
    for z_s, z_t, y in zip(s / 4, t / 4, labels.tolist(), strict=True):
        p_s, p_t = F.softmax(z_s, 0), F.softmax(z_t, 0)
        others = [c for c in range(len(z_s)) if c != y]
        target = kl(torch.stack([p_t[y], 1 - p_t[y]]), torch.stack([p_s[y], 1 - p_s[y]]))
        rest = kl(F.softmax(z_t[others], 0), F.softmax(z_s[others], 0))
        losses.append(16 * (tckd * target + nckd * rest))
    return torch.stack(losses).mean()


def dist(s: Tensor, t: Tensor, inter: float = 2, intra: float = 2) -> Tensor:
    def apart(a: Tensor, b: Tensor) -> Tensor:
        return 1 - torch.corrcoef(torch.stack([a, b]))[0, 1]

    p_s, p_t = F.softmax(s / 4, 1), F.softmax(t / 4, 1)
    loss = inter * torch.stack([apart(a, b) for a, b in zip(p_s, p_t, strict=True)]).mean()
    if len(s) > 1:  # one sample has no correlation over samples
        loss = loss + intra * torch.stack([apart(a, b) for a, b in zip(p_s.T, p_t.T, strict=True)]).mean()
    return 16 * loss


# Maps, each sample by itself.


def fitnet(s: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss(s, t)


def at(s: Tensor, t: Tensor) -> Tensor:
    def attention(f: Tensor) -> Tensor:
        return F.normalize(f.pow(2).mean(1).reshape(len(f), -1))

    s, t = at_the_smaller_size(s, t)
    return F.mse_loss(attention(s), attention(t))


def nst(s: Tensor, t: Tensor) -> Tensor:
    def kernel(p: Tensor, q: Tensor) -> Tensor:  # the published form: a [C, C, HW] product
        return (p[:, None] * q[None]).sum(-1).pow(2).mean()

    s, t = at_the_smaller_size(s, t)
    losses = []
    for f_s, f_t in zip(s, t, strict=True):
        p_s, p_t = F.normalize(f_s.flatten(1)), F.normalize(f_t.flatten(1))
        losses.append(kernel(p_t, p_t) + kernel(p_s, p_s) - 2 * kernel(p_s, p_t))
    return torch.stack(losses).mean()


def vid(mean: Tensor, t: Tensor, log_scale: Tensor) -> Tensor:
    variance = (torch.log(1 + log_scale.exp()) + 1e-5)[None, :, None, None]
    return (0.5 * ((mean - t) ** 2 / variance + variance.log())).mean()


def ft(s: Tensor, t: Tensor) -> Tensor:
    def phi(u: Tensor) -> Tensor:
        return F.normalize(u.pow(2).mean(1).flatten(1))

    s, t = at_the_smaller_size(s, t)
    return (phi(s) - phi(t)).abs().mean()


def ab(s: Tensor, t: Tensor) -> Tensor:
    should_be_off, should_be_on = (t <= 0) & (s > -1), (t > 0) & (s <= 1)
    return ((s[should_be_off] + 1).pow(2).sum() + (s[should_be_on] - 1).pow(2).sum()) * 3 / 1000 / len(s)


def ofd(s: Tensor, t: Tensor, margin: Tensor) -> Tensor:
    s, t = at_the_smaller_size(s, t)
    t = torch.maximum(t, margin[None, :, None, None])
    fine = (s <= t) & (t <= 0)
    return (s - t)[~fine].pow(2).sum() / 1000 / len(s)


def reviewkd(s: Tensor, t: Tensor) -> Tensor:
    loss, weight, weights = F.mse_loss(s, t), 1.0, 1.0
    for size in (4, 2, 1):
        if size < s.shape[2]:
            weight /= 2
            loss = loss + weight * F.mse_loss(F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size))
            weights += weight
    return loss / weights


def semckd(weights: Tensor, errors: Tensor) -> Tensor:
    """Of one student map: weights ``(n, K)`` of the teacher's maps, and the mean squared error to each."""
    return torch.stack([w @ e / len(e) for w, e in zip(weights, errors, strict=True)]).mean()


# Two consecutive maps, each sample by itself.


def fsp(below_s: Tensor, above_s: Tensor, below_t: Tensor, above_t: Tensor) -> Tensor:
    def flow(below: Tensor, above: Tensor) -> Tensor:
        below, above = at_the_smaller_size(below[None], above[None])
        return torch.stack([torch.stack([(a * b).mean() for b in below[0]]) for a in above[0]])

    samples = zip(below_s, above_s, below_t, above_t, strict=True)
    return torch.stack([(flow(s, s_next) - flow(t, t_next)).pow(2).mean() for s, s_next, t, t_next in samples]).mean()


def kdsvd(below_s: Tensor, above_s: Tensor, below_t: Tensor, above_t: Tensor) -> Tensor:
    def directions(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
        candidates, leading = (torch.linalg.svd(f.flatten(1).T, full_matrices=False).Vh for f in (f_s, f_t))
        v_t = leading[0] * leading[0].sum().sign()
        v_s = max(candidates[:4], key=lambda v: (v @ v_t).abs().item())
        return v_s * (v_s @ v_t).sign(), v_t

    def relations(v: Tensor, v_next: Tensor) -> Tensor:
        return torch.exp(-((v[:, None] - v_next[None, :]) ** 2) / 8)

    losses = []
    for s, s_next, t, t_next in zip(below_s, above_s, below_t, above_t, strict=True):
        (v_s, v_t), (w_s, w_t) = directions(s, t), directions(s_next, t_next)
        losses.append((relations(v_s, w_s) - relations(v_t, w_t)).pow(2).sum())
    return torch.stack(losses).mean()


# Relations between samples.


def sp(s: Tensor, t: Tensor) -> Tensor:
    def gram(f: Tensor) -> Tensor:
        rows = f.reshape(len(f), -1)
        return F.normalize(torch.einsum("id,jd->ij", rows, rows), dim=1)

    return (gram(t) - gram(s)).pow(2).sum() / len(t) ** 2


def rkd(s: Tensor, t: Tensor) -> Tensor:
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

    by_distance = F.smooth_l1_loss(distances(s), distances(t))
    triples = list(itertools.product(range(len(s)), repeat=3))
    by_angle = torch.stack([F.smooth_l1_loss(angle(s, *ijk), angle(t, *ijk)) for ijk in triples]).mean()
    return 25 * by_distance + 50 * by_angle


def pkt(s: Tensor, t: Tensor) -> Tensor:
    def neighbours(x: Tensor, i: int) -> Tensor:
        unit = [row / (row.norm() + 1e-7) for row in x]
        similar = torch.stack([(unit[i] @ other + 1) / 2 for other in unit])
        return similar / similar.sum()

    loss = torch.zeros((), dtype=s.dtype)
    for i in range(len(s)):
        p_s, p_t = neighbours(s, i), neighbours(t, i)
        loss = loss + (p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log()).sum()
    return loss / len(s) ** 2


def cc(s: Tensor, t: Tensor) -> Tensor:
    """From the vectors after their linear layers."""
    delta = (s - t).abs()
    products = [delta[p] @ delta[p + 1] for p in range(len(s) - 1)]
    return torch.stack(products).mean() if products else s.sum() * 0


# CRD: from vectors after their linear layers; `drawn` has the positive and then the negatives of every sample.


def crd_scores(query: Tensor, memory: Tensor, drawn: Sequence[Sequence[int]]) -> Tensor:
    unit = [v / v.norm() for v in query]
    return torch.stack(
        [torch.stack([(v @ memory[row] / 0.07).exp() for row in rows]) for v, rows in zip(unit, drawn, strict=True)]
    )


def crd(
    s: Tensor, t: Tensor, memory_s: Tensor, memory_t: Tensor, drawn: Sequence[Sequence[int]], z: Sequence[float] | None
) -> Tensor:
    """``z``: the normalisers of the student's and the teacher's scores, or None at the first call."""
    size = len(memory_s)
    ratio = (len(drawn[0]) - 1) / size
    loss = torch.zeros((), dtype=s.dtype)
    for which, (query, memory) in enumerate(((s, memory_t), (t, memory_s))):
        scores = crd_scores(query, memory, drawn)
        o = scores / (scores.mean().item() * size if z is None else z[which])
        for positive, *negatives in o:
            loss = loss - (positive / (positive + ratio + 1e-7)).log()
            for negative in negatives:
                loss = loss - (ratio / (negative + ratio + 1e-7)).log()
    return loss / len(s)


def crd_memory(memory: Tensor, embedded: Tensor, rows: Sequence[int]) -> Tensor:
    """The memory after the rows of the selected samples have moved halfway to their embeddings."""
    memory = memory.clone()
    for v, row in zip(embedded, rows, strict=True):
        moved = 0.5 * memory[row] + 0.5 * v / v.norm()
        memory[row] = moved / moved.norm()
    return memory


REFERENCES: dict[str, Reference] = {
    "kd": kd,
    "dkd": dkd,
    "dist": dist,
    "fitnet": fitnet,
    "at": at,
    "nst": nst,
    "vid": vid,
    "ft": ft,
    "ab": ab,
    "ofd": ofd,
    "reviewkd": reviewkd,
    "semckd": semckd,
    "fsp": fsp,
    "kdsvd": kdsvd,
    "sp": sp,
    "rkd": rkd,
    "pkt": pkt,
    "cc": cc,
    "crd": crd,
}
