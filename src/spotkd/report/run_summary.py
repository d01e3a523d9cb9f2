"""What the page says of a run in words and numbers, and the table of their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count

from ..formatting import format_count
from ..options import DistillOptions
from ..options.values import describe_teachers, flatten, result_differences
from .charts import HeatMap
from .costs import NetworkCost
from .effects import Effect
from .groups import Group
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
        yield "pair", f"{describe_teachers(options)} teaches {options.student.name}"
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


_SHOWN_ELSEWHERE = ("student.", "teacher.", "model.", "data.")
_MOST_OPTIONS = 3  # that tell a configuration from others


@dataclass(frozen=True)
class Row:
    """A configuration in the table of results.

    Attributes:
        group: its runs.
        best: whether no student here has a higher accuracy.
        effect: beside its closest control; None where there is none.
        what: the distiller and the strategy, or what the network learnt from.
        apart: the options that tell it from other configurations that are the same in that.
        networks: their names.
        epoch: which epoch's weights were tested, and how they were chosen.
        parameters, flops: of the network that was trained.
    """

    group: Group
    best: bool
    effect: Effect | None
    what: str
    apart: str
    networks: str
    epoch: str
    parameters: str
    flops: str


def result_rows(groups: Sequence[Group], effects: Mapping[str, list[Effect]]) -> list[Row]:
    """The table of all configurations, in their order."""
    students = [group.top1.mean for group in groups if group.top1 is not None and group.role != "teacher"]
    rows = []
    for group in groups:
        items, summary, options = dict(group.sections[0].items), group.runs[0].summary, group.runs[0].distill_options
        rows.append(
            Row(
                group,
                _is_best(group, students),
                next(iter(effects.get(group.name, [])), None),
                "labels alone" if options is None else f"{options.distiller}, {options.strategy}",
                tell_apart(group, groups),
                items.get("pair", items.get("network", "").partition(",")[0]),
                "not finished" if summary is None else f"{summary.epoch} ({summary.protocol})",
                items.get("parameters", "-").partition(",")[0],
                items.get("FLOPs per image", "-").partition(" (")[0].partition(",")[0],
            )
        )
    return rows


def _is_best(group: Group, students: Sequence[float]) -> bool:
    found = group.top1
    return group.role != "teacher" and len(students) > 1 and found is not None and found.mean == max(students)


def tell_apart(group: Group, groups: Sequence[Group]) -> str:
    """``alpha 2.0, target_share 0.6``: options in which it differs from others of its kind, and its values.

    Networks and data sets have columns of their own.
    """
    alike = [other for other in groups if _kind(other) == _kind(group) and other is not group]
    names = dict.fromkeys(name for other in alike for name in result_differences(group.options, other.options))
    values = flatten(asdict(group.options))
    told = [name for name in names if name != "seed" and not name.startswith(_SHOWN_ELSEWHERE)]
    more = [f"and {len(told) - _MOST_OPTIONS} more"] if len(told) > _MOST_OPTIONS else []
    shown = (values.get(name) for name in told)
    texts = [
        f"{name.rpartition('.')[2]} {'unset' if value is None else value}"
        for name, value in zip(told, shown, strict=True)
    ]
    return ", ".join([*texts[:_MOST_OPTIONS], *more])


def _kind(group: Group) -> tuple[object, ...]:
    options = group.options
    return group.role, getattr(options, "distiller", None), getattr(options, "strategy", None)


def share_map(groups: Sequence[Group]) -> HeatMap | None:
    """Where each distillation distils: the share of samples at each spot in the last epoch; None without any."""
    distilled = [group for group in groups if group.shares]
    spots = list(dict.fromkeys(spot for group in distilled for spot in group.shares))
    if not distilled:
        return None
    return HeatMap(
        "where",
        "Where each configuration distils",
        ("configuration", "spot"),
        [group.name for group in distilled],
        spots,
        [[group.shares.get(spot) for spot in spots] for group in distilled],
        "Share of the training samples distilled at each spot in the last epoch.",
    )


def number_runs(groups: Sequence[Group]) -> dict[str, list[int]]:
    """The place of each configuration's runs on the page, from 1 on, by its name."""
    places = count(1)
    return {group.name: [next(places) for _ in group.sections] for group in groups}


def run_line(section: Section) -> str:
    """What is said of a run whose details are closed."""
    run, options = section.run, section.run.distill_options
    what = "labels alone" if options is None else f"{options.distiller}, {options.strategy}"
    return what + (", not finished" if run.summary is None else f", top-1 {run.summary.scores.top1:.2f} %")
