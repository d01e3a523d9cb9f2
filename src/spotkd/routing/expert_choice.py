"""Expert choice: the policy ranks, and an exact share of each batch goes to the teacher.

Zhou, Lei, Liu, Du, Huang, Zhao, Dai, Chen, Le, Laudon, "Mixture-of-Experts with Expert Choice Routing", NeurIPS 2022,
arXiv:2202.09368. There experts choose tokens; here each spot chooses samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed import all_gather
from ..stages import Shape
from .policy import gumbel_logits
from .strategies import STRATEGIES, Decisions, Strategy, check_share


@STRATEGIES.register("expert_choice")
class ExpertChoice(Strategy):
    """SAKD with an exact budget: at every spot the half of the batch that the policy most wants to send to the teacher.

    `expert_choice:0.3` takes 30 %. The draw is SAKD's; of its margins the largest are chosen, so a policy that wants
    everybody still has to say whom first. Where several processes share a batch, the share is that of the whole.

    Args:
        share: of the batch at every spot.
    """

    learns = True
    threshold: Tensor

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = check_share("expert_choice", share)

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        self.register_buffer("threshold", torch.zeros(spots))  # the last batch's, by which a single sample is judged

    def decide(self, logits: Tensor, tau: float = 5.0) -> Decisions:
        noisy = gumbel_logits(logits)
        margins = noisy[..., 0] - noisy[..., 1]
        everyone = all_gather(margins.detach())
        count = round(self.share * len(everyone))
        threshold = everyone.topk(count, dim=0).values[-1] if count else torch.full_like(everyone[0], torch.inf)
        if self.training:
            self.threshold.copy_(threshold)
        hard = (margins >= threshold).to(margins.dtype)
        soft = torch.softmax(noisy / tau, dim=-1)[..., 0]
        route = hard + (soft - soft.detach())
        return Decisions(route.detach(), route)

    def teacher_probability(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits[..., 0] - logits[..., 1] - self.threshold)
