"""Options from a YAML file and the command line, by jsonargparse."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_type_hints

from ..errors import SpotkdError, one_line
from ..untrusted.yaml_files import check_yaml, check_yaml_file, parse_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

C = TypeVar("C")
_PARSERS_OWN = ("class_path", "init_args", "__path__")  # keys by which jsonargparse imports and opens what they name
_MODE = "spotkd"  # the name under which jsonargparse knows our way to read YAML


def check_filled(kind: type, options: Mapping[str, Any], section: str = "") -> None:
    """Refuse what the parser lets pass: no value where there must be one, and a value in place of a section.

    Args:
        kind: the configuration that the options are for.
        options: options as in a file; unknown ones are left to the parser.
        section: what stands before their names in the message.

    Raises:
        SpotkdError: which option it is.
    """
    hints = get_type_hints(kind)
    for key, value in options.items():
        hint: Any = hints.get(key, Any)
        if str(key).rpartition(".")[2] in _PARSERS_OWN and hint is Any:
            raise SpotkdError(f"{section}{key}: no such option; remove it")
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(value, Mapping):
                first = next(iter(get_type_hints(hint)))
                raise SpotkdError(f"{section}{key} is {value}: it is a section, write {key}: {{{first}: ...}}")
            check_filled(hint, value, f"{section}{key}.")
            continue
        _check_text(f"{section}{key}", value)
        if value is None and hint is not Any and NoneType not in get_args(hint):
            raise SpotkdError(f"{section}{key} is empty: give a value or leave it out")


def _check_text(key: str, value: Any) -> None:
    """Refuse text that cannot be written everywhere, wherever it stands in a value."""
    if isinstance(value, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise SpotkdError(f"{key} is {value[:60]!r}: it holds a character that is no UTF-8 text")
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_text(key, part)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _check_text(key, name)
            _check_text(f"{key}.{name}", part)


def make_parser(**options: Any) -> ArgumentParser:
    """A parser that raises its errors, and looks at YAML before it reads it."""
    import jsonargparse
    import yaml

    read = jsonargparse.get_loader("yaml")

    def load(text: str) -> Any:
        check_yaml(text)
        try:
            return read(text)
        except (
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:  # a number of 5000 digits, !!int of no number
            raise yaml.YAMLError(f"{type(error).__name__}: {one_line(error)[:200]}") from error

    jsonargparse.set_loader(_MODE, load, (yaml.YAMLError,))
    jsonargparse.set_dumper(_MODE, lambda value: yaml.safe_dump(value, allow_unicode=True, sort_keys=False))
    return jsonargparse.ArgumentParser(exit_on_error=False, parser_mode=_MODE, **options)


@cache
def parser_for(kind: type) -> ArgumentParser:
    """The parser of a configuration as files have it."""
    parser = make_parser()
    parser.add_class_arguments(kind)
    return parser


def check_options_file(kind: type, path: str | Path, *, follow: bool = True) -> str:
    """The text of a file with options, in which sections are sections: the parser opens files named in their place.

    Raises:
        SpotkdError: it is no YAML, or has something else in the place of a section; the message names it.
    """
    import yaml

    text = check_yaml_file(path, follow=follow)
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise SpotkdError(f"{path}: {one_line(error)[:300]}") from error
    if isinstance(content, Mapping):
        check_filled(kind, content)
    return text


def complete_former(kind: type, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a run of a former version, with what it did where a newer version has another default."""
    if "balance" not in get_type_hints(kind):
        return content
    policy = content.get("policy", {})
    if isinstance(policy, Mapping):
        policy = {"schedule": "published", **policy}
    return {"balance": "none", **content, "policy": policy}


def parse_options(kind: type[C], content: Mapping[str, Any], source: object) -> C:
    """The configuration of a run from what a file holds, checked like the command line; ``source`` names it.

    Raises:
        SpotkdError: an unknown key, a value of the wrong type.
    """
    parser = parser_for(cast(type, kind))
    try:
        check_filled(kind, content)
        options = parser.parse_object(dict(complete_former(cast(type, kind), content)))
        check_filled(kind, options.as_dict())
        return kind(**vars(parser.instantiate(options)))
    except (ArgumentError, SpotkdError, TypeError, OSError, RecursionError) as error:
        raise SpotkdError(f"{source}: {one_line(error)}") from error


def read_options(kind: type[C], path: str | Path, *, follow: bool = True) -> C:
    """The configuration of a run from its ``config.yaml``, checked like the command line.

    Args:
        kind: of options.
        path: the file.
        follow: whether it may be a link.

    Raises:
        SpotkdError: no such file, an unknown key, a value of the wrong type.
    """
    try:
        content = parse_yaml(check_options_file(cast(type, kind), path, follow=follow))
        if not isinstance(content, Mapping):
            raise SpotkdError("holds no options")
    except SpotkdError as error:
        raise SpotkdError(f"{path}: {one_line(error).removeprefix(f'{path}: ')}") from error
    return parse_options(kind, content, path)
