"""Where a trained policy sends samples, without the noise of sampling, and what that goes with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Dataset, Loader, Split
from ..errors import RunError, SpotkdError
from ..escaping import escape_shell
from ..method import SpotKD
from ..options import InspectOptions
from ..options.values import epochs_for
from ..runs.folder import RunFolder
from ..runs.layout import LAST
from ..training import make_fabric, restore
from ..training.decision_log import predict_teacher_probability
from ..untrusted.names import looking
from ..waiting import shown

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inspection:
    """What is known of every image of a split, un-augmented, after one epoch of a run.

    Attributes:
        split: train, val or test.
        epoch: the last one that the checkpoint has complete.
        strategy: the strategy's name.
        learnt: whether there is a policy; without one ``probability`` is what the strategy does to every sample.
        spots: names of the columns of ``probability``.
        classes: class names, by label.
        files: what the images' files are called, if they have files.
        labels: ``(N,)``.
        probability: ``(N, len(spots))`` P(teacher).
        teacher_loss, student_loss: ``(N,)`` cross entropies in nats.
        teacher_top1, student_top1: ``(N,)`` the likeliest class.
        step: how many steps of the next epoch the checkpoint has; 0 for one that was written after an epoch.
    """

    split: str
    epoch: int
    strategy: str
    learnt: bool
    spots: tuple[str, ...]
    classes: tuple[str, ...]
    files: Sequence[str] | None
    labels: npt.NDArray[np.int64]
    probability: Array
    teacher_loss: Array
    student_loss: Array
    teacher_top1: npt.NDArray[np.int64]
    student_top1: npt.NDArray[np.int64]
    step: int = field(default=0, kw_only=True)

    @property
    def when(self) -> str:
        """``after epoch 2``, or ``inside epoch 3, after its step 17``."""
        if self.step:
            return f"inside epoch {self.epoch + 1}, after its step {self.step}"
        return f"after epoch {self.epoch}"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def decisions(self) -> npt.NDArray[np.bool_]:
        """``(N, len(spots))`` whether the teacher's path is the likelier one."""
        return np.greater(self.probability, 0.5)

    @property
    def teacher_correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.teacher_top1, self.labels)

    @property
    def student_correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.student_top1, self.labels)

    def means(self) -> npt.NDArray[np.float64]:
        """``(len(spots),)`` mean P(teacher)."""
        means: npt.NDArray[np.float64] = self.probability.mean(0, dtype=np.float64)
        return means

    def class_means(self) -> npt.NDArray[np.float64]:
        """``(classes, len(spots))`` mean P(teacher) of every class; nan where it has no image."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        sums = np.stack(
            [np.bincount(self.labels, column, minlength=len(self.classes)) for column in self.probability.T], 1
        )
        with np.errstate(invalid="ignore"):
            means: npt.NDArray[np.float64] = sums / counts[:, None]
        return means

    @property
    def varies(self) -> bool:
        """Whether samples are treated differently at any spot."""
        return bool((np.ptp(self.probability, axis=0) > 1e-6).any())

    def correlations(self) -> dict[str, npt.NDArray[np.float64]]:
        """Pearson's r ``(len(spots),)`` of P(teacher) with losses and correctness; nan where one is constant."""
        return {
            name: np.array([_pearson(column, values) for column in self.probability.T])
            for name, values in (
                ("teacher's loss", self.teacher_loss),
                ("student's loss", self.student_loss),
                ("teacher is right", self.teacher_correct),
                ("student is right", self.student_correct),
            )
        }


def _pearson(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    x, y = one.astype(np.float64), other.astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def teacher_probability(method: SpotKD, loader: Loader) -> Tensor:
    """P(teacher) ``(N, K + 1)`` of every image of ``loader`` at every spot: ``sigmoid(l_0 - l_1)``.

    Both networks are in eval mode. (The policy was trained on the student's train-mode embeddings, whose BatchNorm
    uses the statistics of the batch.) A strategy without a policy gives the probability that a sample is distilled.

    Raises:
        SpotkdError: the strategy has no policy and no ``teacher_probability``.
    """
    return predict_teacher_probability(method, loader)[0]


def get_split(data: Dataset, name: str) -> Split:
    """The split of that name.

    Raises:
        SpotkdError: there are no validation images.
    """
    split = {"train": data.train, "val": data.val, "test": data.test}[name]
    if split is None:
        raise SpotkdError(f"split is val: {data.name} has no validation images; take train or test")
    return split


def inspect(options: InspectOptions) -> tuple[Inspection, Dataset]:
    """Evaluate a distillation's policy, as its newest checkpoint has it, on every image of a split.

    Raises:
        SpotkdError: the folder holds no distillation with a finished epoch, or its data are not there.
    """
    run = RunFolder(options.run)
    if not run.exists:
        raise RunError(f"{run.path}: no config.yaml in it; name the folder of a run of 'spotkd distill'")
    of_run, state = run.distill_options, run.state()
    if state is None:
        again = escape_shell(["spotkd", "distill", "--resume", str(run.path)])
        raise RunError(f"{run.path / LAST}: no such file; resume the run: {again}")
    with looking(trust=options.trust or run.is_own):
        method, data = restore(run.path)
    epoch = int(state["epoch"])
    method.start_epoch(epoch, epochs_for(of_run, len(data.train)))  # a strategy of the user's may follow the epochs
    split = get_split(data, options.split)
    fabric = make_fabric(options.accelerator, "32")  # probabilities of bfloat16 would be good to two digits
    loader = Loader(data, split, options.batch_size, training=False, device=fabric.device)
    columns = [
        np.concatenate(part) for part in zip(*_evaluate_batches(method.to(fabric.device).eval(), loader), strict=True)
    ]
    inspection = Inspection(
        options.split, epoch, of_run.strategy, method.strategy.learns, method.spot_names, data.classes, split.files(),
        *columns, step=int(state["step"]),
    )  # fmt: skip
    return inspection, data


@torch.inference_mode()
def _evaluate_batches(method: SpotKD, loader: Loader) -> Iterator[tuple[npt.NDArray[np.generic], ...]]:
    """For every batch the fields of an inspection from ``labels`` on."""
    for batch in shown(loader.epoch(0), "batches of images", len(loader)):
        weights, seen = method.expected_weights(batch)
        outputs = seen.teacher[-1], seen.student[-1]
        losses = [F.cross_entropy(logits, batch.labels, reduction="none") for logits in outputs]
        predictions = [logits.argmax(1) for logits in outputs]
        found = [batch.labels, weights, *losses, *predictions]
        yield tuple(tensor.cpu().numpy() for tensor in found)
