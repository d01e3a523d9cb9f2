"""What each command does with its options, and what it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import SpotkdError
from ..escaping import escape_lines, escape_terminal
from ..formatting import fold
from ..options import (
    BenchOptions,
    DemoOptions,
    DistillOptions,
    EvaluateOptions,
    ExportOptions,
    InspectOptions,
    PredictOptions,
    ProfileOptions,
    ReportOptions,
    SearchOptions,
    TrainOptions,
    TrialOptions,
)


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line that may hold words from outside."""
    print(escape_terminal(text), file=file)


def tell(text: str) -> None:
    """Print a line that may hold words from outside, on as many lines of a terminal as its words need."""
    print(fold(escape_terminal(text)))


def run_train(options: TrainOptions) -> None:
    from ..training import train

    summary = train(options)
    tell(f"{summary}; run in {summary.folder}")


def run_distill(options: DistillOptions) -> None:
    from ..options.grammar import parse_names
    from ..report.verdict import MAKES, judge
    from ..training import distill
    from ..training.progress import describe_shares

    if options.recipe is not None and options.teacher.checkpoint is None:
        if is_one_of_several():
            raise SpotkdError(f"recipe {options.recipe}: under torchrun name the --teacher.checkpoint")
        from ..experiments import find_or_train_teacher, teacher_options

        trained = str(find_or_train_teacher(teacher_options(options), print))
        options = replace(options, teacher=replace(options.teacher, checkpoint=trained))
    summary = distill(options)
    tell(f"{summary}; distilled in the last epoch: {describe_shares(summary.shares)}; run in {summary.folder}")
    if not options.quiet and not is_one_of_several():
        for line in judge(summary.folder, parse_names(options.compare) or ()):
            (say if MAKES in line else tell)(line)  # a command stays one line, to be copied


def run_evaluate(options: EvaluateOptions) -> None:
    from ..training import evaluate_checkpoint

    scores = evaluate_checkpoint(options)
    print(
        f"top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} %, loss {scores.loss:.4f} on {scores.images} test images"
    )


def run_export(options: ExportOptions) -> None:
    from ..deploy import export, publish

    if options.push_to_hub is not None:
        page = publish(options)
        say(f"{page.folder}: {', '.join(page.files)}" + (f"; sent to {page.address}" if page.address else ""))
        return
    written = export(options)
    say(
        f"{written.path}: its logits differ from the student's by at most {written.difference:.1e} "
        f"on {written.images} random images"
    )


def run_predict(options: PredictOptions) -> int:
    from ..deploy import predict, save_predictions

    failures: list[str] = []

    def failed(reason: str) -> None:
        failures.append(reason)
        say(f"spotkd: {reason}", sys.stderr)

    predictions = predict(options, failed)
    for file, classes in predictions if options.csv is None else save_predictions(predictions, options.csv):
        shares = ", ".join(f"{name} {100 * share:.2f} %" for name, share in classes)
        say(f"{file}: {shares}")
    return 1 if failures else 0


def run_profile(options: ProfileOptions) -> None:
    from ..profiling import network_table, profile, step_table, write_csv, write_json

    console, bar = Console(), Console(stderr=True)
    with bar.status("") as status:
        result = profile(options, lambda what: status.update(escape(what)))
    width, height = result.image_shape[::-1][:2]
    print(
        f"{result.machine}, {result.device}, images {height}x{width}, {result.classes} classes; steps of "
        f"{result.batch_size} images in {result.precision}; medians of {options.rounds} with the lowest and the highest"
    )
    for head, rows in (network_table(result), step_table(result)):
        if rows:
            print()
            print_table(console, head, rows)
    if options.csv is not None:
        write_csv(result, options.csv)
    if options.json is not None:
        write_json(result, options.json)


def print_table(console: Console, head: list[str], rows: list[list[str]]) -> None:
    """A table as wide as the terminal; anywhere else plain lines in columns."""
    if console.is_terminal:
        table = Table(*head, box=SIMPLE)
        for row in rows:
            table.add_row(*(escape(escape_terminal(cell)) for cell in row))
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        say("  ".join(map(str.ljust, row, widths)).rstrip())


def run_inspect(options: InspectOptions) -> None:
    from ..analysis import describe, inspect, write_tables

    inspection, _ = inspect(options)
    Console().print(describe(inspection))
    for line in write_tables(inspection, Path(options.out or options.run)):
        say(line)


def run_trial(options: TrialOptions) -> None:
    from ..analysis.trial import conclude, effect_table, estimate_trial, write_effects
    from ..runs.folder import RunFolder

    result = estimate_trial([RunFolder(run) for run in dict.fromkeys(options.runs)])
    print_table(Console(), *effect_table(result))
    for line in conclude(result):
        say(line)
    if options.csv is not None:
        write_effects(result, options.csv)


def run_demo_command(options: DemoOptions) -> None:
    from ..demo import run_demo

    run_demo(options, Console())


def run_bench(options: BenchOptions) -> int:
    from ..experiments import list_plan, run_plan

    if not options.dry_run:
        return run_plan(options, Console())
    list_plan(options, Console())
    return 0


def run_search_command(options: SearchOptions) -> None:
    from ..search import run_search

    run_search(options, Console())


def run_report(options: ReportOptions) -> None:
    from ..experiments import report_plan
    from ..report import find_runs, report_runs

    runs = find_runs(options.what)
    if runs:
        for line in report_runs(runs, options):
            say(line)
    elif options.figures is not None:
        raise SpotkdError(f"figures has no effect on the plan {options.what[0]}: leave it out, or name folders of runs")
    else:
        print(escape_lines(report_plan(options.what[0], options.out, options.trust)))


def is_one_of_several() -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


COMMANDS: dict[str, tuple[type, Callable[[Any], int | None], str]] = {
    "demo": (DemoOptions, run_demo_command, "a teacher and four students on glyph94, with a table and pictures"),
    "train": (TrainOptions, run_train, "train one network on labels: a teacher, or a student alone"),
    "distill": (DistillOptions, run_distill, "distil a trained teacher into a student"),
    "evaluate": (EvaluateOptions, run_evaluate, "measure a trained network on the test images"),
    "export": (ExportOptions, run_export, "write a trained student as ONNX, torch-export or safetensors"),
    "predict": (PredictOptions, run_predict, "classify pictures with a trained student in any format"),
    "profile": (ProfileOptions, run_profile, "size, speed and cost of a step: which student to choose"),
    "bench": (BenchOptions, run_bench, "run a plan: a grid of data sets, pairs, distillers, strategies and seeds"),
    "search": (SearchOptions, run_search_command, "find distiller, weights, strategy and learning rate for a pair"),
    "inspect": (InspectOptions, run_inspect, "where a run's policy sends every image, as a table"),
    "trial": (TrialOptions, run_trial, "where distilling has helped, from a run in which chance decided"),
    "report": (ReportOptions, run_report, "runs on one HTML page; or the tables of a plan, from its finished runs"),
}
