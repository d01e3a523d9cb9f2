"""Which networks of torchvision and timm can be cut, taught and teach: one small network of every family.

    python benchmarks/families.py --out benchmarks/results/families.csv
    python benchmarks/families.py --out benchmarks/results/families.csv --table

Each is made with random weights for ten classes and images of 64 px (or the size that it is made for), cut by
:func:`spotkd.stage` where that proposes, compared with itself in train and eval mode, and takes two SAKD steps with AT
under a ResNet18 of torchvision. Every family is tried in a process of its own; those with a row are not tried again.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.vision import timm, torchvision

from spotkd import SpotKD, SpotkdError, stage
from spotkd.errors import one_line
from spotkd.models.sources import build
from spotkd.stages import feature_shapes

FIELDS = ("family", "network", "size", "cut", "spots", "equal", "finite", "reason")
SMALL = (
    "test_", "atto", "femto", "pico", "xxs", "xx_small", "nano", "_tiny", "mini", "_xs", "small", "_s0", "_t0", "_m0",
    "_0", "18", "_t", "_s", "lite", "11", "050", "x0_5", "10",
)  # fmt: skip
SECONDS = 240


def families() -> dict[str, str]:
    """The network that is tried, by family: the one whose name says that it is small."""
    found: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        kind = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found.setdefault(f"torchvision {kind}", []).append(f"torchvision:{name}")
    for kind in timm.list_modules():
        names = timm.list_models(module=kind)
        if names:
            found[f"timm {kind}"] = [f"timm:{name}" for name in names]

    def size(name: str) -> tuple[int, int, str]:
        ranks = [rank for rank, word in enumerate(SMALL) if word in name.partition(":")[2]]
        return min(ranks, default=len(SMALL)), len(name), name

    return {family: min(names, key=size) for family, names in sorted(found.items())}


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))


def try_network(name: str, size: int) -> dict[str, Any]:
    """A row of the table."""
    torch.manual_seed(0)
    shape = (3, size, size)
    with redirect_stdout(None):
        network = build(name, 10, shape)
        staged = stage(network, image_shape=shape)
        teacher = stage(torchvision.models.resnet18(num_classes=10), image_shape=shape)
    images, equal = torch.randn(4, *shape), []
    for mode in (False, True):
        outputs = []
        for run in (network, staged):
            run.train(mode)
            torch.manual_seed(1)
            with torch.no_grad():
                outputs.append(run(images))
        equal.append(largest_difference(*outputs))
    method = SpotKD(teacher, staged, "at", "adaptive", image_shape=shape).train()
    optimizer = torch.optim.SGD(method.parameter_groups(1e-3), momentum=0.9)
    finite = True
    for _ in range(2):
        optimizer.zero_grad()
        total = method((images, torch.arange(4))).total
        total.backward()
        optimizer.step()
        finite = finite and bool(torch.isfinite(total))
    shapes = dict(zip(staged.stage_names, feature_shapes(staged, shape), strict=True))
    spots = " ".join(f"{s}:{'x'.join(map(str, shapes[s]))}" for s in method.spot_names[:-1])
    return {
        "cut": "yes",
        "spots": spots,
        "equal": f"{max(equal):.0e}",
        "finite": "yes" if finite else "no",
        "reason": "",
    }


def try_sizes(name: str) -> dict[str, Any]:
    """At 64 px, or at the size that the network is made for."""
    sizes = [64, 224]
    if name.startswith("timm:"):
        sizes[1] = timm.get_pretrained_cfg(name.partition(":")[2]).input_size[-1]
    row: dict[str, Any] = {}
    for size in dict.fromkeys(sizes):
        row = {"size": size, **try_size(name, size)}
        if row["cut"] == "yes":
            break
    return row


def try_size(name: str, size: int) -> dict[str, Any]:
    try:
        return try_network(name, size)
    except SpotkdError as error:
        return {"cut": "no", "reason": one_line(error)[:200]}
    except Exception as error:
        return {"cut": "no", "reason": f"{type(error).__name__}: {one_line(error)[:160]}"}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def print_table(path: Path) -> None:
    rows = read_rows(path)
    works = [row for row in rows if row["finite"] == "yes" and float(row["equal"] or 1) <= 1e-5]
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    print(f"{len(works)} of {len(rows)} families work ({versions}).\n")
    print(
        "| family | network | px | spots proposed for AT | largest difference | two steps |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        steps = "finite" if row["finite"] == "yes" else row["reason"] or "not finite"
        spots = row["spots"].replace(" ", ", ") or "-"
        print(f"| {row['family']} | `{row['network']}` | {row['size']} | {spots} | {row['equal'] or '-'} | {steps} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("families.csv"))
    parser.add_argument("--one", help="only this network; its row is printed")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.table:
        print_table(chosen.out)
    elif chosen.one:
        csv.DictWriter(sys.stdout, FIELDS, restval="").writerow({"network": chosen.one, **try_sizes(chosen.one)})
    else:
        if not chosen.out.exists():
            chosen.out.write_text(",".join(FIELDS) + "\n")
        done = {row["family"] for row in read_rows(chosen.out)}
        for family, network in families().items():
            if family in done:
                continue
            command = [sys.executable, __file__, "--one", network]
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
                line = run.stdout.strip().splitlines()[-1:] or [f",{network},,no,,,,ended by {run.returncode}"]
            except subprocess.TimeoutExpired:
                line = [f",{network},,no,,,,not done after {SECONDS} s"]
            (row,) = csv.DictReader(line, FIELDS)
            with chosen.out.open("a", newline="") as file:
                csv.DictWriter(file, FIELDS).writerow(row | {"family": family})
