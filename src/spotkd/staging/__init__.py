"""Any network as a chain of stages: :func:`stage` cuts it after modules, found in its graph by ``torch.fx``.

``tracing.py`` makes the graph, ``proposals.py`` chooses cuts where none are named, ``cutting.py`` makes the stages.
Each stage becomes a plain function of the root module and of the one tensor that crosses the cut; it finds modules and
parameters by name, and so follows whatever happens to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import SpotkdError, one_line
from ..stages import Shape, StagedModel, feature_shapes
from .by_hand import write_wrapper
from .cutting import PROBE_SIZE, cut_network, make_twin
from .frozen import UntraceableForwardError
from .outputs import select_output, unwrap
from .proposals import propose_cuts
from .tracing import mode_name, run_with_fixed_seed, set_mode

__all__ = ["stage"]


def stage(
    model: nn.Module,
    at: Sequence[str] | None = None,
    *,
    image_shape: Shape = (3, 224, 224),
    output: str | int | None = None,
) -> StagedModel:
    """Cut ``model`` into stages; the result shares its parameters, buffers and submodules, under the same names.

    Args:
        model: any network from images ``(B, C, H, W)`` to logits ``(B, classes)``. It is left as it is and still works.
            Wrappers of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel`` are taken off.
        at: the modules after which to cut, in the order of execution, by path (``layer1``, ``blocks.2``), or names of
            nodes of the traced graph, such as ``getitem_5``, to cut after a function. A map ``(C, 1, 1)`` that only a
            flatten or reshape uses is flattened in its own stage, and a map ``(H, W, C)`` of equal sides, as Swin has
            them, leaves its stage as ``(C, H, W)``. The embedding, which is what the last ``nn.Linear`` is given, is
            added as the last cut where it is missing; what follows is the classifier. Tokens of which several linear
            heads have one each (distilled DeiT) are side by side in it. The first stage counts as the stem, which most
            distillers leave out. Without ``at``, good cuts are chosen and printed, a line for every stage.
        image_shape: ``(C, H, W)`` of one image. The model is run on noise of this shape, to see that the stages give
            what it gives, and whether one of them overwrites the feature before it; such a stage gets a copy.
        output: where the logits are in the output of a network that gives a tuple, a dictionary or an object: an index,
            a key or an attribute, such as ``0`` or ``"logits"``. In a mode in which the network gives one tensor, it is
            that one.

    Raises:
        SpotkdError: unknown names (with the near ones), cuts out of order, modules that are called twice or never,
            several tensors across a cut, no linear classifier found, untraceable code, random numbers drawn in Python.
    """
    model = unwrap(model)
    # All probing happens on a twin with the same weights but its own buffers and modes: the original is not touched.
    probe = make_twin(model)
    reference = next(model.parameters(), torch.empty(0))
    noise = torch.randn(PROBE_SIZE, *image_shape, generator=torch.Generator().manual_seed(0))
    images = noise.to(reference.device, reference.dtype)
    try:
        for training in (False, True):
            run_with_fixed_seed(set_mode(probe, training), images)
    except Exception as error:
        reason = f"{one_line(error)[:200]} ({mode_name(probe.training)} mode)"
        raise SpotkdError(
            f"{type(model).__name__} does not run on {_format_shape(image_shape)} images: {reason}"
        ) from error
    chosen = select_output(model, probe, images, output)
    if chosen is not model:
        model, probe = chosen, select_output(probe, probe, images, output)
    try:
        names = propose_cuts(probe, images) if at is None else [at] if isinstance(at, str) else list(at)
        staged = cut_network(model, probe, names, images)
    except UntraceableForwardError as error:
        wrapper = write_wrapper(model)
        raise UntraceableForwardError(f"{error}, such as\n\n{wrapper}" if wrapper else str(error)) from error
    staged._image_shape = image_shape
    if at is None:
        print(f"{type(model).__name__} is cut after these modules:")  # noqa: T201  # asked for by leaving out `at`
        roles = dict(zip(staged.stage_names[-2:], ("embedding", "logits"), strict=True))
        for name, shape in zip(staged.stage_names, feature_shapes(staged, image_shape), strict=True):
            role = roles.get(name) or {3: "map", 2: "tokens"}.get(len(shape), "vector")
            print(f"  {name:32} {_format_shape(shape):>14}  {role}")  # noqa: T201
    return staged


def _format_shape(shape: Shape) -> str:
    return "x".join(map(str, shape))
