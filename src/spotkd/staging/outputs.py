"""Networks as people have them: wrapped for speed or for several devices, and with more outputs than the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import SpotkdError
from .tracing import mode_name, run_with_fixed_seed, set_mode


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``, which compute the same.

    Raises:
        SpotkdError: a scripted network, whose code is not Python's any more.
    """
    while True:
        if isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(vars(model).get("_modules", {}).get("_orig_mod"), nn.Module):  # torch.compile's wrapper
            model = cast(nn.Module, model._modules["_orig_mod"])
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        name = getattr(model, "original_name", type(model).__name__)
        raise SpotkdError(
            f"{name} is a scripted network (torch.jit), which cannot be cut into stages: give the nn.Module that it "
            "was made from, and load its weights there"
        )
    return model


def select_output(model: nn.Module, probe: nn.Module, images: Tensor, output: str | int | None) -> nn.Module:
    """``model`` with the logits alone as its output; itself where it gives nothing else.

    Args:
        model: the network.
        probe: a twin of it, to run.
        images: what to run it on.
        output: where the logits are: an index, a key or an attribute, or several with dots between; None for a network
            that gives one tensor.

    Raises:
        SpotkdError: it gives several and none is named, or not that one, or it gives one tensor and one is named.
    """
    given = {training: run_with_fixed_seed(set_mode(probe, training), images) for training in (False, True)}
    several = {training: value for training, value in given.items() if not isinstance(value, Tensor)}
    name = type(model).__name__
    if not several:
        if output is not None:
            raise SpotkdError(f"output is {output}: {name} gives one tensor, its logits; leave it out")
        return model
    for training, value in several.items():
        if output is None:
            raise SpotkdError(
                f"{name} does not give one tensor in {mode_name(training)} mode but {_describe(value)}: name the "
                f"logits with output, such as {_first_key(value)} (--teacher.output, --student.output, --model.output)"
            )
        try:
            found = pick(value, output)
        except (LookupError, AttributeError, TypeError, ValueError):
            found = None
        if not isinstance(found, Tensor):
            raise SpotkdError(f"output is {output}: {name} gives {_describe(value)} in {mode_name(training)} mode")
    modes, kind = frozenset(several), type(model)

    def forward(self: Any, x: Tensor) -> Any:
        value = kind.forward(self, x)
        return pick(value, cast(str | int, output)) if self.training in modes else value

    return _with_forward(model, forward)


def give_logits(model: nn.Module, output: str | int) -> nn.Module:
    """``model``, which gives what stands at ``output`` where it gives more than one tensor; it is run as it is."""
    kind = type(model)

    def forward(self: Any, x: Tensor) -> Any:
        value = kind.forward(self, x)
        if isinstance(value, Tensor):
            return value
        try:
            return pick(value, output)
        except (LookupError, AttributeError, TypeError, ValueError):
            raise SpotkdError(f"output is {output}: {kind.__name__} gives {_describe(value)}") from None

    return _with_forward(model, forward)


def _with_forward(model: nn.Module, forward: Any) -> nn.Module:
    kind = type(model)
    changed_kind = cast(type[nn.Module], type(kind.__name__, (kind,), {"forward": forward}))
    changed = changed_kind.__new__(changed_kind)
    changed.__dict__ = model.__dict__  # all that one has the other has
    return changed


def pick(value: Any, output: str | int) -> Any:
    """What stands in ``value`` at an index, a key or an attribute, or at several with dots between."""
    for part in str(output).split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif part.lstrip("-").isdigit():
            value = value[int(part)]
        else:
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(f'{key} {_shape(item)}' for key, item in value.items())}"
    if isinstance(value, Sequence):
        names = getattr(value, "_fields", range(len(value)))
        return f"a tuple of {', '.join(f'{key} {_shape(item)}' for key, item in zip(names, value, strict=True))}"
    return f"a {type(value).__name__}"


def _shape(item: Any) -> str:
    return f"({', '.join(map(str, item.shape))})" if isinstance(item, Tensor) else f"({type(item).__name__})"


def _first_key(value: Any) -> str:
    keys = list(value) if isinstance(value, Mapping) else list(getattr(value, "_fields", [0]))
    return str("logits" if "logits" in keys else keys[0] if keys else 0)
