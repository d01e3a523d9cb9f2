"""Golden values of a whole run, from version to version: SAKD-AT, four epochs in float64 on the CPU.

Run from the repository root, by hand, only when the mathematics is meant to change, and say so in the changelog:

    python tests/golden/make_run.py

It writes tests/golden/run.json: after each epoch the mean of every term of the loss, the share of samples distilled at
each spot and the student's scores on test images; at the end the norm and a weighted sum of every tensor that was
trained. The file in the repository was made at commit 407807f.

The run uses what any user of the library has: ``SpotKD``, ``Loader``, ``parameter_groups`` and PyTorch's SGD. So that
the values hold on every processor, no random number decides them that PyTorch computes in vectorised float32: all
weights are drawn by NumPy, and the policy's decisions come from float64 uniforms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spotkd import Batch, Dataset, Loader, SpotKD, StagedModel, create_model
from spotkd.data import ImageSet

EPOCHS, BATCH = 4, 16
IMAGES, TEST_IMAGES, CLASSES = 60, 50, 10  # four steps an epoch, the last one of 12 images


class SmallStudent(StagedModel):
    """Four maps of 4, 4, 6 and 8 channels, the pooled vector and the logits."""

    stage_names = ("stem", "layer1", "layer2", "layer3", "pool", "fc")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = self._block(3, 4, 1)
        self.layer1 = self._block(4, 4, 1)
        self.layer2 = self._block(4, 6, 2)
        self.layer3 = self._block(6, 8, 2)
        self.fc = nn.Linear(8, classes)

    @staticmethod
    def _block(width_in: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU())

    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        return (self.stem, self.layer1, self.layer2, self.layer3, lambda x: x.mean((2, 3)), self.fc)


def make_data() -> Dataset:
    """Grey images of 16x16 pixels, each class a wave of another direction and length under noise."""
    numbers = np.random.RandomState(1)

    def image_set(count: int) -> ImageSet:
        labels = torch.arange(count) % CLASSES
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        period = 4 + labels // 5 * 4
        phase = (rows * (1 + labels % 5).view(-1, 1, 1) + columns * (5 - labels % 5).view(-1, 1, 1)) // 2
        bright = 120 * (phase % period.view(-1, 1, 1) < 2)
        noise = torch.from_numpy(numbers.randint(0, 130, (count, 16, 16)))
        return ImageSet((bright + noise).to(torch.uint8).unsqueeze(1), labels)

    classes = tuple("abcdefghij")
    return Dataset("waves", image_set(IMAGES), image_set(TEST_IMAGES), classes, (0.4,), (0.25,), padding=2, flip=True)


def draw(method: SpotKD, seed: int) -> None:
    """Uniform numbers from NumPy in place of all that PyTorch drew, and running variances as of a trained network.

    Weights get He's variance, the policy's a tenth of it. The norms' scales and shifts stay at one and zero.
    """
    numbers = np.random.RandomState(seed)
    for name, tensor in method.state_dict().items():
        low, high = -0.1, 0.1
        if name.endswith("running_var"):
            low, high = 0.5, 2.0
        elif tensor.dim() > 1:
            high = math.sqrt(6 / tensor[0].numel()) * (0.1 if name.startswith("policy.") else 1.0)
            low = -high
        elif not name.endswith("bias") or not tensor.any():
            continue
        tensor.copy_(torch.from_numpy(numbers.uniform(low, high, tuple(tensor.shape))))


def make_method() -> SpotKD:
    """A teacher that knows nothing, a small student, and a policy that has not made up its mind."""
    teacher, student = create_model("resnet8", CLASSES).double(), SmallStudent(CLASSES).double()
    method = SpotKD(teacher, student, "at", "adaptive", image_shape=(3, 16, 16), gamma=2.0, beta=100.0)
    draw(method, 7)
    return method


@torch.no_grad()
def score(student: nn.Module, loader: Loader) -> dict[str, float]:
    """Top-1 in percent and the mean cross entropy, in eval mode."""
    student.eval()
    logits, labels = [], []
    for batch in loader.epoch(0):
        logits.append(student(batch.images.double()))
        labels.append(batch.labels)
    outputs, targets = torch.cat(logits), torch.cat(labels)
    top1 = 100 * (outputs.argmax(1) == targets).double().mean()
    return {"test_top1": top1.item(), "test_loss": F.cross_entropy(outputs, targets).item()}


def train_epoch(method: SpotKD, optimizer: torch.optim.Optimizer, loader: Loader, epoch: int) -> dict[str, float]:
    """One pass over the training images; the mean over all samples of every term and of the mask's columns."""
    method.train()
    method.start_epoch(epoch, EPOCHS)
    sums: dict[str, float] = {}
    for images, labels, indices in loader.epoch(epoch):
        losses = method(Batch(images.double(), labels, indices))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        values = {term: getattr(losses, term).item() for term in losses.terms()}
        shares = losses.mask.mean(0).tolist()
        values |= {f"share_{spot}": share for spot, share in zip(method.spot_names, shares, strict=True)}
        values["train_top1"] = 100 * (losses.logits.argmax(1) == labels).double().mean().item()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * len(labels)
    return {name: value / len(loader.split) for name, value in sums.items()}


def fingerprint(tensor: Tensor) -> dict[str, float]:
    """The norm of a tensor and the sum of its numbers, each weighted by sin of its place."""
    values = tensor.detach().double().flatten()
    weights = torch.sin(torch.arange(1, len(values) + 1, dtype=torch.float64))
    return {"norm": values.norm().item(), "weighted_sum": (values @ weights).item()}


def train() -> dict[str, Any]:
    """The whole run: what run.json holds."""
    torch.manual_seed(3)
    data, method = make_data(), make_method()
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.02, policy_lr=0.005), momentum=0.9)
    loader = Loader(data, data.train, BATCH, training=True, seed=5)
    test_loader = Loader(data, data.test, 256, training=False)
    epochs = [
        train_epoch(method, optimizer, loader, epoch) | score(method.student, test_loader)
        for epoch in range(1, EPOCHS + 1)
    ]
    trained = {name: fingerprint(tensor) for name, tensor in method.state_dict().items() if "teacher." not in name}
    return {"epochs": epochs, "trained": trained}


def rounded(content: Any) -> Any:
    """Every number to thirteen significant digits."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return float(f"{content:.12e}")


def main() -> None:
    text = json.dumps(rounded(train()), indent=1)
    Path(__file__).with_name("run.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
