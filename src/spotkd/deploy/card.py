"""A run's model card, ``README.md`` of its page on the Hugging Face Hub, made from what the run has noted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config import DistillConfig, TrainConfig, read_config
from ..data.lazy import import_optional
from ..errors import SpotkdError, one_line
from ..experiments.essence import essence
from ..models import build_model
from ..registry import PYTHON
from ..wording import markdown
from .facts import public
from .student import Student

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")  # how the Hub writes them: apache-2.0, cc-by-4.0, other
_MOST_CLASSES = 50  # that the card lists
_SUMMARY = (  # what the card takes from summary.json
    "scores", "protocol", "epoch", "epochs", "seconds", "shares", "device", "machine", "spotkd", "torch", "python",
)  # fmt: skip
_PAPER = (
    "Jie Song, Ying Chen, Jingwen Ye, Mingli Song: "
    "[Spot-adaptive Knowledge Distillation](https://doi.org/10.1109/TIP.2022.3170728), "
    "IEEE Transactions on Image Processing 31, 2022."
)


def read_run(folder: str | Path) -> tuple[DistillConfig | TrainConfig, dict[str, Any]]:
    """The configuration of a finished run, and its summary.

    Raises:
        SpotkdError: the folder holds no finished run, or its files are damaged.
    """
    folder = Path(folder)
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        kept = {key: summary[key] for key in _SUMMARY}
        float(kept["scores"]["top1"]), float(kept["scores"]["top5"]), int(kept["scores"]["images"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SpotkdError(f"{folder}: holds no finished run; a model card is made from one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpotkdError(f"{folder / 'summary.json'}: not a run's summary ({one_line(error)[:200]})") from error
    path = folder / "config.yaml"
    distilled = (folder / "student.safetensors").is_file()
    return read_config(DistillConfig, path) if distilled else read_config(TrainConfig, path), kept


def recipe(config: DistillConfig | TrainConfig) -> str:
    """What of a run's options decides what is learnt, as a file for ``--config``; nothing on where files lie."""
    content = essence(config)
    content["data"]["name"] = public(content["data"]["name"])
    for section in ("model", "student", "preparation"):
        if section in content and content[section].get("checkpoint"):
            content[section]["checkpoint"] = Path(content[section]["checkpoint"]).name
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def model_card(
    repo: str,
    student: Student,
    config: DistillConfig | TrainConfig,
    summary: Mapping[str, Any],
    files: list[str],
    license_name: str | None = None,
) -> str:
    """The card in Markdown, with the Hub's fields in front.

    Args:
        repo: ``USER/NAME`` of the page.
        student: what is shown.
        config: of its run.
        summary: of its run.
        files: names of the files with the student, beside the card.
        license_name: as the Hub writes it, such as apache-2.0; None leaves the field out.

    Raises:
        SpotkdError: a licence that the Hub would not take; ``huggingface_hub`` is missing.
    """
    hub = import_optional("huggingface_hub", "hub")
    if license_name is not None and not _LICENSE.fullmatch(license_name):
        raise SpotkdError(f"license is {license_name}: write it as the Hub does, such as apache-2.0, mit or other")
    facts, scores = student.facts, summary["scores"]
    of_hub = facts.data.removeprefix("hf:").partition(":")[0] if facts.data.startswith("hf:") else None
    data = hub.ModelCardData(
        library_name="spotkd",
        pipeline_tag="image-classification",
        license=license_name,
        datasets=of_hub,
        tags=["image-classification", "pytorch", *["knowledge-distillation"] * isinstance(config, DistillConfig)],
        model_name=repo.partition("/")[2],
        eval_results=[
            hub.EvalResult(
                task_type="image-classification",
                dataset_type=of_hub or re.sub(r"[^\w.-]+", "-", facts.data),
                dataset_name=facts.data,
                dataset_split="test",
                metric_type="accuracy",
                metric_name="top-1 accuracy",
                metric_value=round(scores["top1"] / 100, 6),
            )
        ],
    )
    card = f"---\n{data.to_yaml()}\n---\n\n{_body(repo, student, config, summary, files)}"
    return _validated(card, hub, repo)


def _validated(card: str, hub: Any, repo: str) -> str:
    """The card, if the Hub's own library reads the same fields from it again.

    Raises:
        SpotkdError: it does not.
    """
    try:
        read = hub.ModelCard(card).data
        (result,) = read.eval_results
        right = (
            read.library_name == "spotkd" and 0 <= result.metric_value <= 1 and read.model_name == repo.split("/")[1]
        )
    except Exception as error:
        raise SpotkdError(f"{repo}: its card is no valid one ({one_line(error)[:200]})") from error
    if not right:
        raise SpotkdError(f"{repo}: its card's fields are not read as they were written")
    return card


def _body(
    repo: str, student: Student, config: DistillConfig | TrainConfig, summary: Mapping[str, Any], files: list[str]
) -> str:
    facts, scores = student.facts, summary["scores"]
    seen, command = facts.preprocessing, "train"
    normalised = f"mean {_listed(seen.mean)}, std {_listed(seen.std)}"
    size = sum(parameter.numel() for parameter in student.network.parameters())
    rows = [("network", f"{markdown(facts.model)}, {size / 1e6:.3g} M parameters, {len(facts.classes)} classes")]
    what = f"A {markdown(facts.model)} that classifies images, trained on labels"
    if isinstance(config, DistillConfig):
        command = "distill"
        what = f"A {markdown(facts.model)} that classifies images, distilled from a {markdown(config.teacher.name)}"
        rows += [
            ("teacher", markdown(config.teacher.name) + _compression(config.teacher.name, student, size)),
            ("distiller", markdown(config.distiller)),
            ("strategy", markdown(config.strategy)),
        ]
    rows += [
        ("data set", markdown(facts.data)),
        ("test accuracy", f"top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} % on {scores['images']} images"),
        ("which epoch", f"{summary['epoch']} of {summary['epochs']}, chosen by: {markdown(str(summary['protocol']))}"),
        (
            "input",
            f"3x{seen.size[0]}x{seen.size[1]}, {seen.colour}, {normalised}",
        ),
    ]
    if summary["shares"]:
        shares = (f"{markdown(str(name))} {100 * share:.0f} %" for name, share in summary["shares"].items())
        rows.append(("distilled in the last epoch", ", ".join(shares)))
    rows.append(("trained on", markdown(f"{summary['machine']} ({summary['device']}), {summary['seconds']:.0f} s")))
    rows.append(("versions", markdown(f"spotkd {summary['spotkd']}, PyTorch {summary['torch']}")))
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])
    named = [markdown(name) for name in facts.classes[:_MOST_CLASSES]]
    more = f" and {len(facts.classes) - _MOST_CLASSES} more, in `config.json`" * (len(facts.classes) > _MOST_CLASSES)
    name = repo.partition("/")[2]
    teacher = " --teacher.checkpoint TEACHER" if isinstance(config, DistillConfig) else ""
    return f"""# {markdown(name)}

{what} with spotkd. One run, seed {config.seed}.

{table}

## Use it

```
pip install spotkd
hf download {repo} --local-dir {name}
spotkd predict {name} picture.png
```

Files: {", ".join(f"`{file}`" for file in files)}, and in `config.json` the class names and how pictures are prepared.

## Classes

{", ".join(named)}{more}

## How it was made

```
spotkd {command} --config config.yaml{teacher}
```

`config.yaml` is here, too. The accuracy is that of one run on the test images of its own data set; how the student does
on other images has not been measured.

Method: {_PAPER if command == "distill" else "cross entropy with the labels."}
"""


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


def _compression(name: str, student: Student, size: int) -> str:
    """How much larger the teacher is, where that can be told without running code of the user's."""
    if name.startswith(PYTHON):
        return ""
    teacher = build_model(name, len(student.facts.classes), image_shape=student.facts.preprocessing.image_shape)
    count = sum(parameter.numel() for parameter in teacher.parameters())
    return f", {count / 1e6:.3g} M parameters, {count / size:.1f} times the student's"
