"""What tracing a forward would fix for ever without a word: random numbers of Python, and attributes of modules."""

from __future__ import annotations

import copy
import inspect
import linecache
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import SpotkdError

_NUMBERS = (bool, int, float, str, type(None))
_STANDARD = str(Path(os.__file__).parent) + os.sep
_LIBRARIES = tuple(str(Path(str(file)).parent) + os.sep for file in (torch.__file__, np.__file__, __file__))
_OF_MODULES = frozenset(dir(nn.Module()))  # names that every module has
Reads = dict[Any, dict[str, Any]]  # by a module's path, or a Scope: the names that a forward read, and their values


class UntraceableForwardError(SpotkdError):
    """A forward does what tracing cannot follow or would fix to what it did once, such as drawing random numbers."""


@contextmanager
def refuse_random(root: nn.Module, trace_again: Callable[[], Any]) -> Iterator[None]:
    """Raise if what is traced inside draws random numbers, and set all generators back.

    Raises:
        UntraceableForwardError: with the line, which is found by tracing once more.
    """
    generators = _find_generators(root)
    before = [read() for read, _ in generators]
    try:
        yield
        if not _same(generators, before):
            where = _find_line(generators, before, trace_again)
            raise UntraceableForwardError(
                f"{type(root).__name__} draws random numbers in its forward ({where}), which cutting would fix to one "
                "draw for ever: draw them in a submodule of its own or write its stages by hand"
            )
    finally:
        _set_back(generators, before)


@contextmanager
def keep_generators() -> Iterator[None]:
    """Set the global generators of Python and numpy back at the end."""
    generators = _GLOBAL[:2]
    before = [read() for read, _ in generators]
    try:
        yield
    finally:
        _set_back(generators, before)


_Generator = tuple[Callable[[], Any], Callable[[Any], Any]]  # reads a generator's state, and sets it

_GLOBAL: list[_Generator] = [
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (torch.get_rng_state, torch.set_rng_state),
]


def _find_generators(root: nn.Module) -> list[_Generator]:
    """The global generators of Python, numpy and torch, and those that the network or its source file holds."""
    found = list(_GLOBAL)
    held: dict[int, Any] = {}
    for module in root.modules():
        held |= {id(value): value for value in vars(module).values()}
    for kind in {type(module) for module in root.modules()}:
        if not kind.__module__.startswith("torch."):
            scope = vars(sys.modules.get(kind.__module__, sys))
            held |= {id(value): value for value in scope.values()}
    for value in held.values():
        if isinstance(value, random.Random):
            found.append((value.getstate, value.setstate))
        elif isinstance(value, np.random.RandomState):
            found.append((value.get_state, value.set_state))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            found.append((partial(_read_bits, bits), partial(setattr, bits, "state")))
        elif isinstance(value, torch.Generator):
            found.append((value.get_state, value.set_state))
    return found


def _read_bits(bits: Any) -> Any:
    return copy.deepcopy(bits.state)


def _same(generators: list[_Generator], states: list[Any]) -> bool:
    return all(repr(_plain(read())) == repr(_plain(state)) for (read, _), state in zip(generators, states, strict=True))


def _plain(state: Any) -> Any:
    """A generator's state without arrays, of which ``repr`` would leave out the middle."""
    if isinstance(state, torch.Tensor | np.ndarray):
        return state.tolist()
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    return tuple(map(_plain, state)) if isinstance(state, tuple) else state


def _set_back(generators: list[_Generator], states: list[Any]) -> None:
    for (_, write), state in zip(generators, states, strict=True):
        write(state)


def _find_line(generators: list[_Generator], before: list[Any], trace_again: Callable[[], Any]) -> str:
    """The file, line and text after which a generator has another state, while the same is traced once more."""
    _set_back(generators, before)
    place = ["a line that could not be found"]
    found: list[str] = []

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        if _is_library(frame):
            return None
        if not found and not _same(generators, before):
            found.append(place[0])
        place[0] = _describe_line(frame)
        return follow if not found else None

    outer = sys.gettrace()
    sys.settrace(follow)
    try:
        trace_again()
    except Exception:  # the line found so far is told
        pass
    finally:
        sys.settrace(outer)
    return (found or place)[0]


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    standard = file.startswith(_STANDARD) and "site-packages" not in file
    return standard or file.startswith((*_LIBRARIES, "<"))


def _describe_line(frame: FrameType) -> str:
    file = frame.f_code.co_filename
    text = linecache.getline(file, frame.f_lineno).strip()
    return f"{file}:{frame.f_lineno}: {text}" if text else f"{file}:{frame.f_lineno}"


def find_caller() -> str:
    """The file, line and text of the network's code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_library(frame):
        frame = frame.f_back
    return _describe_line(frame) if frame is not None else "a line that could not be found"


class Scope:
    """The variables of a file or of a class, where a forward reads numbers that are nobody's attribute.

    Args:
        label: how messages name it.
        variables: by name.
    """

    def __init__(self, label: str, variables: Mapping[str, Any]) -> None:
        self.label, self.variables = label, variables

    def __deepcopy__(self, _: Any) -> Scope:
        return self


def read_globals(modules: Iterable[nn.Module]) -> Reads:
    """Numbers and texts in variables of files and classes that the forwards of these modules read, or functions that
    they call; of a library's code nothing.
    """
    reads: Reads = {}
    scopes: dict[int, Scope] = {}
    waiting: list[tuple[Any, type]] = [(getattr(type(module), "forward", None), type(module)) for module in modules]
    seen = set()
    while waiting:
        function, kind = waiting.pop()
        function = inspect.unwrap(function) if callable(function) else function
        if not isinstance(function, FunctionType) or (function, kind) in seen or _is_of_library(function.__code__):
            continue
        seen.add((function, kind))
        names = _names_in(function.__code__)
        held = [value for name in names if (value := function.__globals__.get(name)) is not None]
        files = [value for value in held if isinstance(value, ModuleType) and not _is_library_module(value)]
        classes = [value for value in held if isinstance(value, type) and value.__module__ == function.__module__]
        holders = [(function.__module__, function.__globals__), *((file.__name__, vars(file)) for file in files)]
        for label, variables in [*holders, *((each.__name__, vars(each)) for each in classes)]:
            for name in names & variables.keys():
                value = variables[name]
                kept = None if isinstance(value, ModuleType) else snapshot(value)
                if kept is not None and not name.startswith("__"):
                    scope = scopes.setdefault(id(variables), Scope(label, variables))
                    reads.setdefault(scope, {})[name] = kept
                waiting.append((value, kind))
        waiting += [(getattr(kind, name, None), kind) for name in names]
    return reads


def _names_in(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _is_of_library(code: CodeType) -> bool:
    file = code.co_filename
    return file.startswith((_STANDARD, *_LIBRARIES, "<")) or "site-packages" in file


def _is_library_module(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or file.startswith((_STANDARD, *_LIBRARIES)) or "site-packages" in file


@contextmanager
def record_reads(root: nn.Module, traced: Iterable[nn.Module], reads: Reads) -> Iterator[None]:
    """Enter in ``reads`` what is read inside of numbers and texts (also in lists and settings) kept in attributes, and
    what the ``traced`` modules read in variables of their files and classes.

    Raises:
        UntraceableForwardError: the forward sets an attribute that it reads.
    """
    paths = {id(module): path for path, module in root.named_modules()}
    reads |= read_globals(traced)

    def read(self: nn.Module, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name not in _OF_MODULES and id(self) in paths:
            kept = snapshot(value)
            if kept is not None:
                reads.setdefault(paths[id(self)], {}).setdefault(name, kept)
        return value

    nn.Module.__getattribute__ = read  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del nn.Module.__getattribute__
    changed = changed_read(root, reads)
    if changed is not None:
        raise UntraceableForwardError(
            f"{type(root).__name__} sets {changed} in its forward, which cutting would leave out: set it in a "
            "submodule of its own or write its stages by hand"
        )


def snapshot(value: Any) -> tuple[Any, ...] | None:
    """The numbers and texts that ``value`` is or holds, to be compared later; None where there are none."""
    if isinstance(value, _NUMBERS):
        return (value,)
    if isinstance(value, nn.Module | torch.Tensor | type) or callable(value):
        return None
    if isinstance(value, list | tuple | set | frozenset):
        items: Any = enumerate(value)
    elif isinstance(value, Mapping):
        items = value.items()
    else:
        items = getattr(value, "__dict__", {}).items()
    return tuple((key, item) for key, item in items if isinstance(item, _NUMBERS)) or None


def changed_read(root: nn.Module, reads: Reads) -> str | None:
    """The first name of ``reads`` whose value is not any more what it was, with both values."""
    for path, names in reads.items():
        module = None if isinstance(path, Scope) else root.get_submodule(path)
        for name, kept in names.items():
            now = snapshot(path.variables.get(name) if module is None else getattr(module, name, None))
            if now != kept:
                place = path.label if module is None else path
                label = f"{place}.{name}" if place else name
                return f"'{label}' ({_show(kept)}, now {_show(now)})"
    return None


def _show(kept: tuple[Any, ...] | None) -> str:
    return repr(kept[0]) if kept is not None and len(kept) == 1 else repr(kept)[:80]
