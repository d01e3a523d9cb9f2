"""From the words of a command line to options."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from ..errors import SpotkdError
from ..escaping import escape_shell
from ..options import check_filled, check_options_file, make_parser
from ..registry import PYTHON
from .commands import COMMANDS

# Options that name a thing: `--teacher resnet20` is short for `--teacher.name resnet20`.
_NAMED = ("model", "teacher", "student", "data")
# The arguments that are given without their names: name, help, and how many (? for one or none, + for one or more).
POSITIONAL: dict[str, list[tuple[str, str, str | None]]] = {
    "evaluate": [("checkpoint", "a run folder or a weights file", None)],
    "export": [("run", "a run folder or a weights file", None)],
    "predict": [
        ("student", "a run folder, a weights file, an .onnx or a .pt2 file", None),
        ("images", "picture files, and folders of them", "+"),
    ],
    "profile": [
        ("teacher", "the large network", None),
        ("students", "one or more small networks to compare", "+"),
    ],
    "bench": [("plan", "a shipped plan's name or a YAML file; without one --dry-run lists all shipped plans", "?")],
    "inspect": [("run", "the folder of a run of 'spotkd distill'", None)],
    "trial": [("runs", "folders of runs with the strategy trial or cohort", "+")],
    "report": [("what", "folders of runs, or folders that hold some; or a plan's name or YAML file", "+")],
}

# Options of a run that a command which makes many of them sets itself.
_SET_BY_COMMAND = {"search": {"recipe", "overwrite", "resume", "accept_changes", "quiet", "compare"}}


def as_sentence(text: str) -> str:
    """With a capital letter and a full stop, the other letters as they are."""
    return f"{text[0].upper()}{text[1:]}."


@cache
def parser_of(command: str) -> ArgumentParser:
    config, _, help_text = COMMANDS[command]
    parser = make_parser(prog=f"spotkd {command}", description=as_sentence(help_text), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file with options")
    positional = POSITIONAL.get(command, [])
    for name, help_text, count in positional:
        parser.add_argument(name, type=str, help=help_text, nargs=count)
    parser.add_class_arguments(config, skip={name for name, *_ in positional} | _SET_BY_COMMAND.get(command, set()))
    return parser


def _spell_out(arguments: Sequence[str], named: Sequence[str], switches: Sequence[str]) -> list[str]:
    """Short forms written in full: ``--teacher NAME``, dashes inside option names, and a switch without ``true``."""
    spelled = []
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
            follows = value if equals else next(iter(arguments[position + 1 :]), "")
            is_file = follows.startswith("{") or follows.endswith((".yaml", ".yml", ".json"))
            if name[2:] in named and not is_file:
                name += ".name"
            if name[2:] in switches and not equals and (not follows or follows.startswith("--")):
                equals, value = "=", "true"
            if value.startswith("~/"):  # after an equals sign the shell leaves it
                value = str(Path(value).expanduser())
            argument = name + equals + value
        spelled.append(str(Path(argument).expanduser()) if argument.startswith("~/") else argument)
    return spelled


def _gather_teachers(arguments: Sequence[str]) -> list[str]:
    """``--teacher`` given more than once: runs and weights files after the first are ``more_teachers``.

    Of names of networks the last one holds, as of any option.
    """
    first, others, words = True, [], iter(arguments)
    kept: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        names_teacher = name == "--teacher.name"
        rest = [] if equals or not names_teacher else [next(words, "")]
        if names_teacher and not first and _is_path(rest[0] if rest else value):
            others.append(rest[0] if rest else value)
        else:
            kept += [word, *rest]
        first = first and not names_teacher
    return [*kept, f"--more_teachers={json.dumps(others)}"] if others else kept


def read(command: str, arguments: Sequence[str], recipe: str | None = None) -> Any:
    """The configuration that the arguments of a command describe, over those of a recipe if one is named."""
    parser = parser_of(command)
    defaults = parser.get_defaults()
    for place, name in enumerate(arguments):
        file = "".join(arguments[place + 1 : place + 2]) if name == "--config" else name.removeprefix("--config=")
        if name.startswith("--config") and Path(file).exists():
            check_options_file(COMMANDS[command][0], file)
    named = [name for name in _NAMED if f"{name}.name" in defaults]
    switches = [name for name, value in defaults.items() if isinstance(value, bool)]
    spelled = _spell_out(arguments, named, switches)
    if "more_teachers" in defaults:
        spelled = _gather_teachers(spelled)
    if "recipe" in defaults:
        plain = [argument for argument in spelled if argument.partition("=")[0] != "--print_config"]
        given = _parse(parser, plain, named, defaults=False).as_dict()
        given.pop("config", None)
        if given.get("resume") not in (None, "auto"):  # the run's own options hold, but for those given here
            _check_resumed(command, given)
            # Data were fetched when the run began; a stranger's folder fetches nothing.
            # What runs did before there was such an option, or with its former default.
            former = ["--balance=none", "--policy.schedule=published"] if command == "distill" else []
            spelled = [*former, "--config", f"{given['resume']}/config.yaml", "--data.download=false", *spelled]
            given["recipe"] = None
        recipe = recipe or given.get("recipe")
        if recipe is not None:
            from ..recipes import as_yaml, resolved

            config = resolved(recipe, given)
            if not isinstance(config, COMMANDS[command][0]):
                other = "distill" if command == "train" else "train"
                raise SpotkdError(f"recipe {recipe} is for 'spotkd {other}'")
            if len(plain) < len(spelled):
                print(as_yaml(config), end="")
                sys.exit(0)
            return _name_networks(_expand_home(config))
    options = _parse(parser, spelled, named)
    check_filled(COMMANDS[command][0], options.as_dict())
    values = parser.instantiate(options)
    found = COMMANDS[command][0](**{key: value for key, value in vars(values).items() if key != "config"})
    return _name_networks(_expand_home(found))


def _expand_home(options: Any) -> Any:
    """The options with ``~/`` as the home in whatever names a file: files with options know no shell."""
    if is_dataclass(options) and not isinstance(options, type):
        found = {field.name: getattr(options, field.name) for field in fields(options)}
        changed = {name: _expand_home(value) for name, value in found.items()}
        return options if changed == found else replace(options, **changed)
    if isinstance(options, list):
        return [_expand_home(value) for value in options]
    return str(Path(options).expanduser()) if isinstance(options, str) and options.startswith("~/") else options


def _is_path(name: str) -> bool:
    """Whether a network is given by its run or weights file."""
    return ":" not in name and (Path(name).is_dir() or Path(name).suffix in (".safetensors", ".pt", ".pth"))


def _name_networks(options: Any) -> Any:
    """A network given by its run or weights file, ``--teacher runs/teacher``: its name stands there.

    Raises:
        SpotkdError: the file does not name its network, or it names code, which only the command line may do.
    """
    from ..models.weights import read_metadata

    for key in ("model", "teacher", "student"):
        network = getattr(options, key, None)
        if not is_dataclass(network) or isinstance(network, type):
            continue
        path = getattr(network, "name", "")
        if not _is_path(path):
            continue
        told = f"--{key} NAME --{key}.checkpoint {escape_shell([path])}"
        if getattr(network, "checkpoint", path) is not None:
            raise SpotkdError(f"{key}.name is {path}, a path, and {key}.checkpoint is given too: write {told}")
        name = str(read_metadata(path).get("model", ""))
        if not name or name.startswith(PYTHON):
            raise SpotkdError(
                f"{path}: {f'is a network of {name}' if name else 'does not name its network'}; write {told}"
            )
        options = replace(options, **{key: replace(network, name=name, checkpoint=path)})
    return options


def _parse(parser: ArgumentParser, arguments: Sequence[str], named: Sequence[str], **settings: Any) -> Any:
    """What the parser makes of the arguments; an unknown option is answered with the near ones."""
    try:
        return parser.parse_args(list(arguments), **settings)
    except ArgumentError as error:
        message = str(error)
        unknown = next((word for word in message.split() if word.startswith("--")), "")
        if "unrecognized arguments" not in message or not unknown:
            raise
        name = unknown[2:].partition("=")[0].removesuffix(".name" if unknown.partition("=")[0][2:-5] in named else "")
        known = [*named, *(key for key in parser.get_defaults().keys() if not key.endswith(".name"))]  # noqa: SIM118
        near = [key for key in known if key.rpartition(".")[2] == name] or get_close_matches(name, known, n=1)
        hint = f"did you mean --{' or --'.join(near[:3])}?" if near else f"'{parser.prog} --help' lists all options"
        raise SpotkdError(f"{message}: {hint}") from error
    finally:
        vars(parser).pop("print_config", None)  # what was asked for before an error is not asked of the next arguments


def _check_resumed(command: str, given: Mapping[str, Any]) -> None:
    """A run is resumed by the command that began it, and by its maker where its options name code."""
    from ..runs.folder import RunFolder
    from ..runs.layout import CONFIG
    from ..runs.origin import is_own, names_to_follow

    folder = given["resume"]
    run = RunFolder(folder)
    if not run.exists:
        raise SpotkdError(f"{folder}: holds no run to resume (no config.yaml)")
    right = run.kind
    if command != right:
        again = escape_shell(["spotkd", right, "--resume", folder])
        raise SpotkdError(f"{folder}: is a run of 'spotkd {right}': {again}")
    unsaid = sorted(names_to_follow(run.raw_options) - names_to_follow(given))
    if unsaid and not is_own(run.path, run.raw_options):
        raise SpotkdError(
            f"{folder}: its options name {', '.join(unsaid)}, and you have not made it on this machine; if you trust "
            "it, give each of these options once more, as --distiller NAME"
        )
    check_options_file(COMMANDS[command][0], run.path / CONFIG, follow=False)
