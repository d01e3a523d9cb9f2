"""What a training is made of; built from options by :mod:`.assemble`, and by a user of the library by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..data import Dataset, Loader
from ..losses import Method
from ..runs.writer import RunWriter
from ..runtime.device import Device
from .gradients import Gradients
from .hooks import Hook
from .select import Selection
from .trained import TrainedNetwork


@dataclass(frozen=True)
class TrainingData:
    """The images of a training.

    Attributes:
        dataset: where they are from.
        train: batches to train on.
        watched: batches that are evaluated after every epoch; the test images, or validation images.
        watched_split: which of them: test or val.
        test: batches of the test images.
    """

    dataset: Dataset
    train: Loader
    watched: Loader
    watched_split: str
    test: Loader


@dataclass(frozen=True)
class Schedule:
    """How long a training takes, and the learning rates on the way.

    Attributes:
        epochs: passes over the training images.
        rates: stepped after every step.
    """

    epochs: int
    rates: LRScheduler


@dataclass(frozen=True)
class Session:
    """One training, ready for :func:`.loop.fit`.

    Attributes:
        model: name of the network that is trained.
        method: gives the losses of a batch.
        trained: the network that is the result: the method's student, or an average of it.
        data: the images.
        optimizer: of all that is trained.
        schedule: epochs and learning rates.
        selection: which epoch's weights are the result.
        device: where and how it computes.
        run: the folder that it is written to.
        hooks: what watches it.
        make_gradients: makes what computes losses and gradients, from the method as Fabric wraps it, the optimizer and
            Fabric.
    """

    model: str
    method: Method
    trained: TrainedNetwork
    data: TrainingData
    optimizer: Optimizer
    schedule: Schedule
    selection: Selection
    device: Device
    run: RunWriter
    hooks: Sequence[Hook] = ()
    make_gradients: Callable[[nn.Module, Optimizer, Fabric], Gradients] = Gradients
