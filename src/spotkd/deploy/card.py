"""A run's model card, ``README.md`` of its page on the Hugging Face Hub, made from what the run has noted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..data.optional import import_optional
from ..errors import RunError, SpotkdError, one_line
from ..models import build_model
from ..options import DistillOptions, TrainOptions, result_options
from ..options.values import describe_teachers
from ..profiling import count_parameters
from ..registry import PYTHON
from ..runs.folder import RunFolder
from ..runs.summary import Summary
from ..templates import render_template
from ..untrusted.images import WHITE
from .metadata import public_data_name
from .student import Student

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")  # how the Hub writes them: apache-2.0, cc-by-4.0, other
_MOST_CLASSES = 50  # that the card lists
_PAPER = (
    "Jie Song, Ying Chen, Jingwen Ye, Mingli Song: "
    "[Spot-adaptive Knowledge Distillation](https://doi.org/10.1109/TIP.2022.3170728), "
    "IEEE Transactions on Image Processing 31, 2022."
)


def read_finished(folder: str | Path) -> tuple[DistillOptions | TrainOptions, Summary]:
    """The options of a finished run, and its result.

    Raises:
        SpotkdError: the folder holds no finished run, or its files are damaged.
    """
    run = RunFolder(folder)
    if not run.finished:
        raise RunError(f"{folder}: holds no finished run; a model card is made from one")
    return run.options, run.result


def shareable_options(options: DistillOptions | TrainOptions) -> str:
    """What of a run's options decides what is learnt, as a file for ``--config``; nothing on where files lie."""
    content = result_options(options)
    content["data"]["name"] = public_data_name(content["data"]["name"])
    for section in ("model", "student", "preparation"):
        if section in content and content[section].get("checkpoint"):
            content[section]["checkpoint"] = Path(content[section]["checkpoint"]).name
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def model_card(
    repo: str,
    student: Student,
    options: DistillOptions | TrainOptions,
    summary: Summary,
    files: list[str],
    license_name: str | None = None,
) -> str:
    """The card in Markdown, with the Hub's fields in front.

    Args:
        repo: ``USER/NAME`` of the page.
        student: what is shown.
        options: of its run.
        summary: of its run.
        files: names of the files with the student, beside the card.
        license_name: as the Hub writes it, such as apache-2.0; None leaves the field out.

    Raises:
        SpotkdError: a licence that the Hub would not take; ``huggingface_hub`` is missing.
    """
    hub = import_optional("huggingface_hub", "hub")
    if license_name is not None and not _LICENSE.fullmatch(license_name):
        raise SpotkdError(f"license is {license_name}: write it as the Hub does, such as apache-2.0, mit or other")
    metadata, scores = student.metadata, summary.scores
    of_hub = metadata.data.removeprefix("hf:").partition(":")[0] if metadata.data.startswith("hf:") else None
    data = hub.ModelCardData(
        library_name="spotkd",
        pipeline_tag="image-classification",
        license=license_name,
        datasets=of_hub,
        tags=["image-classification", "pytorch", *["knowledge-distillation"] * isinstance(options, DistillOptions)],
        model_name=repo.partition("/")[2],
        eval_results=[
            hub.EvalResult(
                task_type="image-classification",
                dataset_type=of_hub or re.sub(r"[^\w.-]+", "-", metadata.data),
                dataset_name=metadata.data,
                dataset_split="test",
                metric_type="accuracy",
                metric_name="top-1 accuracy",
                metric_value=round(scores.top1 / 100, 6),
            )
        ],
    )
    card = f"---\n{data.to_yaml()}\n---\n\n{_render_body(repo, student, options, summary, files)}"
    return _validate(card, hub, repo)


def _validate(card: str, hub: Any, repo: str) -> str:
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


def _render_body(
    repo: str, student: Student, options: DistillOptions | TrainOptions, summary: Summary, files: list[str]
) -> str:
    """The card below its fields."""
    metadata, distilled = student.metadata, isinstance(options, DistillOptions)
    origin = (
        f"distilled from a {describe_teachers(options)}" if isinstance(options, DistillOptions) else "trained on labels"
    )
    command = "distill --config config.yaml --teacher.checkpoint TEACHER" if distilled else "train --config config.yaml"
    hidden = len(metadata.classes) - _MOST_CLASSES
    return render_template(
        "card.md",
        repo=repo,
        name=repo.partition("/")[2],
        summary=f"A {metadata.model} that classifies images, {origin}",
        seed=options.seed,
        rows=list(_rows(student, options, summary)),
        files=", ".join(f"`{file}`" for file in files),
        classes=metadata.classes[:_MOST_CLASSES],
        more_classes=f" and {hidden} more, in `config.json`" if hidden > 0 else "",
        command=f"spotkd {command}",
        method=_PAPER if distilled else "cross entropy with the labels.",
    )


def _rows(student: Student, options: DistillOptions | TrainOptions, summary: Summary) -> Iterator[tuple[str, str]]:
    """The lines of the card's table, each a name and what there is to say, not escaped yet."""
    metadata, scores = student.metadata, summary.scores
    size = count_parameters(student.network)
    yield "network", f"{metadata.model}, {size / 1e6:.3g} M parameters, {len(metadata.classes)} classes"
    if isinstance(options, DistillOptions):
        yield "teacher", options.teacher.name + _compression(options.teacher.name, student, size)
        yield "distiller", options.distiller
        yield "strategy", options.strategy
    yield "data set", metadata.data
    yield "test accuracy", f"top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images} images"
    yield "which epoch", f"{summary.epoch} of {summary.epochs}, chosen by: {summary.protocol}"
    images = metadata.preprocessing
    normalisation = f"mean {_join_numbers(images.mean)}, std {_join_numbers(images.std)}"
    white = "" if images.white == WHITE else f", white of grey pictures with more than 8 bits {images.white:g}"
    yield "input", f"3x{images.size[0]}x{images.size[1]}, {images.colour}, {normalisation}{white}"
    if summary.shares:
        shares = (f"{name} {100 * share:.0f} %" for name, share in summary.shares.items())
        yield "distilled in the last epoch", ", ".join(shares)
    yield "trained on", f"{summary.machine} ({summary.device}), {summary.seconds:.0f} s"
    yield "versions", f"spotkd {summary.versions['spotkd']}, PyTorch {summary.versions['torch']}"


def _join_numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in values)


def _compression(name: str, student: Student, size: int) -> str:
    """How much larger the teacher is, where that can be found without running code of the user's."""
    if name.startswith(PYTHON):
        return ""
    teacher = build_model(name, len(student.metadata.classes), image_shape=student.metadata.preprocessing.image_shape)
    count = count_parameters(teacher)
    return f", {count / 1e6:.3g} M parameters, {count / size:.1f} times the student's"
