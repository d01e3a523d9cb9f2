"""BatchNorm folded into the convolution before it, in a network that is a constant: the same outputs in fewer passes.

In eval mode BatchNorm is one multiplication and one addition a channel, which a convolution can do by its weights.
Pairs are found by running the network, so its code may be anything; the result is compared with the original before
it is used.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .errors import one_line
from .stages import Shape, StagedModel, StageOutputs

_PROBE = 2  # images in the batch that is compared
_ROUNDING = 2000  # times the type's epsilon (2e-4 in float32): what folding may change, relative to a feature's length


class FoldResult(NamedTuple):
    """What :func:`fold_batchnorm` returns.

    Attributes:
        model: a folded copy, or the network that was given.
        pairs: how many BatchNorms were folded.
        reason: why the network was left as it is; None where it was folded.
    """

    model: StagedModel
    pairs: int
    reason: str | None = None


class _UseCounter(TorchFunctionMode):
    """Counts how often each tensor is an argument of something that gives a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self._alive: list[Any] = []  # an id says something only while its tensor lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
            self.count.update(map(id, given))
            self._alive += [given, result]
        return result


def fold_batchnorm(model: StagedModel, image_shape: Shape) -> FoldResult:
    """A copy of a frozen network whose BatchNorms are folded into the convolutions before them.

    A pair is folded if the convolution's output goes into the BatchNorm and nowhere else, each of the two runs once,
    and their parameters belong to no other module. Every stage's output of the copy, before its ReLU and after, must
    equal the original's to rounding; otherwise the network itself is returned, with the reason.

    Args:
        model: a network that will not be trained; it stays as it is. Its copy is in eval mode, without gradients.
        image_shape: ``(C, H, W)`` of one image.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    reference = next(copied.parameters())
    noise = torch.randn(_PROBE, *image_shape, generator=torch.Generator().manual_seed(0))
    images = noise.to(reference.device, reference.dtype)
    try:
        with torch.no_grad():
            expected, pairs = _find_pairs(copied, images)
            for convolution, norm in pairs:
                _fold_pair(copied, convolution, norm)
            found = copied.features_and_preactivations(images)
    except Exception as error:  # the network's own code, with other modules than it was written for
        return FoldResult(model, 0, f"it does not run so ({one_line(error)[:200]})")
    if not pairs:
        return FoldResult(model, 0, "it has no convolution that only a BatchNorm follows")
    difference = max(_distance(a, b) for a, b in zip(_flatten(found), expected, strict=True))
    if not difference <= _ROUNDING * torch.finfo(reference.dtype).eps:
        return FoldResult(model, 0, f"its outputs would change by {difference:.1g}")
    return FoldResult(copied, len(pairs))


def _flatten(outputs: StageOutputs) -> list[Tensor]:
    return [*outputs[0], *outputs[1]]


def _distance(found: Tensor, expected: Tensor) -> float:
    """Length of the difference over the length of what was expected."""
    difference = (found - expected).double().norm()
    return float(difference / expected.double().norm().clamp(min=torch.finfo(torch.float32).tiny))


def _find_pairs(model: StagedModel, images: Tensor) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """All stage outputs, and names of convolutions and of the BatchNorms that alone use what they put out."""
    shared = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    made: dict[int, str] = {}  # by the id of an output: the convolution
    taken: list[tuple[int, str]] = []  # the id of an input and the BatchNorm
    calls: Counter[str] = Counter()
    uses, handles = _UseCounter(), []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            if isinstance(module, nn.Conv2d):
                made[id(output)] = name
            else:
                taken.append((id(inputs[0]), name))

        handles.append(module.register_forward_hook(hook))

    for name, module in model.named_modules():
        own = all(shared[id(parameter)] == 1 for parameter in module._parameters.values() if parameter is not None)
        if own and _is_plain(module):
            watch(name, module)
    try:
        with uses:
            outputs = _flatten(model.features_and_preactivations(images))
    finally:
        for handle in handles:
            handle.remove()
    features = set(map(id, outputs))
    found = [(made[x], norm) for x, norm in taken if x in made and uses.count[x] == 1 and x not in features]
    return outputs, [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]


def _is_plain(module: nn.Module) -> bool:
    """A convolution or BatchNorm as torch has them, that computes nothing else."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if isinstance(module, nn.BatchNorm2d):
        return type(module).forward is nn.BatchNorm2d.forward and module.running_mean is not None
    return type(module) is nn.Conv2d


def _fold_pair(model: StagedModel, convolution: str, norm: str) -> None:
    conv, batch_norm = model.get_submodule(convolution), model.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(batch_norm, nn.BatchNorm2d)
    for name, module in ((convolution, fuse_conv_bn_eval(conv, batch_norm)), (norm, nn.Identity())):
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._modules[child] = module.requires_grad_(False).eval()
