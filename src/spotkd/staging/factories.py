"""Tensors that a forward makes itself, of a size that its input has, such as the noise of a stochastic depth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

FACTORIES = ("rand", "randn", "randint", "randperm", "zeros", "ones", "empty", "full", "arange", "linspace")


@contextmanager
def recorded_factories() -> Iterator[None]:
    """Within this context torch's functions that make tensors become part of a graph where a size is one's."""

    def recorded(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def make(*args: Any, **kwargs: Any) -> Any:
            found: list[fx.Proxy] = []
            fx.node.map_aggregate((args, kwargs), lambda x: found.append(x) if isinstance(x, fx.Proxy) else None)
            if not found:
                return original(*args, **kwargs)
            return found[0].tracer.create_proxy("call_function", original, args, kwargs)

        return make

    originals = {name: getattr(torch, name) for name in FACTORIES}
    for name, original in originals.items():
        setattr(torch, name, recorded(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)
