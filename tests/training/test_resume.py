"""An interrupted run goes on where it was and ends as if nothing had happened; damage is told and never silent."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from spotkd import DATASETS, DISTILLERS, MODELS, STRATEGIES, Batch, SpotKD, SpotkdError
from spotkd.cli import main
from spotkd.distillers import AT
from spotkd.errors import STOPPED, Stopped
from spotkd.method import Method
from spotkd.options import DistillOptions, ModelOptions, OptimOptions, PolicyOptions, TrainOptions, with_values
from spotkd.options.grammar import parse_interval
from spotkd.runs import checkpoint
from spotkd.runs.checkpoint import load_newest, read_checkpoint, write_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.runs.writer import RunWriter
from spotkd.training import distill, restore, resume, train
from spotkd.training.assemble import open_writer
from spotkd.training.state import learned_state, load_learned_state

from ..conftest import IMAGE_SHAPE, OPTIONS, TRAINING_LABELS, TinyNet, for_distiller
from . import killed_runs
from .killed_runs import configured, differences, what_is_left

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a trained teacher, and the names that the runs use."""
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: killed_runs.tiny_data())
    monkeypatch.setitem(MODELS._entries, "tinynet6", lambda classes: TinyNet(6, classes))
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))
    config = TrainOptions(
        model=ModelOptions("tinynet6"), epochs=1, batch_size=8, quiet=True, out=str(tmp_path / "teacher")
    )
    config = with_values(config, {"data.name": "tiny"})
    train(config)
    return tmp_path


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The process is asked to stop, by a real signal, after so many steps from now on."""
    plain, left = RunWriter.after_step, [steps]

    def after_step(self: RunWriter, state: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, state)

    monkeypatch.setattr(RunWriter, "after_step", after_step)


# ------------------------------------------------------------------------------------------------------------ exactness


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("distiller", "seed"), [("at", 1), ("crd", 2), ("ft", 3), ("rkd", 4)])
def test_killed_at_random_and_ended_the_same(distiller: str, seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.killed_runs", distiller, "6", str(tmp_path), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"{distiller}: 6 kills" in done.stdout


CASES: list[tuple[str, dict[str, Any], int]] = [
    ("adaptive", {}, 3),
    ("adaptive", {"optim": OptimOptions(lr=0.1, schedule="onecycle")}, 7),
    ("adaptive", {"select": "best_test"}, 12),
    ("joint", {"optim": OptimOptions(schedule="multistep", milestones=[1, 2])}, 8),
    ("random", {"distiller": "ofd"}, 5),
    ("anti", {"distiller": "ab"}, 4),
    ("adaptive", {"distiller": "reviewkd", "precision": "bf16-mixed"}, 6),
    ("adaptive", {"optim": OptimOptions(dot_delta=0.075)}, 5),
    ("adaptive", {"policy": PolicyOptions(held_out=True)}, 8),
    ("cohort", {}, 3),  # in the first epoch, whose samples are counted
    ("cohort+balance", {}, 12),  # in the last one, after weights were learnt
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "options", "steps"), CASES, ids=lambda value: str(value)[:40])
def test_stopped_by_a_signal_and_ended_the_same(
    strategy: str, options: dict[str, Any], steps: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"distiller": "at", "strategy": strategy, **options}
    distiller = kind.pop("distiller")
    distill(configured(place, place / "whole", distiller, **kind))
    with monkeypatch.context() as patched:
        stop_after(patched, steps)
        with pytest.raises(
            Stopped, match=r"stopped by SIGTERM; the state is saved, resume with: spotkd distill --resume "
        ):
            distill(configured(place, place / "stopped", distiller, **kind))
    torch.manual_seed(99)  # whoever goes on has drawn other numbers before
    random.seed(99)
    summary = resume(place / "stopped")
    assert differences(what_is_left(place / "whole"), what_is_left(place / "stopped")) == []
    whole = json.loads((place / "whole" / "summary.json").read_text())
    assert whole["scores"] == summary.scores._asdict()
    assert len(RunFolder(place / "stopped").metrics["epoch"]) == killed_runs.EPOCHS
    assert RunFolder(place / "stopped").trial == RunFolder(place / "whole").trial


def test_plain_training_goes_on_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(out: str) -> TrainOptions:
        common = {"epochs": 3, "batch_size": 8, "quiet": True, "out": str(place / out)}
        return with_values(TrainOptions(model=ModelOptions("tinynet4")), common | {"data.name": "tiny"})

    train(config("whole"))
    with monkeypatch.context() as patched:
        stop_after(patched, 8)
        with pytest.raises(Stopped, match="spotkd train --resume"):
            train(config("stopped"))
    resume(place / "stopped")
    whole, stopped = (read_checkpoint(place / name / "last.ckpt")["method"] for name in ("whole", "stopped"))
    assert differences(whole, stopped) == []


@pytest.mark.slow
def test_the_comparison_can_fail(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on without the random numbers' state, or without the momentum, ends elsewhere."""
    distill(configured(place, place / "whole", "at"))
    for forgotten in ("random", "optimizer"):
        with monkeypatch.context() as patched:
            stop_after(patched, 7)
            with pytest.raises(Stopped):
                distill(configured(place, place / forgotten, "at"))
        torch.manual_seed(99)
        with monkeypatch.context() as patched:
            if forgotten == "random":
                patched.setattr("spotkd.training.state.set_random_state", lambda state: None)
            else:
                patched.setattr(torch.optim.SGD, "load_state_dict", lambda *_: None)
            resume(place / forgotten)
        found = differences(what_is_left(place / "whole"), what_is_left(place / forgotten))
        assert any(where.startswith("/method") for where in found)


class Counting(AT):
    """A distiller with a state that no checkpoint knows."""

    def forward(self, *arguments: Any) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(*arguments)


def attributes(thing: object, at: str = "", seen: frozenset[int] = frozenset()) -> dict[str, object]:
    """All that an object and its parts hold, by path: tensors, numbers, words, containers."""
    if isinstance(thing, Tensor | int | float | str | bool | None):
        return {at: thing}
    if id(thing) in seen or (callable(thing) and not isinstance(thing, nn.Module)):
        return {}
    seen = seen | {id(thing)}
    if isinstance(thing, dict):
        parts = thing.items()
    elif isinstance(thing, list | tuple | set):
        parts = enumerate(thing)  # type: ignore[assignment]
    elif hasattr(thing, "__dict__"):
        parts = vars(thing).items()
    else:
        return {at: repr(thing)}
    return {k: v for name, part in parts for k, v in attributes(part, f"{at}/{name}", seen).items()}


def trained_and_loaded(pair: tuple[TinyNet, TinyNet], distiller: Any, strategy: Any, batch: Batch) -> list[str]:
    """What a method that has trained holds, and one that has loaded its state does not."""
    methods: list[Method] = []
    for _ in range(2):
        torch.manual_seed(0)
        teacher, student = for_distiller(pair, distiller)
        common = {"image_shape": IMAGE_SHAPE, "labels": TRAINING_LABELS, "options": OPTIONS.get(distiller, {})}
        methods.append(SpotKD(teacher, student, distiller, strategy, **common))  # type: ignore[arg-type]
    one, two = methods
    optimizer = torch.optim.SGD(one.parameter_groups())
    for epoch in (1, 2):
        one.start_epoch(epoch, 4)
        for _ in range(2):
            optimizer.zero_grad()
            one(batch).total.backward()
            optimizer.step()
    load_learned_state(two, {key: tensor.clone() for key, tensor in learned_state(one).items()})
    two.start_epoch(2, 4)
    two.train()
    for parameter in one.parameters():
        parameter.grad = None
    return differences(attributes(one), attributes(two))


@pytest.mark.parametrize("distiller", DISTILLERS)
def test_every_distiller_keeps_its_state_in_the_state_dict(
    distiller: str, pair: tuple[TinyNet, TinyNet], batch: Batch
) -> None:
    assert trained_and_loaded(pair, distiller, "adaptive", batch) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_keeps_its_state_in_the_state_dict(
    strategy: str, pair: tuple[TinyNet, TinyNet], batch: Batch
) -> None:
    assert trained_and_loaded(pair, "at", strategy, batch) == []


def test_a_state_that_is_not_saved_is_found(pair: tuple[TinyNet, TinyNet], batch: Batch) -> None:
    found = trained_and_loaded(pair, Counting, "adaptive", batch)
    assert found
    assert all("calls" in where or "other keys" in where for where in found)


# --------------------------------------------------------------------------------------------------------------- damage


def test_any_damage_is_detected_and_the_previous_one_used(place: Path) -> None:
    distill(configured(place, place / "run", "at", epochs=1))
    good, dice = (place / "run" / "last.ckpt").read_bytes(), random.Random(5)
    assert differences(read_checkpoint(place / "run" / "last.ckpt"), read_checkpoint(place / "run" / "last.ckpt")) == []
    whole = {"format": checkpoint.FORMAT, "phase": "training", "epoch": 1, "step": 0, "tables": {}, "config": {}}
    for number in range(200):
        folder = place / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_checkpoint(folder / "previous.ckpt", whole)
        bad = bytearray(good)
        if number % 2:
            bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        else:
            del bad[dice.randrange(len(bad)) :]
        (folder / "last.ckpt").write_bytes(bad)
        state, note = load_newest(folder)
        assert state is not None
        assert state == whole
        assert note is not None
        assert "\n" not in note
        assert note.endswith("resuming from previous.ckpt instead")
        assert sorted(path.name for path in folder.iterdir()) == ["damaged.ckpt", "previous.ckpt"]


@pytest.mark.slow
def test_a_run_goes_on_from_the_previous_checkpoint_and_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distill(configured(place, place / "whole", "at"))
    with monkeypatch.context() as patched:
        stop_after(patched, 9)
        with pytest.raises(Stopped):
            distill(configured(place, place / "run", "at"))
    path = place / "run" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])
    assert main(["distill", "--resume", str(place / "run")]) == 0
    assert f"{path}: not a checkpoint of spotkd, or cut short; resuming from previous.ckpt" in capsys.readouterr().out
    assert differences(what_is_left(place / "whole"), what_is_left(place / "run")) == []


def test_no_checkpoint_left(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stop_after(monkeypatch, 9)
    with pytest.raises(Stopped):
        distill(configured(place, place / "run", "at"))
    for name in ("last.ckpt", "previous.ckpt"):
        (place / "run" / name).write_bytes(b"nonsense" * 100)
    assert main(["distill", "--resume", str(place / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "last.ckpt" in line
    assert "no checkpoint is left to resume from; start over: --overwrite true" in line


def test_a_state_of_something_else_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        with pytest.raises(Stopped):
            distill(configured(place, place / "run", "at"))
    state = read_checkpoint(place / "run" / "last.ckpt")
    for key, value, told in (
        ("method", {}, "cannot be resumed from its checkpoint"),
        ("tallies", {"unknown": 1}, "cannot be resumed from its checkpoint"),
        ("constants", state["constants"] | {"teacher": "0"}, "teacher's weights are other than when this run was"),
    ):
        write_checkpoint(place / "run" / "last.ckpt", state | {key: value})
        with pytest.raises(SpotkdError, match=told):
            resume(place / "run")


# --------------------------------------------------------------------------------------------------------- no disk left


def test_too_little_space_is_seen_before_writing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    amounts = iter([usage(1 << 40)] * 3 + [usage(1 << 10)] * 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: next(amounts))
    with pytest.raises(
        SpotkdError, match=r"MB are free; .*last\.ckpt holds epoch 1.*make room, then resume: spotkd dis"
    ):
        distill(configured(place, place / "run", "at"))
    assert read_checkpoint(place / "run" / "last.ckpt")["epoch"] == 1
    monkeypatch.undo()


@pytest.mark.process
@pytest.mark.parametrize("room", [60_000, 200_000])
def test_a_full_disk_stops_the_run_with_the_last_good_checkpoint(room: int, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: writing fails in the middle of a file."""
    spotkd = [sys.executable, "-m", "spotkd.cli"]
    options = ["--data.limit", "94", "--epochs", "2", "--batch_size", "47", "--quiet", "--eval_batch_size", "512"]
    teacher = [*spotkd, "train", "--model", "resnet8", *options, "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*teacher, "--checkpoint_every", "1"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "last.ckpt: cannot be written" in line
    assert "no epoch was completed" in line
    assert not list((tmp_path / "run").glob("*.ckpt"))
    assert not list((tmp_path / "run").glob(".*.ckpt.*"))


@pytest.mark.slow
def test_a_failing_write_leaves_the_last_good_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, left = torch.save, [4]

    def save(state: Any, path: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        plain(state, path)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        with pytest.raises(SpotkdError, match=r"No space left on device.*last\.ckpt holds step [0-9] of epoch 2"):
            distill(configured(place, place / "run", "at"))
    assert not list((place / "run").glob(".last*"))
    distill(configured(place, place / "whole", "at"))
    resume(place / "run")
    assert differences(what_is_left(place / "whole"), what_is_left(place / "run")) == []


# --------------------------------------------------------------------------------------------- what may be gone on with


@pytest.mark.slow
def test_other_options_are_refused_with_the_difference(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 7)
        with pytest.raises(Stopped):
            distill(configured(place, place / "run", "at"))
    run = str(place / "run")
    assert main(["distill", "--resume", run, "--optim.lr", "0.5", "--epochs", "4"]) == 2
    assert (
        "was started with other options: epochs was 3 and is 4; optim.lr was 0.05 and is 0.5" in capsys.readouterr().err
    )
    assert main(["train", "--resume", run]) == 2
    assert f"is a run of 'spotkd distill': spotkd distill --resume {run}" in capsys.readouterr().err
    assert main(["distill", "--resume", str(place)]) == 2
    assert "holds no run to resume" in capsys.readouterr().err
    with pytest.raises(SpotkdError, match=r"already holds a run .* --resume auto"):
        distill(configured(place, place / "run", "at", resume=None))
    assert main(["distill", "--resume", run, "--epochs", "4", "--accept_changes"]) == 0
    assert RunFolder(run).metrics["epoch"] == [1, 2, 3, 4]
    assert yaml.safe_load((place / "run" / "config.yaml").read_text())["epochs"] == 4


@pytest.mark.slow
def test_a_finished_run_is_only_read_and_can_be_prolonged(place: Path) -> None:
    first = distill(configured(place, place / "run", "at", epochs=2))
    before = (place / "run" / "last.ckpt").read_bytes()
    again = distill(configured(place, place / "run", "at", epochs=2))
    assert again == first
    assert (place / "run" / "last.ckpt").read_bytes() == before
    longer = distill(configured(place, place / "run", "at", epochs=4, accept_changes=True))
    assert longer.epochs == 4
    assert RunFolder(place / "run").metrics["epoch"] == [1, 2, 3, 4]


def test_auto_begins_where_there_is_nothing_and_replaces_another_run_if_told_to(place: Path) -> None:
    distill(configured(place, place / "run", "at", epochs=1))
    with pytest.raises(SpotkdError, match=r"alpha was 1\.0 and is 0\.5"):
        distill(configured(place, place / "run", "at", epochs=1, alpha=0.5))
    distill(configured(place, place / "run", "at", epochs=1, alpha=0.5, overwrite=True))
    assert yaml.safe_load((place / "run" / "config.yaml").read_text())["alpha"] == 0.5


def test_one_process_at_a_time(place: Path) -> None:
    wanted = configured(place, place / "run", "at")
    with open_writer(place / "run", wanted), pytest.raises(SpotkdError, match="another process is running there"):
        distill(wanted)
    distill(wanted)


@pytest.mark.process
def test_a_second_signal_quits_at_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from spotkd.runtime.signals import StopRequest\n"
        "with StopRequest() as request:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert request.received == 'SIGINT'\n"
        "    print('noted', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout == "noted\n"
    assert done.returncode == -signal.SIGTERM


def test_the_command_line_tells_a_stop_from_a_failure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(place, place / "run", "at")
    assert STOPPED not in (0, 1, 2, 130)
    path = place / "options.yaml"
    path.write_text(yaml.safe_dump(asdict(config)))
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        assert main(["distill", "--config", str(path)]) == STOPPED
    assert main(["distill", "--config", str(path)]) == 0


@pytest.mark.parametrize(
    ("given", "steps", "seconds"),
    [(None, 0, 0), (500, 500, 0), ("20 steps", 20, 0), ("10min", 0, 600), ("1.5m", 0, 90)],
)
def test_how_often_to_save(given: int | str | None, steps: int, seconds: float) -> None:
    assert parse_interval(given) == (steps, seconds)


@pytest.mark.parametrize("given", [0, "often", "-3", "1.5", "10 hours", "0min"])
def test_how_often_not_to_save(given: int | str) -> None:
    with pytest.raises(SpotkdError, match=r"checkpoint_every is .*: give steps, as 500, or minutes, as 10min"):
        parse_interval(given)


# --------------------------------------------------------------------------------------------------------------- guards


def broken_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The student's features are infinite in these steps (a bad image, an overflow)."""
    plain, count = TinyNet.features, [0]

    def features(self: TinyNet, x: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            count[0] += 1
            if count[0] in steps:
                x = x * float("inf")
        return plain(self, x)

    monkeypatch.setattr(TinyNet, "features", features)


@pytest.mark.slow
def test_a_number_that_is_not_finite_stops_the_run_before_it_does_harm(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        broken_at(patched, 8)
        with pytest.raises(
            SpotkdError,
            match=r"epoch 2, step 3 of 5: not finite: task, .*gradient; .*last\.ckpt holds step 2 of epoch 2",
        ):
            distill(configured(place, place / "run", "at"))
    found = json.loads((place / "run" / "nonfinite.json").read_text())
    assert (found["epoch"], found["step"]) == (2, 3)
    labels = killed_runs.tiny_data().train.labels
    assert labels is not None
    assert found["labels"] == labels[found["indices"]].tolist()
    assert len(found["indices"]) == 8
    distill(configured(place, place / "whole", "at"))
    resume(place / "run")  # the batch is no longer broken
    assert differences(what_is_left(place / "whole"), what_is_left(place / "run")) == []


def test_steps_may_be_skipped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        broken_at(patched, 2, 8)
        distill(configured(place, place / "run", "crd", skip_nonfinite=2))
    state = read_checkpoint(place / "run" / "last.ckpt")
    assert state["tallies"]["skipped"] == 2
    assert all(tensor.isfinite().all() for tensor in state["method"].values() if tensor.is_floating_point())
    assert all(torch.tensor(values).isfinite().all() for values in RunFolder(place / "run").metrics.values())
    with monkeypatch.context() as patched:
        broken_at(patched, 2, 4, 8)
        with pytest.raises(SpotkdError, match="step 3 of 5: not finite after 2 skipped steps"):
            distill(configured(place, place / "other", "crd", skip_nonfinite=2))


def test_a_policy_that_no_longer_decides_is_reported_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = {"policy.bias": 50.0, "policy.schedule": "published"}
    distill(configured(place, place / "run", "at", quiet=False, **closed))
    lines = [line for line in capsys.readouterr().out.splitlines() if "no longer decides" in line]
    spots = "100 % of the samples at layer1, layer2, layer3 and logits"
    assert [line.partition(": it no longer")[0] for line in lines] == [f"note: in epoch 1 the policy distilled {spots}"]
    assert "--strategy always does the same for less; --policy.target_share" in lines[0]
    distill(configured(place, place / "target", "at", quiet=False, **closed, **{"policy.target_share": 0.9}))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "no longer decides" in line]
    assert "target_share" not in line  # advice that is followed already
    distill(configured(place, place / "always", "at", quiet=False, strategy="always"))
    assert "no longer decides" not in capsys.readouterr().out


def test_a_wrong_teacher_is_caught(place: Path) -> None:
    def wanted(least: float | None) -> DistillOptions:
        return configured(place, place / "run", "at", epochs=1, resume=None, overwrite=True, min_teacher_top1=least)

    scores = json.loads((place / "teacher" / "summary.json").read_text())["scores"]
    with pytest.raises(SpotkdError, match=r"the teacher gets .* of 40 test images right, and min_teacher_top1 is 99"):
        distill(wanted(99.0))
    assert not (place / "run").exists()
    distill(wanted(scores["top1"]))
    torch.manual_seed(3)
    untrained = TinyNet(6)
    torch.save(untrained.state_dict(), place / "untrained.pt")
    config = wanted(None)
    config = with_values(config, {"teacher.checkpoint": str(place / "untrained.pt")})
    with pytest.raises(
        SpotkdError, match=r"untrained\.pt: the teacher gets .* commonest class 20\.0 % .*: is it the wrong"
    ):
        distill(config)
    config = with_values(config, {"min_teacher_top1": 0})
    distill(config)
    with pytest.raises(SpotkdError, match=r"min_teacher_top1 is 101.*percentage"):
        distill(wanted(101.0))


def test_restore_reads_a_run_that_was_stopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 7)
    with pytest.raises(Stopped):
        distill(configured(place, place / "run", "at"))
    method, _ = restore(place / "run")
    state = read_checkpoint(place / "run" / "last.ckpt")["method"]
    assert differences(dict(learned_state(method)), state) == []


def test_who_only_reads_leaves_a_damaged_checkpoint_where_it_is(place: Path) -> None:
    distill(configured(place, place / "run", "at", epochs=1))
    previous = read_checkpoint(place / "run" / "previous.ckpt")["method"]
    (place / "run" / "last.ckpt").write_bytes(b"nonsense" * 100)
    names = sorted(path.name for path in (place / "run").iterdir())
    method, _ = restore(place / "run")
    assert differences(dict(learned_state(method)), previous) == []
    assert sorted(path.name for path in (place / "run").iterdir()) == names
