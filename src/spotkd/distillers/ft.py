r"""FT: factors of the teacher's map, paraphrased.

Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018,
arXiv:1802.04977.

**Idea.** An autoencoder, the paraphraser, first learns to express the teacher's map in half as many channels. Then
a translator on the student's side learns to express the same.

**Formula.** With $\phi(u)$ the mean over channels of $u^2$, scaled to length 1 over the $HW$ positions:

```math
l_b = \frac{1}{HW} \left\lVert \phi(\text{translator}(f_s))_b - \phi(\text{encoder}(f_t))_b \right\rVert_1
```

```math
L = \frac{1}{B} \sum_b m_b l_b
```

**Constants.** `rate = 0.5` (factor channels over teacher channels), weight 200. Preparation: 30 epochs of the
paraphraser on the squared error of its reconstruction, SGD 0.01 with momentum 0.9 and decay 5e-4.

**Spots.** The last feature map. Takes maps. Factors of different sizes meet at the smaller one.

**Cost.** Paraphraser and translator, six and three 3x3 convolutions: with $C_t = C_s = 512$ 12 million
weights, of which the paraphraser's 8 are frozen after the preparation. The preparation runs only the teacher.

**Paper and author code.** With no sample selected the code leaves the full-batch loss in place; here it is 0. The
translator has BatchNorm and runs on the whole batch before samples are selected. The paraphraser is constant after
its preparation; the code's collects gradients that are never used. The code's preparation runs the student too, for
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import BatchNorm2d
from ..precision import full_precision
from ..stages import Batch, Shape
from .base import DISTILLERS, Distiller, Preparation, last_map, match_sizes, normalise


@full_precision
def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the normalised energies of each sample's factors, ``(B,)``, from ``(B, C, H, W)``."""
    student, teacher = match_sizes(student, teacher)
    energy_s, energy_t = (normalise(f.square().mean(1).flatten(1), dim=1) for f in (student, teacher))
    return (energy_s - energy_t).abs().mean(1)


def _layers(
    widths: Sequence[int], convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d], norm: bool
) -> nn.Sequential:
    """3x3 convolutions through ``widths``, each with BatchNorm (or nothing in its place) and LeakyReLU."""
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [
            convolution(narrow, wide, 3, 1, 1),
            BatchNorm2d(wide) if norm else nn.Identity(),
            nn.LeakyReLU(0.1),
        ]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's map: ``encoder`` gives the factors, ``decoder`` the map again."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _layers([channels, channels, factors, factors], nn.Conv2d, norm=False)
        self.decoder = _layers([factors, factors, channels, channels], nn.ConvTranspose2d, norm=False)


class Translator(nn.Module):
    """From the student's map to the factors."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _layers([channels, channels, factors, factors], nn.Conv2d, norm=True)


@DISTILLERS.register("ft")
class FT(Distiller):
    """Factors of the last feature map: a pretrained paraphraser of the teacher, a translator on the student's side.

    Args:
        rate: channels of the factors over channels of the teacher's map.
    """

    spot_rule = last_map
    default_weight = 200.0
    preparation = Preparation("paraphraser of the teacher's map")

    def __init__(
        self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], *, rate: float = 0.5, **common: Any
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, **common)
        ((at_student, at_teacher),) = self.spots
        channels = teacher_shapes[at_teacher][0]
        factors = max(int(rate * channels), 1)
        self.paraphraser = Paraphraser(channels, factors).requires_grad_(False)  # trained in the preparation only
        self.translator = Translator(student_shapes[at_student][0], factors)

    def sample_losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch) -> Tensor:
        factors_s, factors_t = self.translator.encoder(student[0]), self.paraphraser.encoder(teacher[0])
        return ft_loss(factors_s, factors_t)[:, None]

    def prepared_modules(self) -> list[nn.Module]:
        return [self.paraphraser]

    def preparation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(self.paraphraser.decoder(self.paraphraser.encoder(teacher[0])), teacher[0])
