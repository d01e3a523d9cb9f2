"""How good a network is on a split."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from ..data import Loader
from ..runs.summary import Scores
from ..runtime.collectives import all_reduce_sum


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, fabric: Fabric, num_classes: int) -> Scores:
    """Top-1, top-5 and mean cross entropy of ``model`` in eval mode; its mode is restored afterwards.

    Where several processes evaluate together, the loader of each gives its part of the images, and all get the same.
    """
    was_training = model.training
    model.eval()
    precise = torch.float32 if fabric.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    sums = torch.zeros(3, device=fabric.device, dtype=precise)  # hits at rank 1, hits among the first 5, losses
    count = 0
    for batch in loader.epoch(0):
        with fabric.autocast():
            logits = model(batch.images).float()
        count += len(batch.labels)
        hits = logits.topk(min(5, num_classes), dim=1).indices == batch.labels[:, None]
        losses = F.cross_entropy(logits, batch.labels, reduction="sum")
        sums += torch.stack([hits[:, 0].sum(), hits.sum(), losses])
    model.train(was_training)
    if loader.processes > 1:
        sums, count = all_reduce_sum(sums), int(all_reduce_sum(torch.tensor(count, device=fabric.device)))
    top1, top5, loss = (sums / count).tolist()
    return Scores(100 * top1, 100 * top5, loss, count)
