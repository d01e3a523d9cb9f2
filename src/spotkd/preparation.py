"""The phase of training that some distillers need before distillation begins: FT's paraphraser, AB's initialisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .distillers import Distiller, Preparation
from .distributed import per_rank_generator
from .errors import SpotkdError
from .losses import as_batch
from .stages import Batch
from .teacher_student import TeacherStudentMethod


class PreparedMethod(TeacherStudentMethod):
    """A method whose distiller may have a preparation."""

    @property
    def preparation(self) -> Preparation | None:
        """What the distiller needs before distillation begins; None for most."""
        return None if self.distiller is None else self.distiller.preparation

    @contextmanager
    def preparing(self) -> Iterator[list[nn.Parameter]]:
        """While the distiller is prepared: yields what the preparation trains.

        .. code-block:: python

            with method.preparing() as parameters:
                optimizer = torch.optim.SGD(parameters, lr=method.preparation.lr, momentum=0.9)
                for batch in batches:
                    optimizer.zero_grad()
                    method.preparation_loss(batch).backward()
                    optimizer.step()

        Raises:
            SpotkdError: the distiller has no preparation.
        """
        distiller, preparation = self._require_preparation()
        own = [p for module in distiller.prepared_modules() for p in module.parameters()]
        frozen = [p for p in own if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield [*own, *(self.student.parameters() if preparation.trains_student else ())]
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def preparation_loss(self, batch: Batch | Sequence[Any]) -> Tensor:
        """The distiller's preparation loss on one batch, a scalar, for all its samples.

        Raises:
            SpotkdError: the distiller has no preparation.
        """
        distiller, preparation = self._require_preparation()
        batch = as_batch(batch)
        with torch.no_grad():
            _, teacher = self._stage_outputs(self.teacher, self.teacher_images(batch))
        at_student: list[Tensor] = []
        if preparation.trains_student:
            with per_rank_generator(batch.images.device):
                _, student = self._stage_outputs(self.student, batch.images)
            at_student = [student[s] for s, _ in self.spots]
        return distiller.preparation_loss(at_student, [teacher[t] for _, t in self.spots])

    def _require_preparation(self) -> tuple[Distiller, Preparation]:
        if self.distiller is None or self.preparation is None:
            raise SpotkdError(f"{type(self.distiller or self.logit_distiller).__name__} has no preparation")
        return self.distiller, self.preparation
