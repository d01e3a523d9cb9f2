"""A snapshot of the public API: every name in ``spotkd.__all__``, with signatures and public members.

Run from the repository root, by hand, when the API is meant to change, and tell of the change in CHANGELOG.md:

    python tests/golden/make_api.py

It writes tests/golden/api.json. The text is the same on every supported version of Python: annotations stand as they
are written in the source, and nothing that Python or PyTorch add to a class is listed. A class's attributes are those
that its body names and those that its methods assign.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ForwardRef

import spotkd

FILE = Path(__file__).with_name("api.json")
COMMAND = "python tests/golden/make_api.py"
OPERATORS = ("__call__", "__contains__", "__getitem__", "__iter__", "__len__", "__str__")


class _Text:
    """Stands in a signature for an annotation or a default, and prints as this text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _written(annotation: Any) -> str:
    """An annotation as the source has it."""
    if isinstance(annotation, str):
        return " ".join(annotation.split())
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    if annotation is None or annotation is type(None):
        return "None"
    return annotation.__qualname__ if isinstance(annotation, type) else repr(annotation).replace("typing.", "")


def _value(value: Any) -> str:
    """A default, without addresses and without the module that a class or function lives in."""
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _signature(function: Any) -> str:
    found = inspect.signature(function)
    empty = inspect.Parameter.empty
    parameters = [
        parameter.replace(
            annotation=empty if parameter.annotation is empty else _Text(_written(parameter.annotation)),
            default=empty if parameter.default is empty else _Text(_value(parameter.default)),
        )
        for parameter in found.parameters.values()
    ]
    result = found.return_annotation
    return str(
        found.replace(parameters=parameters, return_annotation=result if result is empty else _Text(_written(result)))
    )


def _own_classes(kind: type) -> list[type]:
    """The class and its bases, as far as they are the package's."""
    return [each for each in kind.__mro__ if each.__module__.partition(".")[0] == "spotkd"]


@cache
def _classes_in(module: str) -> dict[str, ast.ClassDef]:
    """The class statements of a module, by name."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _assigned(kind: type) -> Iterator[str]:
    """Public names that the methods of a class assign on ``self``."""
    for node in ast.walk(_classes_in(kind.__module__)[kind.__name__]):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store) or node.attr.startswith("_"):
            continue
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def _member(name: str, value: Any, annotations: dict[str, Any]) -> str:
    abstract = "abstract " if getattr(value, "__isabstractmethod__", False) else ""
    if isinstance(value, staticmethod | classmethod):
        return f"{abstract}{type(value).__name__} {_signature(value.__func__)}"
    if isinstance(value, property):
        assert value.fget is not None
        settable = " (settable)" if value.fset else ""
        return f"{abstract}property -> {_written(inspect.signature(value.fget).return_annotation)}{settable}"
    if inspect.isfunction(value):
        return f"{abstract}method {_signature(value)}"
    annotation = f": {_written(annotations[name])}" if name in annotations else ""
    simple = value is None or isinstance(value, bool | int | float | str | tuple)
    return f"attribute{annotation}" + (f" = {_value(value)}" if simple else "")


def _members(kind: type) -> dict[str, str]:
    """Public members by name; those of a subclass win."""
    found: dict[str, str] = {}
    for each in _own_classes(kind):
        annotations = inspect.get_annotations(each)
        for name, value in vars(each).items():
            if name not in found and (name in OPERATORS or not name.startswith("_")):
                found[name] = _member(name, value, annotations)
        for name, annotation in annotations.items():
            if not name.startswith("_"):
                found.setdefault(name, f"attribute: {_written(annotation)}")
    for each in _own_classes(kind):
        for name in _assigned(each):
            found.setdefault(name, "attribute")
    return dict(sorted(found.items()))


def _bases(kind: type) -> list[str]:
    """Direct bases that users know: the package's public ones by name, others with the package they come from."""
    names = []
    for base in kind.__bases__:
        package = base.__module__.partition(".")[0]
        if base is not object and not base.__name__.startswith("_"):
            names.append(base.__name__ if package in ("spotkd", "builtins") else f"{package}.{base.__name__}")
    return names


def describe(entry: Any) -> dict[str, Any]:
    """What a user can rely on of one public object."""
    if isinstance(entry, type(spotkd.MODELS)):
        return {"kind": f"registry of each {entry.kind}", "names": sorted(entry), "members": _members(type(entry))}
    if inspect.isclass(entry):
        content: dict[str, Any] = {"kind": "class", "bases": _bases(entry)}
        maker = next(each for each in entry.__mro__ if {"__init__", "__new__"} & set(vars(each)))
        if maker in _own_classes(entry):
            content["signature"] = _signature(entry)
        return content | {"members": _members(entry)}
    if callable(entry):
        return {"kind": "function", "signature": _signature(entry)}
    return {"kind": type(entry).__name__}


def describe_api() -> dict[str, Any]:
    """Everything in ``spotkd.__all__``; a name whose use warns is marked."""
    api = {}
    for name in sorted(spotkd.__all__):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            entry = getattr(spotkd, name)
        api[name] = describe(entry) | ({"warns": str(caught[0].message)} if caught else {})
    return api


def main() -> None:
    FILE.write_text(json.dumps(describe_api(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
