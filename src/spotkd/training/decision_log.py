"""Where the policy sends the same training images, epoch after epoch: ``decisions.csv``, and pictures of some."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Loader, pick_images
from ..method import SpotKD
from ..runs.layout import DECISIONS
from ..runs.tables import ALL_CLASSES
from ..runs.writer import RunWriter
from .hooks import Epoch, Hook

ShowImages = Callable[[str, Tensor, int], None]  # a title, images (N, 3, H, W) uint8, and the epoch
_SHOWN, _FLAT = 16, 0.01  # images at either end of a spot; one whose probabilities span no more has no ends
WATCHED_IMAGES = 512  # a forward pass of these costs a hundredth of an epoch or less


class DecisionLog(Hook):
    """Notes mean P(teacher) at each spot after an epoch, over all watched images and for every class of them.

    The images are un-augmented, the same in every epoch, and have their share of every class. Random numbers are not
    drawn, so a run is the same with and without it.

    Args:
        method: has a learning policy.
        loader: the watched images, all of them in every process; the first process notes.
        every: after how many epochs.
        run: gets the rows.
        show: gets the images that are most surely sent to the teacher, and to the student, at each spot; None where
            nothing shows images.
    """

    def __init__(
        self, method: SpotKD, loader: Loader, every: int, run: RunWriter, show: ShowImages | None = None
    ) -> None:
        self.method, self.loader, self.every, self.run, self.show = method, loader, every, run, show

    def on_epoch(self, epoch: Epoch) -> None:
        if epoch.number % self.every:
            return
        probability, labels = predict_teacher_probability(self.method, self.loader)
        names = self.method.spot_names
        for title, chosen in ((ALL_CLASSES, slice(None)), *((c, labels == c) for c in sorted(set(labels.tolist())))):
            mine = probability[chosen].double()
            means = dict(zip(names, mine.mean(0).tolist(), strict=True))
            self.run.log({"epoch": epoch.number, "class": title, "images": len(mine), **means}, DECISIONS)
        if self.show is not None:
            self._show(self.show, probability, epoch.number)

    def _show(self, show: ShowImages, probability: Tensor, epoch: int) -> None:
        """The ends of every spot, the surest images first; pixels as they are in the data set."""
        ends: dict[str, list[int]] = {}
        for spot, column in zip(self.method.spot_names, probability.T, strict=True):
            if column.max() - column.min() >= _FLAT:
                order = column.argsort(stable=True).tolist()
                count = min(_SHOWN, len(order) // 2)
                ends |= {f"to_teacher/{spot}": order[::-1][:count], f"to_student/{spot}": order[:count]}
        wanted = sorted({index for indices in ends.values() for index in indices})
        images = dict(zip(wanted, pick_images(self.loader.split, wanted), strict=True))
        for title, indices in ends.items():
            show(title, torch.stack([images[index].cpu() for index in indices]), epoch)


@torch.inference_mode()
def predict_teacher_probability(method: SpotKD, loader: Loader) -> tuple[Tensor, Tensor]:
    """P(teacher) ``(N, K + 1)`` of every image at every spot, and the labels ``(N,)``, both on the CPU.

    Both networks are in eval mode. (The policy was trained on the student's train-mode embeddings, whose BatchNorm
    uses the statistics of the batch.)
    """
    was_training = method.training
    method.eval()
    device = loader.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # a distiller may draw
        chunks = [(method.expected_weights(batch)[0].cpu(), batch.labels.cpu()) for batch in loader.epoch(0)]
    method.train(was_training)
    probabilities, labels = zip(*chunks, strict=True)
    return torch.cat(probabilities), torch.cat(labels)
