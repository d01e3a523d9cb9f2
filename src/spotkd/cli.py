"""The command line: ``spotkd demo | train | distill | evaluate``, and lists of what can be named.

A mistake of the user is one line on standard error and exit status 2. Nothing heavy is imported before the arguments
have been read.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__
from .errors import STOPPED, SpotkdError, Stopped, one_line
from .options import (
    BenchOptions,
    DemoOptions,
    DistillOptions,
    EvaluateOptions,
    ExportOptions,
    InspectOptions,
    PredictOptions,
    ProfileOptions,
    ReportOptions,
    TrainOptions,
    check_filled,
    make_parser,
)
from .untrusted.yaml_files import check_yaml_file

# Options that name a thing: `--teacher resnet20` is short for `--teacher.name resnet20`.
_NAMED = ("model", "teacher", "student", "data")


def _train(config: TrainOptions) -> None:
    from .training import train

    summary = train(config)
    print(f"{summary}; run in {summary.folder}")


def _distill(config: DistillOptions) -> None:
    from .training import distill
    from .training.progress import describe_shares

    if config.recipe is not None and config.teacher.checkpoint is None:
        if _one_of_several():
            raise SpotkdError(f"recipe {config.recipe}: under torchrun name the --teacher.checkpoint")
        from .experiments import find_or_train_teacher, teacher_options

        trained = str(find_or_train_teacher(teacher_options(config), print))
        config = replace(config, teacher=replace(config.teacher, checkpoint=trained))
    summary = distill(config)
    print(f"{summary}; distilled in the last epoch: {describe_shares(summary.shares)}; run in {summary.folder}")


def _evaluate(config: EvaluateOptions) -> None:
    from .training import evaluate_checkpoint

    scores = evaluate_checkpoint(config)
    print(
        f"top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} %, loss {scores.loss:.4f} on {scores.images} test images"
    )


def _export(config: ExportOptions) -> None:
    from .deploy import export, publish

    if config.push_to_hub is not None:
        page = publish(config)
        print(f"{page.folder}: {', '.join(page.files)}" + (f"; sent to {page.address}" if page.address else ""))
        return
    written = export(config)
    print(
        f"{written.path}: its logits differ from the student's by at most {written.difference:.1e} "
        f"on {written.images} random images"
    )


def _predict(config: PredictOptions) -> int:
    from .deploy import predict, save_predictions
    from .escaping import escape_terminal

    failures: list[str] = []

    def failed(reason: str) -> None:
        failures.append(reason)
        print(f"spotkd: {escape_terminal(reason)}", file=sys.stderr)

    predictions = predict(config, failed)
    for file, classes in predictions if config.csv is None else save_predictions(predictions, config.csv):
        shares = ", ".join(f"{escape_terminal(name)} {100 * share:.2f} %" for name, share in classes)
        print(f"{escape_terminal(file)}: {shares}")
    return 1 if failures else 0


def _profile(config: ProfileOptions) -> None:
    from .profiling import network_table, profile, step_table, write_csv, write_json

    console, bar = Console(), Console(stderr=True)
    with bar.status("") as status:
        result = profile(config, lambda what: status.update(escape(what)))
    width, height = result.image_shape[::-1][:2]
    print(
        f"{result.machine}, {result.device}, images {height}x{width}, {result.classes} classes; steps of "
        f"{result.batch_size} images in {result.precision}; medians of {config.rounds} with the lowest and the highest"
    )
    for head, rows in (network_table(result), step_table(result)):
        if rows:
            print()
            _print_table(console, head, rows)
    if config.csv is not None:
        write_csv(result, config.csv)
    if config.json is not None:
        write_json(result, config.json)


def _print_table(console: Console, head: list[str], rows: list[list[str]]) -> None:
    """A table as wide as the terminal; anywhere else plain lines in columns."""
    if console.is_terminal:
        table = Table(*head, box=SIMPLE)
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _inspect(config: InspectOptions) -> None:
    from .analysis import describe, inspect, write_tables

    inspection, _ = inspect(config)
    Console().print(describe(inspection))
    for line in write_tables(inspection, Path(config.out or config.run)):
        print(line)


def _demo(config: DemoOptions) -> None:
    from .demo import run_demo

    run_demo(config, Console())


def _bench(config: BenchOptions) -> int:
    from .experiments import list_plan, run_plan

    if not config.dry_run:
        return run_plan(config, Console())
    list_plan(config, Console())
    return 0


def _report(config: ReportOptions) -> None:
    from .experiments import report_plan
    from .report import find_runs, report_runs

    runs = find_runs(config.what)
    if runs:
        for line in report_runs(runs, config):
            print(line)
    elif config.figures is not None:
        raise SpotkdError(f"figures has no effect on the plan {config.what[0]}: leave it out, or name folders of runs")
    else:
        print(report_plan(config.what[0], config.out))


def _data() -> None:
    from .data import DATASETS, SOURCES

    for name in DATASETS:
        print(f"{name:<16} {_first_line(DATASETS[name])}")
    for name, what in (
        *((f"{source}:{_SOURCE_OF[source]}", _first_line(SOURCES[source])) for source in SOURCES),
        ("python:MODULE.F", "one of yours: F() returns a spotkd.Dataset"),
    ):
        print(f"{name:<16} {what}")


def _distillers() -> None:
    from .distillers import DISTILLERS, accepted_features

    for name in DISTILLERS:
        entry: Any = DISTILLERS[name]
        takes = accepted_features(entry)
        print(f"{name:<9} {_first_line(sys.modules[entry.__module__])} Takes {takes}.")


def _models() -> None:
    from .models import MODELS, describe

    for name in MODELS:
        print(f"{name:<16} {describe(name)}")
    for name, what in (
        ("torchvision:NAME", "a network of torchvision, such as torchvision:resnet50 (pip install 'spotkd[vision]')"),
        ("timm:NAME", "a network of timm, such as timm:mobilenetv3_small_100 (pip install 'spotkd[vision]')"),
        ("python:MODULE.F", "one of yours: F(number of classes) returns an nn.Module"),
    ):
        print(f"{name:<16} {what}")


def _strategies() -> None:
    from .routing import STRATEGIES

    for name in STRATEGIES:
        print(f"{name:<9} {_first_line(STRATEGIES[name])}")


def _one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _first_line(entry: object) -> str:
    return (entry.__doc__ or "(not described)").strip().splitlines()[0]


def _sentence(text: str) -> str:
    """With a capital letter and a full stop, the other letters as they are."""
    return f"{text[0].upper()}{text[1:]}."


_SOURCE_OF = {"folder": "PATH", "hf": "NAME"}  # what follows the colon

_LISTS: dict[str, tuple[Callable[[], None], str]] = {
    "distillers": (_distillers, "what can be distilled, a line each"),
    "strategies": (_strategies, "who decides where, a line each"),
    "models": (_models, "the networks known by name, a line each"),
    "data": (_data, "the data sets known by name, a line each"),
    "recipes": (lambda: _recipes(()), "the paper's experiments by name; 'recipes show NAME' prints one in full"),
}

_COMMANDS: dict[str, tuple[type, Callable[[Any], int | None], str]] = {
    "demo": (DemoOptions, _demo, "a teacher and four students on glyph94, with a table and pictures"),
    "train": (TrainOptions, _train, "train one network on labels: a teacher, or a student alone"),
    "distill": (DistillOptions, _distill, "distil a trained teacher into a student"),
    "evaluate": (EvaluateOptions, _evaluate, "measure a trained network on the test images"),
    "export": (ExportOptions, _export, "write a trained student as ONNX, torch-export or safetensors"),
    "predict": (PredictOptions, _predict, "classify pictures with a trained student in any format"),
    "profile": (ProfileOptions, _profile, "size, speed and cost of a step: which student to choose"),
    "bench": (BenchOptions, _bench, "run a plan: a grid of data sets, pairs, distillers, strategies and seeds"),
    "inspect": (InspectOptions, _inspect, "where a run's policy sends every image, as a table"),
    "report": (ReportOptions, _report, "runs on one HTML page; or the tables of a plan, from its finished runs"),
}

# The arguments that are given without their names: name, help, and how many (? for one or none, + for one or more).
_POSITIONAL: dict[str, list[tuple[str, str, str | None]]] = {
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
    "report": [("what", "folders of runs, or folders that hold some; or a plan's name or YAML file", "+")],
}

_USAGE = f"""usage: spotkd COMMAND [options]

Spot-adaptive knowledge distillation: a policy decides, sample by sample, where the teacher teaches.

commands:
{chr(10).join(f"  {name:<10} {entry[-1]}" for name, entry in (_COMMANDS | _LISTS).items())}

  spotkd COMMAND --help            every option with its default
  spotkd COMMAND --config FILE     options from a YAML file; the command line overrides it
  spotkd COMMAND --print_config    the resolved options as such a file
  spotkd --version                 the version
"""


@cache
def _parser(command: str) -> ArgumentParser:
    config, _, help_text = _COMMANDS[command]
    parser = make_parser(prog=f"spotkd {command}", description=_sentence(help_text), allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file with options")
    positional = _POSITIONAL.get(command, [])
    for name, help_text, count in positional:
        parser.add_argument(name, type=str, help=help_text, nargs=count)
    parser.add_class_arguments(config, skip={name for name, *_ in positional})
    return parser


def _spelled_out(arguments: Sequence[str], named: Sequence[str], switches: Sequence[str]) -> list[str]:
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
            argument = name + equals + value
        spelled.append(argument)
    return spelled


def _run(arguments: Sequence[str]) -> int:
    command, *rest = arguments
    if command == "recipes" and not {"--help", "-h"} & set(rest[:1]):
        _recipes(rest)
        return 0
    if command in _LISTS:
        function, help_text = _LISTS[command]
        if rest in (["--help"], ["-h"]):
            print(f"usage: spotkd {command}\n\n{_sentence(help_text)}")
        elif rest:
            raise SpotkdError(f"'spotkd {command}' takes no options, and got {' '.join(rest)}")
        else:
            function()
        return 0
    if command not in _COMMANDS:
        from .registry import unknown_name

        raise unknown_name("command", command, [*_COMMANDS, *_LISTS])
    _, run, _ = _COMMANDS[command]
    return run(read(command, rest)) or 0


def read(command: str, arguments: Sequence[str], recipe: str | None = None) -> Any:
    """The configuration that the arguments of a command describe, over those of a recipe if one is named."""
    parser = _parser(command)
    defaults = parser.get_defaults()
    for place, name in enumerate(arguments):
        file = "".join(arguments[place + 1 : place + 2]) if name == "--config" else name.removeprefix("--config=")
        if name.startswith("--config") and Path(file).is_file():
            check_yaml_file(file)
    named = [name for name in _NAMED if f"{name}.name" in defaults]
    switches = [name for name, value in defaults.items() if isinstance(value, bool)]
    spelled = _spelled_out(arguments, named, switches)
    if "recipe" in defaults:
        plain = [argument for argument in spelled if argument.partition("=")[0] != "--print_config"]
        given = parser.parse_args(plain, defaults=False).as_dict()
        given.pop("config", None)
        if given.get("resume") not in (None, "auto"):  # the run's own options hold, but for those given here
            _check_kind(command, given["resume"])
            spelled = ["--config", f"{given['resume']}/config.yaml", *spelled]
            given["recipe"] = None
        recipe = recipe or given.get("recipe")
        if recipe is not None:
            from .recipes import as_yaml, resolved

            config = resolved(recipe, given)
            if not isinstance(config, _COMMANDS[command][0]):
                other = "distill" if command == "train" else "train"
                raise SpotkdError(f"recipe {recipe} is for 'spotkd {other}'")
            if len(plain) < len(spelled):
                print(as_yaml(config), end="")
                sys.exit(0)
            return config
    options = parser.parse_args(spelled)
    check_filled(_COMMANDS[command][0], options.as_dict())
    values = parser.instantiate(options)
    return _COMMANDS[command][0](**{key: value for key, value in vars(values).items() if key != "config"})


def _check_kind(command: str, folder: str) -> None:
    """A run is resumed by the command that began it."""
    from .runs.folder import RunFolder

    run = RunFolder(folder)
    if not run.exists:
        raise SpotkdError(f"{folder}: holds no run to resume (no config.yaml)")
    right = run.kind
    if command != right:
        raise SpotkdError(f"{folder}: is a run of 'spotkd {right}': spotkd {right} --resume {folder}")


def _recipes(arguments: Sequence[str]) -> None:
    """``spotkd recipes`` and ``spotkd recipes show NAME [options]``."""
    from .recipes import as_yaml, describe, parse, recipe_names

    if not arguments:
        for name in recipe_names():
            print(f"{name:<44} {describe(name)}")
    elif arguments[0] == "show" and len(arguments) > 1 and not arguments[1].startswith("--"):
        command = "distill" if parse(arguments[1]).distiller else "train"
        print(as_yaml(read(command, arguments[2:], arguments[1])), end="")
    else:
        raise SpotkdError("write 'spotkd recipes' for the list, or 'spotkd recipes show NAME [options]'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0; 1 where runs of a plan failed or a picture could not be read; 2 for a mistake of the user; 75 where a run was
    asked to stop (SIGTERM, SIGINT) and has saved its state; 130 when interrupted otherwise.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0
    if arguments[0] == "--version":
        print(f"spotkd {__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):  # names of files and classes may hold what a terminal's code cannot say
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if _one_of_several() and os.environ.get("RANK") != "0":  # the first process tells what there is to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        return _run(arguments)
    except (SpotkdError, ArgumentError) as error:
        print(f"spotkd: {one_line(error)}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"spotkd: {stopped}", file=sys.stderr)
        return STOPPED
    except SystemExit as end:  # --help and --print_config end the reading of arguments so
        return int(end.code or 0)
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that vanished: the system's words name the file
        print(f"spotkd: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spotkd: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
