"""Write the pages that the code dictates: ``python tools/build_docs.py``.

Distillers, strategies, every option of every command, and what Python offers. The text of a distiller's page is the
docstring of its module, so that it stands beside the code that it describes; the table under it is read from the class.
Options come from the parser. A test compares the pages with what this script makes.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import yaml
from docstring_parser import parse

import spotkd
import spotkd.routing.strategies as strategies
import spotkd.training
from spotkd import DISTILLERS, STRATEGIES
from spotkd.cli.arguments import POSITIONAL, as_sentence, parser_of
from spotkd.cli.commands import COMMANDS
from spotkd.cli.lists import LISTS
from spotkd.distillers import LogitDistiller, accepted_features, option_names

DOCS = Path(__file__).parents[1] / "docs"
CHOOSE_STRATEGY = """Where a distiller acts is one option of `spotkd distill`; names combine, and some take a value:

```
spotkd distill --teacher runs/teacher --student resnet8 --distiller at --strategy trust+balance
spotkd distill --teacher runs/teacher --student resnet8 --distiller at --strategy random:0.3
```"""
NOTE = "<!-- made by tools/build_docs.py from the docstrings: change those -->\n"


def distiller_page(name: str) -> str:
    """The page of one distiller: its module's docstring and what its class says of itself."""
    entry: Any = DISTILLERS[name]
    title, _, text = inspect.getdoc(sys.modules[entry.__module__]).partition("\n\n")  # type: ignore[union-attr]
    facts = [
        ("on the command line", f"`--distiller {name}`"),
        ("sits at", f"`{entry.spot_rule.__name__}`: {inspect.getdoc(entry.spot_rule)}"),
        ("takes", accepted_features(entry)),
        ("weight", "`--alpha`, 1" if issubclass(entry, LogitDistiller) else f"`--beta`, {entry.default_weight:g}"),
    ]
    if entry.warmup:
        facts.append(("warm-up of the weight", f"the first {entry.warmup * 240:g} of 240 epochs"))
    if entry.before_relu:
        facts.append(("sees features", "before the ReLU that ends a stage"))
    if (phase := entry.preparation) is not None:
        also = ", with the student" if phase.trains_student else ""
        facts.append(
            (
                "preparation",
                f"{phase.what}: {phase.share * 240:g} of 240 epochs{also}, "
                f"SGD {phase.lr:g} (`--preparation.epochs`, `.lr`)",
            )
        )
    said = {parameter.arg_name: parameter.description for parameter in parse(inspect.getdoc(entry) or "").params}
    options = [
        f"- `--options.{key} {str(default).lower()}`: {said[key]}" for key, default in option_names(entry).items()
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts)])
    parts = [f"# {title.removesuffix('.')}", text, table]
    if options:
        parts.append("Options, with their defaults:\n\n" + "\n".join(options))
    return NOTE + "\n" + "\n\n".join(parts) + "\n"


def distiller_index() -> str:
    """The list of all distillers."""
    rows = ["| name | what | takes | weight |", "|---|---|---|---|"]
    for name in DISTILLERS:
        entry: Any = DISTILLERS[name]
        title = inspect.getdoc(sys.modules[entry.__module__]).partition("\n")[0]  # type: ignore[union-attr]
        weight = "alpha 1" if issubclass(entry, LogitDistiller) else f"{entry.default_weight:g}"
        rows.append(f"| [`{name}`]({name}.md) | {title.removesuffix('.')} | {accepted_features(entry)} | {weight} |")
    return f"""{NOTE}
# Distillers: what to distil

What a student may copy from its teacher: logits, maps, embeddings or relations of samples.

```
spotkd distillers
spotkd distill --teacher runs/teacher --student resnet8 --distiller sp
```

{chr(10).join(rows)}

Every one works with every [strategy](../strategies.md), which decides for each sample at which of the distiller's spots
it acts. KD stands at the logits beside every distiller of features; one of the logits takes its place.

In the formulas $B$ is the size of the batch, $m_b$ is 1 where sample $b$ is selected at the spot and $n$ is the number
of such samples; $f_s$, $f_t$ are the features of student and teacher. A loss is always $n / B$ times that of the
selected samples alone, computed with static shapes from a mask. What each costs in time and memory stands in
[the benchmarks](../../benchmarks/README.md#distillers).

**Spots.** A distiller names a rule, and each network resolves it for itself. Lists of different lengths are paired maps
with maps and vectors with vectors, from the shallow end up to the shorter one. `--spots student:teacher,...` pairs
stages by name instead: `--spots layer1:layer2,layer3:layer4`.

[Add your own](../own-distiller.md)
"""


def strategies_page() -> str:
    """All strategies."""
    parts = [f"{NOTE}\n# Strategies: where to distil", CHOOSE_STRATEGY, inspect.getdoc(strategies) or ""]
    for name in STRATEGIES:
        kind: Any = STRATEGIES[name]
        text, _, arguments = (inspect.getdoc(kind) or "").partition("\n\nArgs:\n")
        module = inspect.getdoc(sys.modules[kind.__module__]) or ""
        more = module.partition("\n\n")[2] if kind.__module__ != strategies.__name__ else ""
        given = textwrap.dedent(arguments).partition("\n\n")[0].replace("\n    ", " ")
        takes = [f"- `{line.partition(': ')[0]}`: {line.partition(': ')[2]}" for line in given.splitlines()]
        parts += [f"## {name}", text, more, *(["Values it takes:\n\n" + "\n".join(takes)] if takes else [])]
    about, _, attributes = (inspect.getdoc(strategies.Strategy) or "").partition("\n\nAttributes:\n")
    text, *blocks = about.partition("\n\n``SpotKD")[0].split(".. code-block:: python\n\n")
    imports = "import torch\nfrom spotkd import Decisions, Strategy\nfrom spotkd.routing import straight_through\n\n\n"
    parts += ["## Your own", text.strip()]
    for block in blocks:
        code, _, after = re.sub(r"\n\n(?=\S)", "\0", block + "\0", count=1).partition("\0")
        parts += [f"```python\n{imports}{textwrap.dedent(code).strip()}\n```", after.strip("\0\n ")]
    parts.append("``SpotKD" + about.partition("\n\n``SpotKD")[2])
    said = (line.strip().partition(": ") for line in textwrap.dedent(attributes).replace("\n    ", " ").splitlines())
    parts.append("Its attributes:\n\n" + "\n".join(f"- `{name}`: {what}" for name, _, what in said))
    markdown = re.sub(
        r"(?<!`)``(?!`)", "`", "\n\n".join(filter(None, parts))
    )  # the docstrings' literals, not the fences
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", markdown) + "\n"


def options_page() -> str:
    """Every option of every command, as its parser has it."""
    parts = [f"{NOTE}\n# Every option", OPTIONS]
    for command, (_, _, about) in COMMANDS.items():
        parser = parser_of(command)
        arguments = [
            f"{name.upper()}{' ...' if count == '+' else ''}" for name, _, count in POSITIONAL.get(command, [])
        ]
        parts += [
            f"## spotkd {command}",
            as_sentence(about),
            f"`{' '.join(['spotkd', command, *arguments])} [options]`",
        ]
        for group in parser._action_groups:
            actions = [
                action for action in group._group_actions if action.dest not in COMMON and action.help and shown(action)
            ]
            if not actions:
                continue
            rows = [f"| {shown(action)} | {default_of(action)} | {cell(action.help or '')} |" for action in actions]
            named = "." in actions[-1].dest
            heading = [f"### {actions[-1].dest.partition('.')[0]}: {group.title}"] if named else []
            parts += [*heading, "\n".join(["| | default | |", "|---|---|---|", *rows])]
    lists = [f"- `spotkd {name}`: {about}" for name, (_, about) in LISTS.items()]
    parts += ["## Lists", "\n".join(lists)]
    return "\n\n".join(parts) + "\n"


OPTIONS = """`spotkd COMMAND --help` prints the same. [Commands](../commands.md) says what they are for. Every command
takes `--config FILE`, options from a YAML file, and `--print_config`, which prints the resolved options as such a file.
A default of `-` is unset. `--teacher NAME` is short for `--teacher.name NAME`, and so are `--student`, `--model` and
`--data`; dashes and underscores are the same, and a switch needs no `true`."""
COMMON = ("help", "config", "print_config")


def shown(action: Any) -> str:
    """How an option, or an argument without a name, is written, with the values that it may have."""
    if not hasattr(action, "_typehint"):  # `--data FILE`, the options of a group in a file
        return ""
    name = action.option_strings[0] if action.option_strings else action.dest.upper()
    return cell(f"`{name}` " + ", ".join(f"`{value}`" for value in choices(action._typehint)))


def choices(hint: Any) -> list[str]:
    """The values of a switch or of a choice; none for anything else."""
    if hint is bool:
        return ["true", "false"]
    return [str(value) for value in get_args(hint)] if get_origin(hint) is Literal else []


def default_of(action: Any) -> str:
    if not action.option_strings:
        return ""
    if action.default is None:
        return "-"
    return f"`{yaml.safe_dump(action.default, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def cell(text: str) -> str:
    """Text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def python_page() -> str:
    """All that Python offers, by what it is for."""
    parts = [f"{NOTE}\n# Python", PYTHON]
    for title, names in PUBLIC.items():
        rows = [f"| [`{name}`]({name}.md) | {cell(as_markdown(summary_of(name)))} |" for name in names]
        parts.append("\n".join([f"## {title}\n", "| name | what |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def object_page(name: str) -> str:
    """The page of one object: what it is, an example that a test runs, and for mkdocstrings its docstring."""
    module, entry = where(name)
    path = f"{entry.__module__ if hasattr(entry, '__qualname__') else module.__name__}.{name}"
    example = (DOCS / "reference" / "examples" / f"{SHARED.get(name, name)}.py").read_text(encoding="utf-8")
    return f"""{NOTE}
# {name}

{as_markdown(summary_of(name))}

```python
{example.strip()}
```

Arguments, shapes and errors: `help({module.__name__}.{name})`.

::: {path}
"""


def where(name: str) -> tuple[ModuleType, Any]:
    """The module that offers a public name, and what that is."""
    module = next(module for module in (spotkd, spotkd.training) if name in module.__all__)
    return module, getattr(module, name)


def summary_of(name: str) -> str:
    """The first sentence of a public object's docstring."""
    return REGISTRIES.get(name) or " ".join((inspect.getdoc(where(name)[1]) or "").partition("\n\n")[0].split())


def as_markdown(text: str) -> str:
    """Literals and roles of a docstring in Markdown."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")


PYTHON = """What `from spotkd import ...` and `from spotkd.training import ...` offer; every page begins with an example
that runs."""
PUBLIC = {
    "Distil in your own loop": ["SpotKD", "Losses", "Batch", "Supervised", "compile_method", "fold_batchnorm"],
    "Networks": ["create_model", "stage", "StagedModel", "MODELS"],
    "Data": ["load_dataset", "load_glyph94", "Dataset", "Loader", "DATASETS"],
    "Distillers and strategies of your own": ["Distiller", "Strategy", "Decisions", "DISTILLERS", "STRATEGIES"],
    "Runs": ["RunFolder", "SpotkdError"],
    "Whole trainings, from spotkd.training": [
        *("train", "distill", "resume", "evaluate_checkpoint", "restore", "Summary", "Scores"),
        *("fit", "Session", "evaluate", "make_optimizer", "make_fabric"),
    ],
}
REGISTRIES = {
    "MODELS": "The networks of the zoo, by name: functions from a number of classes to a network.",
    "DATASETS": "The data sets that `--data` takes, by name.",
    "DISTILLERS": "The distillers, by name: classes of WHAT to distil.",
    "STRATEGIES": "The strategies, by name: classes of WHERE to distil.",
}
SHARED = {"Session": "fit"}  # two objects of one example


def pages() -> dict[Path, str]:
    """Every page that this script makes, by its path."""
    made = {DOCS / "distillers" / f"{name}.md": distiller_page(name) for name in DISTILLERS}
    made |= {DOCS / "reference" / f"{name}.md": object_page(name) for names in PUBLIC.values() for name in names}
    return made | {
        DOCS / "distillers" / "README.md": distiller_index(),
        DOCS / "strategies.md": strategies_page(),
        DOCS / "reference" / "options.md": options_page(),
        DOCS / "reference" / "python.md": python_page(),
    }


if __name__ == "__main__":
    for path, content in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path.relative_to(DOCS.parent))
