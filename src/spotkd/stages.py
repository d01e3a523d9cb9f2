"""A network as a chain of named stages.

A network has *stages* ``0..L``. Stage ``k < L`` produces feature ``f_k``; stage ``L`` is the classifier and produces
the logits. A *spot* is the boundary after a stage, so a spot is named by the index of its stage.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deprecation import Renamed
from .formatting import format_count
from .notebook import format_shape, html_table

Shape = tuple[int, ...]
StageOutputs = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # of every stage, and the same before the ReLUs


class Batch(NamedTuple):
    """One mini-batch: images ``(B, C, H, W)``, labels and, where known, the samples' indices ``(B,)``.

    Labels are class indices ``(B,)``, or each sample's share of every class ``(B, classes)``, as mixup makes them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None = None

    @property
    def classes(self) -> Tensor:
        """The class index ``(B,)`` of each sample; of mixed labels the one with the largest share."""
        return self.labels if self.labels.dim() == 1 else self.labels.argmax(1)


class Rectified:
    """A stage that ends in a ReLU, written so that its pre-activations can be read: ``relu(body(x))``.

    Args:
        body: the stage without its ReLU.
    """

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:  # as a dataclass torch 2.11 would not compile it
        self.body = body

    def __call__(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x))


class StagedModel(nn.Module):
    """What teachers and students are: a network that runs stage by stage.

    A subclass names its stages in ``stage_names`` and returns one callable for each from :meth:`stages`. The last
    stage is the classifier; the one before it returns the *embedding*, the pooled vector ``(B, D)``.

    Attributes:
        stage_names: a name for every stage.
    """

    stage_names: tuple[str, ...]
    _image_shape: Shape = (3, 32, 32)  # of the images that it is shown with

    def __repr__(self) -> str:
        """``ResNet(stem > layer1 > layer2 > layer3 > pool > fc, 78.04 k parameters)``."""
        return f"{type(self).__name__}({' > '.join(self.stage_names)}, {self._size()})"

    def _size(self) -> str:
        return f"{format_count(sum(parameter.numel() for parameter in self.parameters()))} parameters"

    def _repr_html_(self) -> str:
        """Its stages, with their shapes where it runs on images of the usual size."""
        title = f"{type(self).__name__}, {self._size()}"
        try:
            shapes = [format_shape(shape) for shape in feature_shapes(self, self._image_shape)]
        except Exception:  # of a network from anywhere: a notebook shows what there is
            return html_table(title, [(name,) for name in self.stage_names], ["stage"])
        rows = zip(self.stage_names, shapes, strict=True)
        return html_table(title, rows, ["stage", f"shape for images of {format_shape(self._image_shape)}"])

    @abstractmethod
    def stages(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """The stages in order, each a map from the tensor before it to the tensor after it.

        A stage whose last operation is a ReLU is given as :class:`Rectified`, so that distillers of pre-activations
        can read them.
        """

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Run stages ``start .. stop - 1`` on ``x``, the output of stage ``start - 1`` (the images if 0)."""
        for stage in self.stages()[start:stop]:
            x = stage(x)
        return x

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The output of every stage for images ``x``; the last is the logits ``(B, classes)``."""
        outputs = []
        for stage in self.stages():
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)

    def features_and_preactivations(self, x: Tensor) -> StageOutputs:
        """As :meth:`features`, and beside it the same before the ReLU that ends each stage (itself where none does)."""
        outputs, before = [], []
        for stage in self.stages():
            if isinstance(stage, Rectified):
                before.append(stage.body(x))
                x = F.relu(before[-1])
            else:
                x = stage(x)
                before.append(x)
            outputs.append(x)
        return tuple(outputs), tuple(before)

    observe = Renamed("features_and_preactivations")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of images ``x``."""
        return self.run(x, 0, len(self.stage_names))


def feature_shapes(model: StagedModel, image_shape: Shape) -> tuple[Shape, ...]:
    """The shape of every stage's output for one image of ``image_shape`` ``(C, H, W)``, without the batch dimension.

    The model is probed in eval mode, so that no running statistic moves, and left in the mode it was found in.
    """
    reference = next(model.parameters())
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            outputs = model.features(torch.zeros(1, *image_shape, device=reference.device, dtype=reference.dtype))
    finally:
        for module, mode in modes:
            module.training = mode
    return tuple(tuple(output.shape[1:]) for output in outputs)


class FrozenTwin:
    """A student seen as a constant: the same storage, no gradient to its weights, always in eval mode.

    The routing pass runs the student with eval statistics while the main pass of the same step trains it. The twin
    copies the student's *structure* once and, at each :meth:`refresh`, borrows its current parameters (detached) and
    buffers. It owns no tensor, so the two always agree: after ``.to(device)``, after loading a state dict, with
    a wrapper around the student. It is no ``nn.Module`` on purpose: it must not appear in ``parameters()`` or in
    a state dict a second time.

    Args:
        source: the network to follow. Its structure must not change afterwards.
    """

    def __init__(self, source: StagedModel) -> None:
        tensors = [*source.parameters(), *source.buffers()]
        shared = {id(tensor): tensor for tensor in tensors}
        self._source = source
        self._body = copy.deepcopy(source, shared).eval()
        self.refresh()

    def refresh(self) -> FrozenTwin:
        """Borrow the source's tensors as they are now. Cheap: no data is copied."""
        for mine, theirs in zip(self._body.modules(), self._source.modules(), strict=True):
            for name, parameter in theirs._parameters.items():
                mine._parameters[name] = None if parameter is None else parameter.detach()  # type: ignore[assignment]
            mine._buffers.update(theirs._buffers)
        return self

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """As :meth:`StagedModel.run`, with the source's weights as constants and eval statistics."""
        return self._body.run(x, start, stop)
