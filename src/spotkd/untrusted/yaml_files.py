"""YAML: plain values only, and no more of them than a configuration has.

yaml is imported when it is used: ``spotkd --help`` must answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import SpotkdError, one_line
from .files import read_text

MAX_BYTES = 1 << 20  # of a file
MAX_SCALAR = 10_000  # letters of one value
MAX_VALUES = 10_000  # in a file, those that aliases stand for counted in full
MAX_DEPTH = 20  # lists and sections inside one another


def check_yaml(text: str) -> None:
    """Refuse YAML that unfolds to more than a configuration can be, before anything is made of it.

    Raises:
        SpotkdError: too many values, most of them by way of aliases, too long a one, or too deep a nesting; a merge
            key, which would copy a section without counting it.
        yaml.YAMLError: no YAML.
    """
    import yaml

    if len(text) > MAX_BYTES:
        raise SpotkdError(f"more than {MAX_BYTES >> 20} MB of YAML")

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
            if len(event.value) > MAX_SCALAR:
                raise SpotkdError(f"a value of more than {MAX_SCALAR} letters: {event.value[:40]!r} ...")
            if event.value == "<<" and event.style is None:
                raise SpotkdError("the merge key << is not taken: write out what it stands for")
            known[event.anchor] = count = 1
        open_nodes[-1][1] += count
        if len(open_nodes) > MAX_DEPTH + 1:
            raise SpotkdError(f"more than {MAX_DEPTH} lists or sections inside one another")
        if open_nodes[-1][1] > MAX_VALUES:
            raise SpotkdError(f"more than {MAX_VALUES} values")


def check_yaml_file(path: str | Path) -> str:
    """The text of a YAML file that :func:`check_yaml` lets pass.

    Raises:
        SpotkdError: it is no such file; the message names it.
    """
    import yaml

    try:
        text = read_text(path, MAX_BYTES)
        check_yaml(text)
    except (SpotkdError, OSError, ValueError, yaml.YAMLError) as error:
        reason = one_line(error).removeprefix(f"{path}: ")[:300]
        raise SpotkdError(f"{path}: {reason}") from error
    return text


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: plain values, and no more of them than a configuration has.

    Raises:
        SpotkdError: it is no such file.
    """
    import yaml

    text = check_yaml_file(path)
    try:
        return yaml.safe_load(text)
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise SpotkdError(f"{path}: {one_line(error)[:300]}") from error
