"""What the page says of a run in words and numbers, and the table of all runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..formatting import format_count
from ..options import DistillOptions
from .costs import NetworkCost
from .run_record import RunRecord
from .section import Section

_PROTOCOL = {
    "last epoch": "the last epoch",
    "best on validation": "best on validation images",
    "best on test": "best on the test images, which flatters",
}


def summary_items(run: RunRecord, costs: dict[str, NetworkCost] | None) -> Iterator[tuple[str, str]]:
    """The summary of a run: a term, and what there is to say."""
    options, summary = run.options, run.summary
    if isinstance(options, DistillOptions):
        yield "pair", f"{options.teacher.name} teaches {options.student.name}"
        yield "what", f"{options.distiller}" + (f" (spots {_join_names(options.spots)})" if options.spots else "")
        yield "where", options.strategy
    else:
        yield "network", f"{run.student}, trained on labels"
    limit = "" if options.data.limit is None else f", {options.data.limit} training images"
    yield "data", options.data.name + limit
    if summary is None:
        yield "result", f"not finished: {run.epochs[-1]} of {options.epochs} epochs"
    else:
        chosen = _PROTOCOL.get(summary.protocol, summary.protocol)
        scores = summary.scores
        yield (
            "test accuracy",
            f"top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} % on {scores.images} test images, "
            f"after epoch {summary.epoch} of {summary.epochs} ({chosen})",
        )
        if summary.epoch != summary.epochs:
            yield "after the last epoch", f"top-1 {summary.last.top1:.2f} %"
    if costs is not None:
        yield from _size_items(costs)
    if summary is not None:
        yield "training time", f"{summary.seconds:.0f} s on {summary.machine} ({summary.device})"
        versions = summary.versions
        yield "versions", f"spotkd {versions['spotkd']}, PyTorch {versions['torch']}, Python {versions['python']}"
    yield "seed", str(options.seed)


def _size_items(costs: dict[str, NetworkCost]) -> Iterator[tuple[str, str]]:
    small, large = costs["student"], costs.get("teacher")
    of = "" if large is None else f", teacher's {format_count(large.parameters)}"
    yield "parameters", f"{format_count(small.parameters)}{of}"
    of = "" if large is None else f", teacher's {format_count(large.flops)}"
    yield "FLOPs per image", f"{format_count(small.flops)}{of} (multiplications and additions of a forward pass)"
    if large is not None:
        yield (
            "compression",
            f"teacher to student {large.parameters / small.parameters:.1f} : 1 in parameters, "
            f"{large.flops / small.flops:.1f} : 1 in FLOPs",
        )


def _join_names(names: Sequence[str] | str) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def result_table(sections: Sequence[Section]) -> dict[str, Any]:
    """Header and rows of the table of all runs, as the template names them."""
    rows = []
    for section in sections:
        run, summary, items = section.run, section.run.summary, dict(section.items)
        rows.append(
            [
                run.name,
                items.get("pair", items.get("network", "")),
                run.distill_options.distiller if run.distill_options else "-",
                run.distill_options.strategy if run.distill_options else "-",
                "-" if summary is None else f"{summary.scores.top1:.2f}",
                "not finished" if summary is None else f"{summary.epoch} ({summary.protocol})",
                "-" if summary is None else f"{summary.last.top1:.2f}",
                items.get("parameters", "-").partition(",")[0],
                items.get("FLOPs per image", "-").partition(" (")[0].partition(",")[0],
            ]
        )
    head = ["run", "networks", "what", "where", "test top-1 (%)", "of epoch", "last epoch's", "parameters", "FLOPs"]
    return {"table_head": head, "table_rows": rows}
