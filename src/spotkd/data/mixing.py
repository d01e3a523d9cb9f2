"""Mixup and CutMix: every image of a batch mixed with another one, and its label with that one's.

What is drawn depends on the seed, the epoch and the batch alone, so a resumed run mixes the same.

H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo, "CutMix", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How images are mixed; of both kinds one is drawn for each batch, as likely as the other.

    Attributes:
        classes: how many there are.
        mixup: both parameters of the Beta distribution of the share of the image itself; 0 for no mixup.
        cutmix: the same of the area that stays outside of the pasted rectangle; 0 for no CutMix.
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def mix(self, images: Tensor, labels: Tensor, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mixed images ``(B, C, H, W)`` and soft labels ``(B, classes)``; each sample's partner is the one before it.

        Args:
            images: ``(B, C, H, W)``.
            labels: ``(B,)``.
            seed: of what is drawn for this batch.
        """
        dice = np.random.default_rng(seed)
        pastes = self.cutmix > 0 and (not self.mixup or dice.random() < 0.5)
        alpha = self.cutmix if pastes else self.mixup
        own = float(dice.beta(alpha, alpha))
        partners = images.roll(1, 0)
        if pastes:
            rows, columns = (_draw_window(edge, (1 - own) ** 0.5, dice) for edge in images.shape[-2:])
            images = images.clone()
            images[..., rows, columns] = partners[..., rows, columns]
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            own = 1 - area / (images.shape[-2] * images.shape[-1])
        else:
            images = torch.lerp(partners, images, own)
        soft = (labels[:, None] == torch.arange(self.classes, device=labels.device)).to(images.dtype)
        return images, torch.lerp(soft.roll(1, 0), soft, own)


def _draw_window(edge: int, share: float, dice: np.random.Generator) -> slice:
    """A window of about this share of an edge, cut off where it reaches beyond it."""
    middle, half = int(dice.integers(edge)), int(edge * share / 2)
    return slice(max(middle - half, 0), min(middle + half, edge))
