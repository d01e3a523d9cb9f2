"""The figures of one run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..analysis import Inspection
from .charts import HeatMap, LineChart, evenly_spaced
from .run_record import RunRecord

_MOST_EPOCHS = 40  # columns of a heat map


_LOSS_NAMES = {  # as the page calls them
    "task": "labels (task)",
    "kl": "logits (kl)",
    "distill": "distiller",
    "teacher": "teacher's labels",
    "route": "routing",
    "balance": "balance",
    "share": "share",
}


def metric_charts(run: RunRecord) -> Iterator[LineChart]:
    """A run's metrics over its epochs."""
    metrics, epochs = run.metrics, run.epochs
    losses = {
        _LOSS_NAMES.get(name.removeprefix("loss_"), name): values
        for name, values in metrics.items()
        if name.startswith("loss_") and any(values)
    }
    yield LineChart(
        f"{run.name}-losses", "Loss terms", "loss", epochs, losses, note="Weights included; training images."
    )
    top1 = {name.removesuffix("_top1"): values for name, values in metrics.items() if name.endswith("_top1")}
    yield LineChart(
        f"{run.name}-accuracy", "Accuracy", "top-1 (%)", epochs, top1, note="train: on augmented images, in train mode."
    )
    rates = {key: metrics[column] for key, column in (("student", "lr"), ("policy", "lr_policy")) if column in metrics}
    yield LineChart(
        f"{run.name}-rates", "Learning rates", "rate", epochs, rates, note="In the first step of each epoch."
    )
    shares = {name.removeprefix("share_"): values for name, values in metrics.items() if name.startswith("share_")}
    if len({value for values in shares.values() for value in values}) > 1:  # else there is nothing to see
        yield LineChart(
            f"{run.name}-shares", "Share of samples distilled at each spot", "share", epochs, shares, share=True,
            note="As drawn in training.",
        )  # fmt: skip
    weights = {name.removeprefix("weight_"): values for name, values in metrics.items() if name.startswith("weight_")}
    if weights:
        yield LineChart(
            f"{run.name}-weights", "Weight of the distiller at each spot", "factor", epochs, weights, share=True,
            note="Of its published weight, as bounded by the pull of labels and logits; mean over the epoch.",
        )  # fmt: skip
    refused = {name.removeprefix("refused_"): values for name, values in metrics.items() if name.startswith("refused_")}
    if refused:
        last = " and ".join(f"{100 * values[-1]:.0f} % of the {name}" for name, values in refused.items())
        yield LineChart(
            f"{run.name}-refused", "Teacher outputs that were refused", "share", epochs, refused, share=True,
            note="Distilled with less than half a weight; damaged: those that the hazard replaced by another image's. "
            f"In the last epoch {last}.",
        )  # fmt: skip


def epoch_heat_maps(run: RunRecord) -> Iterator[HeatMap]:
    """Epoch by spot: the policy's mean P(teacher), where the run recorded it; else the shares that were drawn."""
    spots, rows = run.decisions.spots, run.decisions.rows
    of_all_images = [row for row in rows if row.label is None]
    if of_all_images:
        epochs, means = [row.epoch for row in of_all_images], [row.means for row in of_all_images]
        title, note = (
            "P(teacher) by epoch",
            f"Mean over the same {of_all_images[0].images} training images, un-augmented.",
        )
    else:
        shares = {key.removeprefix("share_"): values for key, values in run.metrics.items() if key.startswith("share_")}
        spots, epochs, means = tuple(shares), run.epochs, list(zip(*shares.values(), strict=True))
        title, note = "Share distilled by epoch", "As drawn in training."
    if spots:
        chosen = evenly_spaced(len(epochs), _MOST_EPOCHS)
        yield HeatMap(
            f"{run.name}-epochs",
            title,
            ("spot", "epoch"),
            spots,
            [str(epochs[i]) for i in chosen],
            [[means[i][spot] for i in chosen] for spot in range(len(spots))],
            note + (f" {len(chosen)} of {len(epochs)} epochs." if len(chosen) < len(epochs) else ""),
        )


def sort_classes(inspection: Inspection) -> list[tuple[str, list[float]]]:
    """Classes that have images, by their mean P(teacher) over all spots, the highest first: name, and mean by spot."""
    means = inspection.class_means()
    order = sorted(range(len(means)), key=lambda c: -means[c].mean())
    return [(inspection.classes[c], means[c].tolist()) for c in order if not math.isnan(means[c][0])]


def class_heat_map(run: RunRecord, inspection: Inspection) -> HeatMap:
    """Class by spot: mean P(teacher)."""
    rows = sort_classes(inspection)
    return HeatMap(
        f"{run.name}-classes",
        f"P(teacher) by class, {inspection.split} images, {inspection.when}",
        ("class", "spot"),
        [name for name, _ in rows],
        inspection.spots,
        [values for _, values in rows],
    )
