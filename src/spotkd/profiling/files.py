"""A profile as JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ..errors import SpotkdError
from ..escaping import escape_csv
from ..files import atomic_write
from ..statistics import MedianRange, median_range
from .measure import Profile


def write_json(result: Profile, path: str) -> None:
    """All of it."""
    content = asdict(result)
    for entry in (*content["networks"], *content["steps"]):
        entry.update({key: value._asdict() for key, value in entry.items() if isinstance(value, MedianRange)})
    with _replace_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(result: Profile, path: str) -> None:
    """A row a measurement."""
    rows: list[tuple[str, str, str, str, MedianRange]] = []
    for network in result.networks:
        quantities = {
            "parameters": median_range([network.parameters]),
            "flops": median_range([network.flops]),
            "activation_bytes": median_range([network.activations]),
            "ms_for_1": network.one,
            f"ms_for_{result.batch_size}": network.batch,
        }
        rows += [(network.name, "", "", quantity, numbers) for quantity, numbers in quantities.items()]
    for step in result.steps:
        if step.milliseconds is not None and step.to_kd is not None:
            rows.append((step.student, step.distiller, step.strategy, "ms_a_step", step.milliseconds))
            rows.append((step.student, step.distiller, step.strategy, "times_plain_kd", step.to_kd))
    with _replace_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("network", "distiller", "strategy", "quantity", "median", "lowest", "highest", "n"))
        writer.writerows((*map(escape_csv, words), *numbers) for *words, numbers in rows)


@contextmanager
def _replace_file(path: str) -> Iterator[Path]:
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be written ({error.strerror or error})") from error
