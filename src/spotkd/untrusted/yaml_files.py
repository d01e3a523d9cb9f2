"""YAML: plain values only, and no more of them than a configuration has.

yaml is imported when it is used: ``spotkd --help`` must answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import SpotkdError, one_line
from .files import read_text

MAX_BYTES = 256 << 10  # of a file
MAX_VALUES = 2_000  # in a file, those that aliases stand for counted in full
MAX_DEPTH = 20  # lists and sections inside one another


def check_yaml(text: str) -> None:
    """Refuse YAML that unfolds to more than a configuration can be, before anything is made of it.

    Raises:
        SpotkdError: too many values, most of them by way of aliases, or too deep a nesting.
        yaml.YAMLError: no YAML.
    """
    import yaml

    open_nodes: list[list[Any]] = [[None, 0]]  # anchor and number of values so far, from the outside in
    known: dict[str | None, int] = {}
    plain = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")} | {"!"}
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        count = 0
        tag = getattr(event, "tag", None) or "!"
        if tag not in plain:
            raise SpotkdError(f"the YAML tag {tag[:60]} asks for more than plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, count = open_nodes.pop()
            known[anchor] = count
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise SpotkdError(f"the YAML alias *{str(event.anchor)[:40]} stands for nothing before it")
            count = known[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            known[event.anchor] = count = 1
        open_nodes[-1][1] += count
        if len(open_nodes) > MAX_DEPTH + 1:
            raise SpotkdError(f"more than {MAX_DEPTH} lists or sections inside one another")
        if open_nodes[-1][1] > MAX_VALUES:
            raise SpotkdError(f"more than {MAX_VALUES} values")


def check_yaml_file(path: str | Path, *, follow: bool = True) -> str:
    """The text of a YAML file that :func:`check_yaml` lets pass; ``follow`` as in :func:`.files.open_file`.

    Raises:
        SpotkdError: it is no such file; the message names it.
    """
    import yaml

    text = read_text(path, MAX_BYTES, follow=follow)
    try:
        check_yaml(text)
    except (SpotkdError, ValueError, yaml.YAMLError) as error:
        raise SpotkdError(f"{path}: {one_line(error)[:300]}") from error
    return text


def parse_yaml(text: str) -> Any:
    """The plain values of a text that :func:`check_yaml` lets pass.

    Raises:
        yaml.YAMLError: keys that cannot be keys, numbers that are none.
    """
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # both are safe
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # a number of 5000 digits
        raise yaml.YAMLError(f"{type(error).__name__}: {one_line(error)[:200]}") from error


def read_yaml(path: str | Path, *, follow: bool = True) -> Any:
    """What a YAML file holds: plain values, and no more of them than a configuration has.

    Raises:
        SpotkdError: it is no such file.
    """
    import yaml

    text = check_yaml_file(path, follow=follow)
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise SpotkdError(f"{path}: {one_line(error)[:300]}") from error
