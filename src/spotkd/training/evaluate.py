"""How good a network is on a split."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ..data import Loader
from ..stages import StagedModel


class Scores(NamedTuple):
    """Accuracies in percent, the mean cross entropy in nats, and the number of images."""

    top1: float
    top5: float
    loss: float
    images: int


@torch.inference_mode()
def evaluate(model: StagedModel, loader: Loader, fabric: Fabric, num_classes: int) -> Scores:
    """Top-1, top-5 and mean cross entropy of ``model`` in eval mode; its mode is restored afterwards."""
    metrics = [
        MulticlassAccuracy(num_classes, top_k=min(k, num_classes), average="micro", validate_args=False) for k in (1, 5)
    ]
    accuracies = [metric.to(fabric.device) for metric in metrics]
    mean_loss = MeanMetric(nan_strategy="disable").to(fabric.device)
    was_training = model.training
    model.eval()
    for batch in loader.epoch(0):
        with fabric.autocast():
            logits = model(batch.images).float()
        mean_loss.update(F.cross_entropy(logits, batch.labels), len(batch.labels))
        for accuracy in accuracies:
            accuracy.update(logits, batch.labels)
    model.train(was_training)
    top1, top5 = (100 * float(accuracy.compute()) for accuracy in accuracies)
    return Scores(top1, top5, float(mean_loss.compute()), len(loader.labels))
