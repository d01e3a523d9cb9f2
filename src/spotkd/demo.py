"""``spotkd demo``: a teacher, a student four times, whether it helped, and pictures of where it was distilled."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .analysis import plot_accuracy, plot_decisions, plot_shares, teacher_probability
from .data import Dataset, Loader
from .data.glyph94 import IMAGES_PER_FACE
from .files import atomic_write
from .formatting import format_signed
from .options import (
    DataOptions,
    DemoOptions,
    DistillOptions,
    ModelOptions,
    OptimOptions,
    PolicyOptions,
    TrainOptions,
    check_values,
)
from .report.compare import compare, predict_labels
from .report.verdict import paired_interval
from .runs.folder import RunFolder
from .training import Summary, distill, restore, train

TEACHER, STUDENT = "resnet20", "resnet8"
# The paper's objective lets the share of the teacher's path grow to 100 % within a thousand steps, because a trained
# teacher's path has the lower training loss. A target share keeps the policy choosing: which 60 %, and where.
POLICY = PolicyOptions(schedule="published", bias="scaled", target_share=0.6, target_weight=3.0)


def run_demo(options: DemoOptions, console: Console) -> None:
    """Train the five networks, print the table, write the pictures."""
    check_values(options)
    out = Path(options.out)
    common: dict[str, Any] = {
        "overwrite": options.overwrite,
        "data": DataOptions(limit=IMAGES_PER_FACE * options.faces),
        "batch_size": 32,
        "eval_batch_size": 64,
        "seed": options.seed,
        "optim": OptimOptions(lr=0.2, schedule="onecycle"),
        "precision": options.precision,
    }

    def train_network(name: str, title: str, model: str, epochs: int) -> tuple[str, Summary]:
        console.rule(title, align="left")
        return title, train(TrainOptions(**common, out=str(out / name), epochs=epochs, model=ModelOptions(model)))

    def distill_student(
        name: str, title: str, distiller: str, strategy: str, policy: PolicyOptions
    ) -> tuple[str, Summary]:
        console.rule(title, align="left")
        student = DistillOptions(
            **common,
            teacher=ModelOptions(TEACHER, str(out / "teacher")),
            student=ModelOptions(STUDENT),
            distiller=distiller,
            strategy=strategy,
            policy=policy,
            out=str(out / name),
            epochs=options.epochs,
        )
        return title, distill(student)

    console.print(
        f"{TEACHER} teaches {STUDENT} to read {IMAGES_PER_FACE * options.faces} images of the 94 printable characters "
        f"in {options.faces} typefaces; tested on 9964 images in 106 others. The teacher has "
        f"{options.teacher_epochs} epochs, every student {options.epochs}."
    )
    rows = [
        train_network("teacher", f"teacher {TEACHER}", TEACHER, options.teacher_epochs),
        train_network("alone", f"{STUDENT} alone", STUDENT, options.epochs),
        distill_student("kd", f"{STUDENT} by KD", "kd", "always", PolicyOptions()),
        distill_student("at", f"{STUDENT} by AT, every spot", "at", "always", PolicyOptions()),
        distill_student("sakd", f"{STUDENT} by SAKD-AT", "at", "adaptive", POLICY),
    ]
    data = _draw_pictures(rows, out)
    results = _results(rows, data, options)
    with atomic_write(out / "results.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _print_results(results, out, console)


def _draw_pictures(rows: Sequence[tuple[str, Summary]], out: Path) -> Dataset:
    """Accuracy and shares by epoch, and where test images are sent; gives the data set."""
    students = {title: RunFolder(summary.folder).metrics for title, summary in rows[1:]}
    plot_accuracy(
        {title: metrics["test_top1"] for title, metrics in students.items()},
        out / "accuracy.png",
        roles=["alone", "kd", "always", "adaptive"],
    )
    _, sakd = rows[-1]
    metrics = RunFolder(sakd.folder).metrics
    plot_shares({spot: metrics[f"share_{spot}"] for spot in sakd.shares}, out / "shares.png")
    method, data = restore(sakd.folder)
    probability = teacher_probability(method, Loader(data, data.test, 256, training=False))
    plot_decisions(data.test, probability, method.spot_names, out / "decisions.png")
    return data


def _results(rows: Sequence[tuple[str, Summary]], data: Dataset, options: DemoOptions) -> dict[str, Any]:
    """What the demo found: of each run its accuracy, what it gained over the student alone, seconds and shares."""
    (alone, control), *_ = rows[1:]
    labels, before = predict_labels(STUDENT, control.folder, data)
    runs = []
    for number, (title, summary) in enumerate(rows):
        run = {"run": title, "top1": summary.scores.top1, "seconds": summary.seconds, "shares": summary.shares}
        if number > 1:
            _, after = predict_labels(STUDENT, summary.folder, data)
            run["gain"] = paired_interval(compare((alone, before), (title, after), labels, data.classes))
        runs.append(run)
    return {"seed": options.seed, "images": len(labels), "device": control.device, "runs": runs}


def answer(results: Mapping[str, Any]) -> str:
    """Whether the teacher helped the student that has it at every spot, in a sentence."""
    run = results["runs"][3]
    gain, low, high = run["gain"]
    helped = (
        "Yes: {} is better than" if low > 0 else "No: {} is worse than" if high < 0 else "Not shown: {} is as good as"
    )
    return (
        f"Did the teacher help? {helped.format(run['run'])} {results['runs'][1]['run']}: {format_signed(gain)} points "
        f"of test accuracy (95 % interval {format_signed(low)} to {format_signed(high)}, {results['images']} images)."
    )


def table(results: Mapping[str, Any]) -> list[list[str]]:
    """The results as rows of cells, the first one their titles."""
    spots = list(results["runs"][-1]["shares"])
    rows = [["run", "top-1 (%)", "gain over alone (95 %)", "seconds", *spots]]
    for run in results["runs"]:
        gain = [format_signed(value) for value in run.get("gain", ())]
        shares = [f"{run['shares'][spot]:.0%}" if spot in run["shares"] else "-" for spot in spots]
        interval = f"{gain[0]} ({gain[1]} to {gain[2]})" if gain else "-"
        rows.append([run["run"], f"{run['top1']:.2f}", interval, f"{run['seconds']:.0f}", *shares])
    return rows


def markdown(results: Mapping[str, Any]) -> str:
    """The sentence and the table as Markdown."""
    header, *rows = table(results)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join([answer(results), "", *lines, ""])


def _print_results(results: Mapping[str, Any], out: Path, console: Console) -> None:
    title = (
        "Test accuracy after the last epoch, training time, share of samples distilled at each spot in the last epoch"
    )
    header, *rows = table(results)
    shown = Table(*header, title=title)
    for row in rows:
        shown.add_row(*row)
    console.print(answer(results), highlight=False)
    console.print(shown)
    notes = (
        f"One run each, seed {results['seed']}: intervals are those of the test images; other seeds move a student "
        "by some points.\n"
        f"SAKD-AT here pulls the share of each spot towards {POLICY.target_share:.0%} (target_share, not in the "
        "paper), against the gain that the policy sees in the teacher's path there: where that is large, the share "
        "stays high. The paper's objective alone sends every sample to the teacher in so short a run."
    )
    console.print(notes, highlight=False)
    with atomic_write(out / "table.md") as path:
        path.write_text("\n".join([markdown(results), f"{title}.", "", notes, ""]), encoding="utf-8")
    pictures = ", ".join(str(out / name) for name in ("accuracy.png", "shares.png", "decisions.png"))
    console.print(f"Pictures: {pictures}\nTable: {out / 'table.md'}", highlight=False, soft_wrap=True)
    command = shlex.quote(str(Path(sys.argv[0]))) if Path(sys.argv[0]).name == "spotkd" else "spotkd"
    console.print(
        f"Next:\n  {command} report {shlex.quote(str(out))}\n  {command} inspect {shlex.quote(str(out / 'sakd'))}\n"
        f"  {command} export {shlex.quote(str(out / 'at'))} --format safetensors",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
