"""Trains once undisturbed and once with kills, and compares what is left.

``python -m tests.training.killed_runs AT 7 FOLDER``: at with seven kills.

Every life of the run is a forked process, so that PyTorch is imported once. A life ends by SIGKILL at one of these
points, drawn at random:

- ``step``: after some step, before or behind whatever the loop does there;
- ``write``: in the middle of writing a checkpoint (half of the bytes are there);
- ``seal``, ``flush``, ``between``, ``renamed``: before the seal, before the flush, between the two renamings, after;
- ``line``: in the middle of a line of metrics.csv;
- ``time``: by the parent, after a random time (only with ``--timed``).
"""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spotkd import DATASETS, MODELS, Dataset
from spotkd.data import ImageSet
from spotkd.options import DistillOptions, ModelOptions, OptimOptions, TrainOptions, with_values
from spotkd.runs import checkpoint
from spotkd.runs.checkpoint import read_checkpoint
from spotkd.runs.writer import RunWriter
from spotkd.training import distill, train

from ..conftest import TinyNet

POINTS = ("step", "step", "step", "write", "seal", "flush", "between", "renamed", "line")
STEPS, EPOCHS = 5, 3  # an epoch's, a run's
dice = random.Random()  # of its own: a run seeds the others
OPTIONS: dict[str, dict[str, Any]] = {"crd": {"negatives": 8}}


def tiny_data() -> Dataset:
    """As the tests' data set; grey images told apart by their brightness."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(40) % 5
    noise = torch.randint(0, 40, (40, 1, 8, 8), generator=generator)
    split = ImageSet((noise + 40 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)
    return Dataset("tiny", split, split, tuple("abcde"), (0.3,), (0.3,), padding=1, val=split)


def prepare_names() -> None:
    """The data set and the networks by name."""
    DATASETS._entries["tiny"] = lambda config: tiny_data()
    MODELS._entries["tinynet6"] = lambda classes: TinyNet(6, classes)
    MODELS._entries["tinynet4"] = lambda classes: TinyNet(4, classes)


def configured(folder: Path, out: Path, distiller: str, **options: object) -> DistillOptions:
    """A short distillation, saved after every second step."""
    config = DistillOptions(
        teacher=ModelOptions("tinynet6", str(folder / "teacher")),
        student=ModelOptions("tinynet4"),
        distiller=distiller,
        strategy="adaptive",
        optim=OptimOptions(schedule="multistep"),
        options=OPTIONS.get(distiller, {}),
    )
    config = with_values(config, {"out": str(out), "epochs": EPOCHS, "batch_size": 8, "quiet": True})
    config = with_values(config, {"data.name": "tiny", "checkpoint_every": 2, "resume": "auto", "min_teacher_top1": 0})
    for key, value in options.items():
        config = with_values(config, {key: value})
    return config


def die() -> None:
    """As if the machine had lost its power."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, count: int) -> None:
    """From now on this process dies at the ``count``-th arrival at ``point``."""
    left = [count]

    def passes() -> None:
        left[0] -= 1
        if left[0] < 0:
            die()

    def before(owner: Any, name: str, what: Callable[..., None]) -> None:
        plain = getattr(owner, name)

        def changed(*arguments: Any, **options: Any) -> Any:
            what(*arguments, **options)
            return plain(*arguments, **options)

        setattr(owner, name, changed)

    def after(owner: Any, name: str, what: Callable[..., None]) -> None:
        plain = getattr(owner, name)

        def changed(*arguments: Any, **options: Any) -> Any:
            result = plain(*arguments, **options)
            what(*arguments, **options)
            return result

        setattr(owner, name, changed)

    if point == "step":
        half = dice.random() < 0.5
        (before if half else after)(RunWriter, "after_step", lambda *_: passes())
    elif point == "write":

        def torn(state: Any, path: Path) -> None:
            left[0] -= 1
            if left[0] < 0:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                die()

        after(torch, "save", torn)
    elif point == "seal":
        before(checkpoint, "_digest", lambda *_: passes())
    elif point == "flush":
        before(os, "fsync", lambda *_: passes())
    elif point in ("between", "renamed"):

        def of_checkpoint(path: Path, target: Path) -> None:
            if path.name == "last.ckpt" if point == "between" else Path(target).name == "last.ckpt":
                passes()

        after(Path, "replace", of_checkpoint)
    elif point == "line":
        plain = RunWriter.log

        def log(self: RunWriter, row: Any, name: str = "metrics.csv") -> None:
            plain(self, row, name)
            left[0] -= 1
            if left[0] < 0:
                path = self.folder / name
                path.write_bytes(path.read_bytes()[:-20])
                die()

        RunWriter.log = log  # type: ignore[method-assign]


def one_life(config: DistillOptions, point: str | None, count: int, seconds: float | None) -> bool:
    """Whether the run came to its end in this life."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if point is not None:
                arm(point, count)
            distill(config)
            status = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a life ended with status {os.WEXITSTATUS(status)} instead of by a kill")
    return os.WIFEXITED(status)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def differences(one: object, two: object, at: str = "") -> list[str]:
    """Where two states differ, bit by bit."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape and _bytes(one) == _bytes(two)
        return [] if same else [at]
    if isinstance(one, dict) and isinstance(two, dict):
        if set(one) != set(two):
            return [f"{at}: other keys"]
        return [found for key in one for found in differences(one[key], two[key], f"{at}/{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            return [f"{at}: other length"]
        return [found for i, pair in enumerate(zip(one, two, strict=True)) for found in differences(*pair, f"{at}/{i}")]
    return [] if one == two else [f"{at}: {one!r} is not {two!r}"]


def what_is_left(folder: Path) -> dict[str, Any]:
    """All that must not depend on whether the run was interrupted: without times and places."""
    state = read_checkpoint(folder / "last.ckpt")
    for key in ("config", "tables"):
        del state[key]
    for key in ("spent", "seconds"):
        del state["tallies"][key]
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        state["metrics"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    state["weights"] = (folder / "student.safetensors").read_bytes()
    return state


def main(distiller: str, kills: int, folder: Path, seed: int = 0, timed: bool = False) -> list[str]:
    """Differences between the undisturbed run and those that were killed ``kills`` times in all."""
    prepare_names()
    dice.seed(seed)
    teacher = TrainOptions(
        model=ModelOptions("tinynet6"), epochs=1, batch_size=8, quiet=True, out=str(folder / "teacher")
    )
    train(with_values(teacher, {"data.name": "tiny", "overwrite": True}))
    one_life(configured(folder, folder / "whole", distiller), None, 0, None)
    whole = what_is_left(folder / "whole")
    found, done, number = [], 0, 0
    began = time.monotonic()
    one_life(configured(folder, folder / "timed", distiller), None, 0, None)
    usual = time.monotonic() - began
    while done < kills:
        number += 1
        config = configured(folder, folder / f"killed{number}", distiller)
        lives = 0
        while True:
            last = done >= kills or lives > 8
            if last:
                point, seconds = None, None
            elif timed and dice.random() < 0.5:
                point, seconds = None, dice.uniform(0, usual)
            else:
                point, seconds = dice.choice(POINTS), None
            spread = {"step": 2 * STEPS, "write": 4, "seal": 4, "flush": 8, "between": 3, "renamed": 3, "line": 2}
            count = dice.randrange(spread.get(point or "", 1))
            if one_life(config, point, count, seconds):
                break
            done, lives = done + 1, lives + 1
        found += [f"run {number}{where}" for where in differences(whole, what_is_left(folder / f"killed{number}"))]
    print(f"{distiller}: {done} kills in {number} runs, {len(found)} differences")  # noqa: T201
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    distiller, kills, place, *more = sys.argv[1:]
    problems = main(
        distiller.lower(), int(kills), Path(place), seed=int(more[0]) if more else 0, timed="--timed" in more
    )
    print("\n".join(problems[:20]))  # noqa: T201
    sys.exit(bool(problems))
