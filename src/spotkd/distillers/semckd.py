r"""SemCKD: each student layer chooses, sample by sample, the teacher layers that it learns from.

Chen, Mei, Zhang, Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", AAAI 2021, arXiv:2012.03236.

**Idea.** Layers of one depth need not mean the same in two networks. Attention between the features finds, for every
sample, which teacher layers are close in meaning to a student layer.

**Formula.** With $q_i$ of the student's feature $i$ and $k_j$ of the teacher's feature $j$, each the pooled feature
after two linear layers, $r_{ij}$ a regressor, $E_j$ the number of elements of the teacher's feature and $K$ spots:

```math
a_{b,ij} = \mathrm{softmax}_j ( q_{b,i} \cdot k_{b,j} )
```

```math
l_{b,i} = \frac{1}{K} \sum_j \frac{a_{b,ij}}{E_j} \left\lVert r_{ij}(f_{s,i})_b - f_{t,j,b} \right\rVert^2
```

```math
L = \sum_i \frac{1}{B} \sum_b m_{b,i} l_{b,i}
```

The decision at a spot is about the student's feature there, whichever teacher features it learns from.

**Constants.** Weight 400. Queries and keys have 16 numbers, after 32 in between, and length 1.

**Spots.** All feature maps but the stem's. Takes maps and tokens, also one of each.

**Cost.** $K^2$ regressors, those of FitNet.

**Paper and author code.** There queries and keys come from the rows of the batch's similarity matrix, so their layers
belong to one size of the batch, and to a sample's place in it; here they come from the sample's own pooled feature.
The code's regressors have three convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import as_map, make_adapter, map_shape
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, MAP, TOKENS, Distiller, all_maps, normalise
from .fitnet import fitnet_loss

_HIDDEN, _WIDTH = 32, 16  # the author code's at a batch of 64


class _Embedding(nn.Module):
    """A query or a key ``(B, 16)`` of length 1 from a feature."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(map_shape(shape)[0], _HIDDEN), nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, feature: Tensor) -> Tensor:
        pooled = as_map(feature).flatten(2).mean(2)
        return normalise(self.second(F.relu(normalise(self.first(pooled), dim=1))), dim=1)


@full_precision
def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Weights ``(B, K, K)`` of the teacher's features for each of the student's, from ``(B, K, D)`` of both."""
    return torch.softmax(queries @ keys.transpose(1, 2), dim=2)


@DISTILLERS.register("semckd")
class SemCKD(Distiller):
    """Every map from all maps: attention chooses, sample by sample, which teacher layers a layer learns from."""

    spot_rule = all_maps
    takes = (MAP, TOKENS)
    default_weight = 400.0

    def __init__(self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], **common: Any) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        ours, theirs = [student_shapes[s] for s, _ in self.spots], [teacher_shapes[t] for _, t in self.spots]
        self.queries, self.keys = (nn.ModuleList(map(_Embedding, shapes)) for shapes in (ours, theirs))
        self.regressors = nn.ModuleList(make_adapter(s, t) for s in ours for t in theirs)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        queries, keys = (
            torch.stack([embed(f) for embed, f in zip(own, features, strict=True)], dim=1)
            for own, features in ((self.queries, student), (self.keys, teacher))
        )
        pairs = zip(self.regressors, [(s, t) for s in student for t in teacher], strict=True)
        errors = torch.stack([fitnet_loss(regressor(s), t) for regressor, (s, t) in pairs], dim=1)
        weights = attention(queries, keys)
        return (weights * errors.view_as(weights)).mean(2)
