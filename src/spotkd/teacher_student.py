"""A teacher and a student on one batch: what both networks give, computed or from a cache, in one process or several.

Caching of the teacher's outputs, several processes that share a batch, and pre-activations for the distillers that
compare them all end here, so that :mod:`spotkd.method` reads as the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .deprecation import Renamed
from .distillers import Distiller, LogitDistiller
from .distillers.base import weighted_means
from .distributed import all_gather, all_reduce_mean, own_rows, per_rank_generator, whole_batch
from .errors import SpotkdError
from .losses import Method
from .stages import Batch, Shape, StagedModel, StageOutputs
from .teacher_cache import Store, TeacherCache


class Observation(NamedTuple):
    """What both networks give for one batch.

    Attributes:
        teacher: the output of every stage of the teacher; the last is the logits ``(B, classes)``. From a teacher cache
            those that nothing uses are empty.
        student: the same of the student.
        teacher_at_spots: the teacher's features at the spots as the distiller compares them: before the ReLU or after.
        student_at_spots: the same of the student.
    """

    teacher: tuple[Tensor, ...]
    student: tuple[Tensor, ...]
    teacher_at_spots: list[Tensor]
    student_at_spots: list[Tensor]


class Compared(NamedTuple):
    """A distiller, and both networks' features ``(B, ...)`` at its spots, or their logits at the last one."""

    distiller: Distiller
    student: Sequence[Tensor]
    teacher: Sequence[Tensor]


class TeacherStudentMethod(Method):
    """A method that runs a teacher beside the student.

    Attributes:
        teacher: frozen and in eval mode, unless ``joint``.
        joint: whether the teacher is trained too.
        gather: whether what compares or counts samples sees those of all processes.
        distiller: the distiller of features, if any.
        spots: its pairs ``(student stage, teacher stage)``.
        logit_distiller: the distiller of the logits.
        teacher_cache: the teacher's outputs, see :meth:`cache_teacher`; None where they are computed in every step.
        teacher_view: gives what the teacher sees of training samples from their images ``(B, C, H, W)`` and indices
            ``(B,)``, see :mod:`spotkd.data.hazards`; None where it sees the same.
    """

    student: StagedModel
    teacher: StagedModel
    joint: bool
    gather: bool
    distiller: Distiller | None
    logit_distiller: LogitDistiller
    spots: tuple[tuple[int, int], ...]
    teacher_cache: TeacherCache | None = None
    teacher_view: Callable[[Tensor, Tensor | None], Tensor] | None = None
    _teacher_shapes: tuple[Shape, ...]

    def observe(self, batch: Batch, cached: bool = True) -> Observation:
        """Run both networks on the images; the teacher without gradients unless it is trained, and from its cache.

        Args:
            batch: the samples.
            cached: whether they are training samples, whose teacher outputs may be in the cache.
        """
        with per_rank_generator(batch.images.device):
            with nullcontext() if self.joint else torch.no_grad():
                teacher, teacher_compared = self._observe_teacher(batch, cached)
            student, student_compared = self._stage_outputs(self.student, batch.images)
        return Observation(
            teacher, student, [teacher_compared[t] for _, t in self.spots], [student_compared[s] for s, _ in self.spots]
        )

    def _observe_teacher(self, batch: Batch, cached: bool) -> StageOutputs:
        if self.teacher_cache is None or not cached:
            return self._stage_outputs(self.teacher, self.teacher_images(batch) if cached else batch.images)
        return self.teacher_cache(batch.indices, lambda: self._stage_outputs(self.teacher, self.teacher_images(batch)))

    def teacher_images(self, batch: Batch) -> Tensor:
        """What the teacher sees ``(B, C, H, W)`` of training samples: their images, unless there is a hazard."""
        return batch.images if self.teacher_view is None else self.teacher_view(batch.images, batch.indices)

    def _stage_outputs(self, network: StagedModel, images: Tensor) -> StageOutputs:
        """All stage outputs, and the same as the distiller compares them: before the ReLU or after."""
        if self.compares_preactivations:
            return network.features_and_preactivations(images)
        features = network.features(images)
        return features, features

    def logits_of(self, seen: Observation) -> list[Tensor]:
        """The logits ``(B, classes)`` of each teacher."""
        return [seen.teacher[t] for _, t in self.logit_distiller.spots]

    @property
    def compares_preactivations(self) -> bool:
        """Whether the distiller compares features before the ReLU that ends a stage."""
        return self.distiller is not None and self.distiller.before_relu

    def compilable_calls(self) -> list[tuple[torch.nn.Module, str]]:
        name = "features_and_preactivations" if self.compares_preactivations else "features"
        return [(self.teacher, name), (self.student, name)]

    def distiller_loss(self, at: Compared, weights: Tensor, batch: Batch, losses: Tensor | None = None) -> Tensor:
        """The loss of a distiller, a scalar; with ``gather`` a relational one sees the samples of all processes.

        Args:
            at: the distiller, of features or of logits, and the features that it compares.
            weights: ``(B, spots)`` how much a sample is distilled at a spot.
            batch: this process's samples.
            losses: what :meth:`sample_losses` gave for all spots, where that is known; saves computing it twice.
        """
        loss: Tensor
        distiller = at.distiller
        if losses is not None and distiller.separable and not distiller.relational:
            logits = isinstance(distiller, LogitDistiller)
            mine = losses[:, -len(distiller.spots) :] if logits else losses[:, : len(distiller.spots)]
            loss = weighted_means(mine, weights)
        elif self.gather and distiller.relational:
            (at, whole), weights = self._gather(at, batch), all_gather(weights)
            with whole_batch():
                loss = distiller(at.student, at.teacher, weights, whole)
        else:
            loss = distiller(at.student, at.teacher, weights, batch)
        return loss

    def sample_losses(self, at_spots: Compared | None, at_logits: Compared, batch: Batch) -> Tensor:
        """Each sample's own losses ``(B, K + 1)``, see :meth:`~spotkd.distillers.Distiller.sample_losses`."""
        return torch.cat([self._sample_losses(at, batch) for at in (at_spots, at_logits) if at is not None], dim=1)

    def _sample_losses(self, at: Compared, batch: Batch) -> Tensor:
        distiller = at.distiller
        # Where weights enter in another way than as a mean, these are only looked at.
        with torch.set_grad_enabled(torch.is_grad_enabled() and distiller.separable and not distiller.relational):
            if not (self.gather and distiller.relational):
                return distiller.sample_losses(at.student, at.teacher, batch)
            at, whole = self._gather(at, batch)
            with whole_batch():
                losses = distiller.sample_losses(at.student, at.teacher, whole)
        return own_rows(losses)

    def _gather(self, at: Compared, batch: Batch) -> tuple[Compared, Batch]:
        """The features and samples of all processes. Relations are between features, so images stay where they are."""
        indices = None if batch.indices is None else all_gather(batch.indices)
        student, teacher = [all_gather(f) for f in at.student], [all_gather(f) for f in at.teacher]
        return Compared(at.distiller, student, teacher), Batch(batch.images, all_gather(batch.labels), indices)

    def all_samples(self, x: Tensor) -> Tensor:
        """The rows ``(B, ...)`` of this process's samples, or with ``gather`` those of all processes."""
        return all_gather(x) if self.gather else x

    def batch_means(self, *means: Tensor) -> tuple[Tensor, ...]:
        """Means (scalars) over this process's samples, or with ``gather`` over those of all processes."""
        return tuple(all_reduce_mean(torch.stack(means))) if self.gather else means

    def cache_teacher(
        self,
        samples: int,
        itemsize: int = 4,
        limit: float = 4.0,
        *,
        crops: int = 1,
        top: int = 0,
        store: Store | None = None,
    ) -> None:
        """Compute the frozen teacher's outputs once for each of ``samples`` samples, and look them up from then on.

        Exact where a sample's image is the same in every epoch, or in every ``crops``-th. Call :meth:`start_epoch`
        when an epoch begins, and give every batch its indices; with a store, ``teacher_cache.finish_epoch()`` when it
        ends.

        Args:
            samples: how many there are.
            itemsize: bytes of one of the outputs' numbers.
            limit: GiB that they may take.
            crops: in how many augmentations each sample is seen, in turn.
            top: keep only so many of the largest logits, in half precision; 0 keeps all, as they are.
            store: keeps the outputs beyond the run, see :class:`~spotkd.teacher_cache.Store`.

        Raises:
            SpotkdError: they take more, ``top`` does not fit, or the strategy trains the teacher.
        """
        if self.joint:
            raise SpotkdError("cache_teacher: this strategy trains the teacher, whose outputs change; leave it out")
        at_spots, last = [t for _, t in self.spots], len(self._teacher_shapes) - 1
        preactivations = at_spots if self.compares_preactivations else []
        # Routing starts from the feature at the first spot, the policy from the embedding.
        features = {*(at_spots[:1] if preactivations else at_spots), last - 1, last}
        features |= {t for _, t in self.logit_distiller.spots}
        self.teacher_cache = TeacherCache(
            samples, self._teacher_shapes, sorted(features), preactivations, itemsize, limit, crops, top, store
        )

    remember_teacher = Renamed("cache_teacher")
    memory = Renamed("teacher_cache")
