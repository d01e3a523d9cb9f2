"""Which stages of teacher and student stand opposite each other: shapes that fit, and spots by name or index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .committee import Committee, teachers_of
from .distillers import Spots
from .errors import SpotkdError
from .registry import unknown_name
from .stages import Shape, StagedModel, feature_shapes


def check_pair(
    student: StagedModel, teacher: StagedModel, image_shape: Shape
) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """The shapes of all stage outputs of the student and of the teacher, without the batch dimension.

    Raises:
        SpotkdError: a network without stages; the networks share parameters, have different numbers of classes, or give
            no vector before the classifier, or one puts out probabilities.
    """
    if len(image_shape) != 3:
        raise SpotkdError(f"image_shape is {tuple(image_shape)}: give (C, H, W) of one image, such as (3, 32, 32)")
    given: list[tuple[str, object]] = [("student", student), ("teacher", teacher)]
    for which, network in given:
        if not isinstance(network, StagedModel):
            kind = type(network).__name__
            raise SpotkdError(
                f"the {which} is a {kind}, and has no stages: give stage({kind}(...), image_shape={tuple(image_shape)})"
            )
    for each in teachers_of(teacher) if isinstance(teacher, Committee) else ():
        check_pair(student, each, image_shape)
    for which, one in (("student", student), ("teacher", teacher)):
        check_logits(one, which, image_shape)
    if {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
        raise SpotkdError("teacher and student share parameters: they must be two networks, the teacher is frozen")
    of_student, of_teacher = feature_shapes(student, image_shape), feature_shapes(teacher, image_shape)
    if of_student[-1] != of_teacher[-1]:
        raise SpotkdError(f"the student has {of_student[-1][0]} classes and the teacher {of_teacher[-1][0]}")
    if len(of_student[-2]) != 1 or len(of_teacher[-2]) != 1:
        raise SpotkdError(
            f"the stage before the classifier gives {of_student[-2]} (student) and {of_teacher[-2]} (teacher): it must "
            "give vectors"
        )
    return of_student, of_teacher


@torch.no_grad()
def check_logits(network: nn.Module, which: str, image_shape: Shape) -> None:
    """Whether a network puts out logits. The softmax of probabilities is a wrong loss that nobody would see.

    Logarithms of probabilities are logits: a constant in a row changes no softmax.

    Args:
        network: from images to ``(B, classes)``.
        which: what it is, for people.
        image_shape: ``(C, H, W)``.

    Raises:
        SpotkdError: its outputs are probabilities.
    """
    reference = next(network.parameters())
    noise = torch.randn(4, *image_shape, generator=torch.Generator().manual_seed(0))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        outputs = network(noise.to(reference.device, reference.dtype)).double()
    finally:
        for module, mode in modes:
            module.training = mode
    if outputs.dim() != 2 or outputs.shape[1] < 2 or outputs.min() < 0:
        return
    if (outputs.sum(1) - 1).abs().max() < 1e-3:
        raise SpotkdError(
            f"the {which} puts out probabilities (they are not negative, and a row sums to 1), and logits are needed: "
            "take the softmax away from the end of its forward()"
        )


def resolve_spots(
    spots: Sequence[tuple[str | int, str | int]] | None, student: StagedModel, teacher: StagedModel
) -> Spots | None:
    """Pairs ``(student stage, teacher stage)``, by name or index, as pairs of indices; None stays None.

    Raises:
        SpotkdError: no pairs, unknown stages (with the near ones), the classifier, or stages that do not go from
            shallow to deep in both networks.
    """
    if spots is None:
        return None
    if not spots:
        raise SpotkdError("spots is empty: give pairs (student stage, teacher stage), or None for the distiller's own")
    pairs = tuple((_stage_index(s, student), _stage_index(t, teacher)) for s, t in spots)
    for side, network in zip(zip(*pairs, strict=True), (student, teacher), strict=True):
        if list(side) != sorted(set(side)) or side[-1] == len(network.stage_names) - 1:
            raise SpotkdError(
                f"spots {list(spots)}: give each network's stages once, from shallow to deep, without the classifier "
                f"(the logits always are the last spot); they are {', '.join(network.stage_names[:-1])}"
            )
    return pairs


def name_spots(spots: Spots, student: StagedModel, teachers: Sequence[StagedModel]) -> tuple[str, ...]:
    """The names of all spots ``(student stage, teacher stage)``, the logits' too: the student's stages.

    Of several teachers the number is in them, ``layer1@2``.
    """
    names = [*student.stage_names[:-1], "logits"]
    if len(teachers) == 1:
        return tuple(names[s] for s, _ in spots)
    owners = [number for number, teacher in enumerate(teachers, 1) for _ in teacher.stage_names]
    return tuple(f"{names[s]}@{owners[t]}" for s, t in spots)


def _stage_index(stage: str | int, network: StagedModel) -> int:
    names = list(network.stage_names)
    if str(stage) in names:
        return names.index(str(stage))
    if isinstance(stage, int) and 0 <= stage < len(names):
        return stage
    raise unknown_name("stage in spots", str(stage), names)
