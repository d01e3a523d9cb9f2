r"""Mistakes of a teacher: which of them still tell something, by where the label is among the classes it did not name.

Who errs for want of skill mostly has the label near the top; where a teacher's output is that of another sample, the
label lies anywhere. So the rank of the label among the $C - 1$ other classes is compared with chance, which gives every
rank the same probability. Ranks are counted in bins of 1, 2, 4, 8, ... With $n$ mistakes, of which $n_{tail}$ have a
rank in the worse half, whose share of all ranks is $h$, at most

```math
\pi_0 = \min(1, \frac{n_{tail} + 1}{n h})
```

are chance (Storey, "A direct approach to false discovery rates", J. R. Statist. Soc. B 2002). A mistake in bin $i$,
which has the share $u_i$ of the ranks and $f_i$ of the mistakes, is believed by 1 minus the local false discovery rate,

```math
w_i = \min_{j \le i} \max(0, 1 - \pi_0 u_j / f_j).
```
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 16  # enough for 65 536 classes
FEWEST = 64  # mistakes below which none is believed


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of the classes that were not named are likelier than the label ``(B,)``; NaN where it was named.

    Args:
        logits: ``(B, classes)``.
        labels: ``(B,)`` class indices.
    """
    before = (logits > logits.gather(1, labels[:, None])).sum(1) - 1.0
    return torch.where(logits.argmax(1) == labels, torch.nan, before.clamp(min=0))


def rank_bins(ranks: Tensor) -> Tensor:
    """The bin of every rank; 0 for NaN."""
    return (ranks.nan_to_num(0.0) + 1).log2().floor().long().clamp(max=BINS - 1)


def fit_beliefs(ranks: Tensor, classes: int) -> Tensor:
    """How far mistakes in each bin are believed, ``(BINS, K)`` in [0, 1], from many mistakes' ranks ``(N, K)``.

    NaN counts for nothing; where few are known nothing is believed.
    """
    others = max(classes - 1, 1)
    known = ranks.isfinite()
    count = known.sum(0).to(ranks.dtype)
    every = torch.arange(others, device=ranks.device)
    places = torch.arange(BINS, device=ranks.device)
    by_chance = (rank_bins(every.to(ranks.dtype))[:, None] == places).sum(0).to(ranks.dtype) / others
    found = ((rank_bins(ranks)[None] == places.view(-1, 1, 1)) & known).sum(1) / count.clamp(min=1)
    half = others // 2
    tail = (known & (ranks >= half)).sum(0)
    chance = ((tail + 1) / (count.clamp(min=1) * ((others - half) / others))).clamp(max=1.0)
    beliefs = (1 - chance * by_chance[:, None] / torch.where(found > 0, found, torch.inf)).clamp(min=0.0)
    beliefs = torch.where(found > 0, beliefs, 0.0).cummin(0).values
    return torch.where(count >= FEWEST, beliefs, 0.0)


def look_up_beliefs(ranks: Tensor, beliefs: Tensor) -> Tensor:
    """How far mistakes of ranks ``(B, K)`` are believed by ``beliefs`` ``(BINS, K)``."""
    return beliefs.gather(0, rank_bins(ranks))
