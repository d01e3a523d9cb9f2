"""Where a trained policy sends samples, without the noise of sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Loader
from ..errors import SpotkdError
from ..method import SpotKD


@torch.inference_mode()
def teacher_probability(method: SpotKD, loader: Loader) -> Tensor:
    """P(teacher) ``(N, K + 1)`` of every image of ``loader`` at every spot: ``sigmoid(l_0 - l_1)``.

    Both networks are in eval mode. (The policy was trained on the student's train-mode embeddings, whose BatchNorm
    uses the statistics of the batch.)

    Raises:
        SpotkdError: the strategy has no policy.
    """
    if not method.strategy.learns:
        raise SpotkdError(f"strategy {type(method.strategy).__name__} has no policy to ask")
    was_training = method.training
    method.eval()
    chunks = []
    for batch in loader.epoch(0):
        teacher, student = method.teacher.features(batch.images), method.student.features(batch.images)
        logits = method.policy_logits(teacher, student)
        chunks.append(torch.sigmoid(logits[..., 0] - logits[..., 1]).cpu())
    method.train(was_training)
    return torch.cat(chunks)
