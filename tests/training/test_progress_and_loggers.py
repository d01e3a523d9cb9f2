"""What a terminal, a pipe and the loggers get while a network trains."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spotkd import DATASETS, MODELS, Loader, SpotkdError
from spotkd.errors import STOPPED, Stopped
from spotkd.options import DistillOptions, ModelOptions, PolicyOptions, TrainOptions, with_values
from spotkd.options.grammar import parse_loggers
from spotkd.runs.folder import RunFolder
from spotkd.runs.writer import RunWriter
from spotkd.training import decision_log, distill, progress, restore, resume, train
from spotkd.training.decision_log import predict_teacher_probability
from spotkd.training.hooks import Epoch, Hooks, Start
from spotkd.training.progress import TrainingProgress

from ..conftest import TinyNet
from .killed_runs import tiny_data

ROOT = Path(__file__).parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"
MEANS = {
    "loss_task": 1.2, "loss_kl": 0.31, "loss_distill": 0.0031, "loss_teacher": 0.0, "loss_route": 0.9,
    "loss_balance": 0.0, "loss_share": 0.02, "train_top1": 61.2,
    "share_layer1": 0.61, "share_layer2": 0.58, "share_layer3": 1.0, "share_logits": 0.0,
}  # fmt: skip


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(width: int = 100, terminal: bool = True, **environment: str) -> Console:
    environment.setdefault("TERM", "xterm-256color")
    size = {"COLUMNS": str(width), "LINES": "40"}
    return Console(file=Terminal() if terminal else io.StringIO(), _environ={**environment, **size})


def written(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def frames(on: Console) -> list[str]:
    """What was drawn, each time anew, without colours."""
    return [ESCAPE.sub("", frame).replace("\r", "") for frame in re.split(r"(?:\x1b\[1A|\x1b\[2K)+", written(on))]


def shown(on: Console, clock: Clock, title: str = "resnet8") -> str:
    """The table in the middle of the third of ten epochs, after 30 seconds."""
    with TrainingProgress(title, 10, 100, on, False, 2, 0, [50.0, 58.3]) as live:
        for _ in range(50):
            clock.now += 0.6
            live.step(lambda: MEANS)
        before = len(written(on))
        live.epoch(3, MEANS, ("val", 57.0))
        assert "57.00" in written(on)[before:]
    return next(frame for frame in frames(on) if "7:30 left" in frame)  # after 250 of 1000 steps


# ------------------------------------------------------------------------------------------------------------ the table


def test_the_table_of_a_wide_terminal(clock: Clock) -> None:
    lines = shown(console(120), clock).splitlines()
    assert re.fullmatch(r"resnet8  epoch 3/10  step 50/100  [━╸╺]{24}  25 %  7:30 left", lines[0].rstrip())
    assert [line.split()[:2] for line in lines[1:7]] == [
        ["loss", "2.433"], ["task", "1.200"], ["kl", "0.310"], ["distill", "0.0031"], ["route", "0.900"],
        ["share", "0.020"],
    ]  # fmt: skip
    text = "\n".join(lines)
    assert "balance" not in text
    assert "teacher" not in text
    for words in ("train +61.20 %", "test +58.30 %", r"best \(epoch 2\) +58.30 %", r"layer1 +[━╸╺]{16} +61 %"):
        assert re.search(words, text), words


@pytest.mark.parametrize("width", [120, 80, 60, 59, 57, 40])
def test_every_width_is_readable(clock: Clock, width: int) -> None:
    text = shown(console(width), clock)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text or width == 40
    for words in (
        "epoch 3/10",
        "25 %",
        "7:30 left",
        "2.433",
        "0.0031",
        "61.20 %",
        "58.30 %",
        "100 %",
        "layer3",
        "logits",
    ):
        assert words in text, words
    assert ("step 50/100" in text) == (width >= 80)
    assert (max(len(line.rstrip()) for line in text.splitlines()) > 40) == (width >= 58)  # else one above another


def test_long_names_give_way(clock: Clock) -> None:
    text = shown(console(60), clock, "torchvision:mobilenet_v3_small_and_more_words")
    assert "torchvision:mobi" in text
    assert "…" in text
    assert "epoch 3/10" in text
    assert "7:30 left" in text


@pytest.mark.slow
def test_colours_and_their_absence(clock: Clock) -> None:
    plain, coloured = console(NO_COLOR="1"), console()
    bar = re.compile(r"layer1 +([━╸╺ ]{16}) +61 %")
    for on in (plain, coloured):
        text = shown(on, clock)
        filled = bar.search(text)
        assert filled is not None
        assert filled[1].rstrip() == ("━━━━━━━━━╸" if on is plain else filled[1])  # told apart by colour or by length
    assert COLOUR.search(written(coloured))
    assert not COLOUR.search(written(plain))


def test_numbers_of_any_size(clock: Clock) -> None:
    on = console()
    with TrainingProgress("preparation", 1, 3, on, False) as live:
        for loss in (12345.6, float("nan"), 1e-7):
            clock.now += 0.6
            live.step(lambda loss=loss: {"loss_preparation": loss})  # type: ignore[misc]
    assert [words for words in ("1.23e+04", "nan", "1e-07") if words not in written(on)] == []
    assert "top-1" not in written(on)


def test_the_device_is_waited_for_twice_a_second_at_most(clock: Clock) -> None:
    for on, most in ((console(), 21), (console(terminal=False), 1)):
        asked = []
        with TrainingProgress("resnet8", 1, 1000, on, False) as live:
            for _ in range(1000):
                clock.now += 0.01
                live.step(lambda: asked.append(1) or MEANS)  # type: ignore[func-returns-value]  # noqa: B023
        assert max(most - 2, 1) <= len(asked) <= most


# -------------------------------------------------------------------------------------------------- lines for everybody


def lines_of(on: Console, clock: Clock, quiet: bool = False) -> str:
    with TrainingProgress("a [b]", 2, 10, on, quiet) as live:
        for epoch in (1, 2):
            for _ in range(10):
                clock.now += 1
                live.step(lambda: MEANS)
            live.epoch(epoch, MEANS, ("test", 58.3))
            live.note("note: [c] is told, too")
    return written(on)


PLAIN = (
    "a [b]: epoch 1/2, step 3/10  loss 2.43  about 0:17 left\n"
    "a [b]: epoch 1/2  loss 2.433  test top-1 58.30 %  distilled layer1 61 %, layer2 58 %, layer3 100 %, logits 0 %  "
    "about 0:10 left\nnote: [c] is told, too\n"
    "a [b]: epoch 2/2  loss 2.433  test top-1 58.30 %  distilled layer1 61 %, layer2 58 %, layer3 100 %, logits 0 %\n"
    "note: [c] is told, too\n"
)


def test_plain_lines_where_nothing_can_change_in_place(clock: Clock) -> None:
    for on in (
        console(60, terminal=False),
        console(60, terminal=False, FORCE_COLOR="1"),  # a pipe is a pipe
        console(60, TERM="dumb"),
    ):
        assert lines_of(on, clock) == PLAIN


@pytest.mark.parametrize("seconds", [0.1, 1.5, 30.0])
def test_a_pipe_gets_a_line_within_two_seconds_of_the_first_step_and_then_every_minute(
    clock: Clock, seconds: float
) -> None:
    on = console(terminal=False)
    with TrainingProgress("resnet8", 1, 4000, on, False) as live:
        clock.now += seconds
        live.step(lambda: MEANS)
        first = clock.now
        seen: list[float] = []
        while clock.now < first + 300:
            lines = written(on).count("\n")
            seen += [clock.now - first] * (lines - len(seen))
            clock.now += seconds
            live.step(lambda: MEANS)
    assert seen[0] <= 2
    assert 4 <= len(seen) <= 6


def test_nothing_with_quiet(clock: Clock) -> None:
    assert lines_of(console(), clock, quiet=True) == ""
    assert lines_of(console(terminal=False), clock, quiet=True) == ""


def test_finished_epochs_stay_above_the_table(clock: Clock) -> None:
    on = console(60)
    text = ESCAPE.sub("", lines_of(on, clock)).replace("\r", "")
    for epoch in (1, 2):
        line = (
            f"a [b]: epoch {epoch}/2  loss 2.433  test top-1 58.30 %\n"
            "  distilled layer1 61 %, layer2 58 %, layer3 100 %,\n  logits 0 %\n"
        )
        assert text.count(line) == 1
    assert text.count("note: [c] is told, too\n") == 2
    before, _, after = written(on).partition("epoch 1/2  loss")
    assert before.rfind(SHOW) > before.rfind(HIDE)  # whoever is killed leaves the terminal with its cursor
    assert HIDE not in after


def test_an_exception_leaves_the_terminal_as_it_was(clock: Clock) -> None:
    on, before = console(), (sys.stdout, sys.stderr)
    with pytest.raises(Stopped), TrainingProgress("resnet8", 1, 10, on, False) as live:  # noqa: PT012
        live.step(lambda: MEANS)
        assert sys.stdout is not before[0]  # what is printed goes above the table
        raise Stopped("by somebody")
    assert (sys.stdout, sys.stderr) == before
    assert written(on).rfind(SHOW) > written(on).rfind(HIDE)
    height = len(next(frame for frame in frames(on) if "61.20" in frame).splitlines())
    assert written(on).endswith("\x1b[1A\x1b[2K" * height)  # the table is gone


# ------------------------------------------------------------------------------------------------------- the real thing

COMMAND = [
    sys.executable, "-m", "spotkd", "train", "--model", "resnet8",
    "--data", "python:tests.training.distributed_runs.glyphs", "--data.limit", "94",
    "--batch_size", "8", "--checkpoint_every", "1000",
]  # fmt: skip
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@pytest.mark.process
def test_a_run_in_a_pipe(tmp_path: Path) -> None:
    command = [*COMMAND, "--epochs", "1", "--out", str(tmp_path / "run"), "--logger", "none"]
    done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, "FORCE_COLOR": "1"}, check=True)
    assert done.stderr == ""
    loaded, chosen, first, last = done.stdout.splitlines()
    images = r"glyph94: \d+ training and .* test images of 94 classes, 32x32"
    assert re.fullmatch(images + r"; cpu, .*; 1 epochs of \d+ steps", loaded)
    assert chosen.startswith("resnet8 on labels; onecycle with rate 0.05 (--epochs, ")
    assert re.fullmatch(r"resnet8: epoch 1/1  loss \d\.\d{3}  test top-1 \d+\.\d\d %", first)
    assert last.startswith("test top-1 ")
    assert not (tmp_path / "run" / "tensorboard").exists()


def _read(terminal: int) -> str:
    """What is there to be read within a fifth of a second."""
    text = b""
    while select.select([terminal], [], [], 0.2)[0]:
        text += os.read(terminal, 65536)
        if len(text) > 4096:
            break
    return text.decode(errors="replace")


@pytest.mark.process
def test_a_run_in_a_terminal_that_is_interrupted(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    settings = termios.tcgetattr(its)
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "NO_COLOR": "1"}
    command = [*COMMAND, "--epochs", "1000", "--out", str(tmp_path / "run")]
    run = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True)
    text, asked, end = "", False, time.monotonic() + 60
    try:
        while run.poll() is None and time.monotonic() < end:
            text += _read(ours)
            if not asked and "best" in text:  # the table after an epoch
                run.send_signal(signal.SIGINT)
                asked = True
    finally:
        run.kill()
        run.wait()
    text += _read(ours)
    assert run.returncode == STOPPED, text
    assert termios.tcgetattr(its) == settings
    os.close(its)
    os.close(ours)
    plain = ESCAPE.sub("", text)
    assert re.search(r"resnet8  epoch 2/1000  [━╸╺ ]{12}  0 %  .* left\s+loss +\d", plain)
    assert "resnet8: epoch 1/1000  loss" in plain
    assert not COLOUR.search(text)
    assert text.rfind(SHOW) > text.rfind(HIDE)
    assert "stopped by SIGINT; the state is saved" in text.rpartition("\x1b")[2]


# -------------------------------------------------------------------------------------------------------------- loggers


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda config: tiny_data())
    monkeypatch.setitem(MODELS._entries, "tinynet4", lambda classes: TinyNet(4, classes))


def options(out: Path, logger: list[str] | str = "tensorboard", epochs: int = 3) -> TrainOptions:
    config = TrainOptions(model=ModelOptions("tinynet4"), epochs=epochs, batch_size=8, quiet=True, out=str(out))
    config = with_values(config, {"data.name": "tiny", "logger": logger, "checkpoint_every": 2})
    return config


def interrupted(config: TrainOptions, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Stopped after so many steps, five an epoch."""
    plain, left = RunWriter.after_step, [steps]

    def after_step(self: RunWriter, state: Callable[[], Any]) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, state)

    with monkeypatch.context() as patch, pytest.raises(Stopped):  # noqa: PT012
        patch.setattr(RunWriter, "after_step", after_step)
        train(config)


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


@pytest.mark.usefixtures("names")
def test_tensorboard_and_csv_hold_what_metrics_csv_does_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(options(tmp_path / "run", ["tensorboard", "csv"]), monkeypatch, 13)
    resume(tmp_path / "run")
    metrics = RunFolder(tmp_path / "run").metrics
    assert metrics["epoch"] == [1, 2, 3]
    found = events(tmp_path / "run")
    assert set(found.Tags()["scalars"]) == set(metrics)
    for name, values in metrics.items():
        series = found.Scalars(name)
        assert [event.step for event in series] == [1, 2, 3]
        assert [event.value for event in series] == pytest.approx(values, rel=1e-4)
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("step") for row in rows] == ["1", "2", "3"]
    for name, values in metrics.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("names")
def test_routed_images_are_those_of_the_surest_decisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(options(tmp_path / "teacher"))
    config = DistillOptions(
        teacher=ModelOptions("tinynet4", str(tmp_path / "teacher")), student=ModelOptions("tinynet4"), distiller="at",
        strategy="adaptive", policy=PolicyOptions(lr=0.3), inspect_every=2, min_teacher_top1=0, epochs=4, batch_size=8,
        quiet=True,
    )  # fmt: skip
    config = with_values(config, {"data.name": "tiny", "out": str(tmp_path / "run")})
    monkeypatch.setattr(decision_log, "_FLAT", 0.0)
    distill(config)
    found, (method, data) = events(tmp_path / "run"), restore(tmp_path / "run")
    spots = method.spot_names
    assert set(found.Tags()["images"]) == {f"to_{side}/{spot}" for side in ("teacher", "student") for spot in spots}
    probability, _ = predict_teacher_probability(method, Loader(data, data.train, 256, training=False))
    pixels = data.train.images  # type: ignore[attr-defined]
    for spot, column in zip(spots, probability.T, strict=True):
        order = column.argsort(stable=True)
        for side, chosen in (("teacher", order.flip(0)[:16]), ("student", order[:16])):
            first, last = found.Images(f"to_{side}/{spot}")
            assert (first.step, last.step) == (2, 4)
            grid = np.asarray(Image.open(io.BytesIO(last.encoded_image_string)))
            assert grid.shape == (16, 64, 3)
            tiles = torch.from_numpy(grid.copy())[..., 0].unfold(0, 8, 8).unfold(1, 8, 8).reshape(16, 8, 8)
            assert torch.equal(tiles, pixels[chosen, 0])
    monkeypatch.setattr(decision_log, "_FLAT", 1.1)
    config = with_values(config, {"out": str(tmp_path / "flat")})
    distill(config)
    assert events(tmp_path / "flat").Tags()["images"] == []


class Service(ModuleType):
    """Stands for the packages wandb and mlflow, and notes what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []
        self.config = SimpleNamespace(update=lambda params: self.note("params", params))
        self.id = "number-1"
        self.info = SimpleNamespace(run_id="number-1")

    def note(self, *call: Any) -> None:
        self.calls.append(call)

    def init(self, dir: str, name: str, id: str | None, resume: str) -> Service:
        self.note("begin", id, name)
        return self

    def start_run(self, run_id: str | None, run_name: str | None) -> Service:
        self.note("begin", run_id, run_name)
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.note("row", step, metrics)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.log(metrics, step)

    def log_params(self, params: dict[str, Any]) -> None:
        self.note("params", params)

    def finish(self, exit_code: int) -> None:
        self.note("end", exit_code)

    def end_run(self, status: str) -> None:
        self.note("end", status)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(("name", "ends"), [("wandb", (1, 0)), ("mlflow", ("KILLED", "FINISHED"))])
def test_services_go_on_with_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ends: tuple[object, object]
) -> None:
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    interrupted(options(tmp_path / "run", name), monkeypatch, 7)
    resume(tmp_path / "run")
    calls, metrics = service.calls, RunFolder(tmp_path / "run").metrics
    assert [call[:3] for call in calls if call[0] != "params" and call[0] != "row"] == [
        ("begin", None, "run"), ("end", ends[0]), ("begin", "number-1", "run" if name == "wandb" else None),
        ("end", ends[1]),
    ]  # fmt: skip
    assert [call[1]["optim.lr"] for call in calls if call[0] == "params"] == [0.05]
    rows = [call for call in calls if call[0] == "row"]
    assert [row[1] for row in rows] == [1, 2, 3]
    assert [row[2]["train_top1"] for row in rows] == pytest.approx(metrics["train_top1"], rel=1e-4)
    again = with_values(options(tmp_path / "run", name), {"overwrite": True})
    train(again)
    assert [call[1] for call in calls if call[0] == "begin"] == [None, "number-1", None]  # another run


def test_names_that_mlflow_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spotkd.training.loggers import Loggers

    service = Service("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", service)
    run = RunWriter(tmp_path, {}, "train")
    with Hooks([Loggers(["mlflow"], run, {})]).running(Start(0, 0, 0, {})) as hooks:
        hooks.on_epoch(Epoch(1, {"share_a:b[0]": 1}, {}, "test", 0.0, []))
    assert service.calls[2] == ("row", 1, {"share_a_b_0_": 1.0})


@pytest.mark.usefixtures("names")
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpotkdError, match=r"^logger is board: it must be tensorboard, csv, wandb, mlflow or none$"):
        train(options(tmp_path / "run", "tensorboard,board"))
    with pytest.raises(SpotkdError, match=r"^logger is none,csv: none stands alone$"):
        parse_loggers(["none", "csv"])
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(SpotkdError, match=r"^logger is wandb: pip install wandb"):
        train(options(tmp_path / "run", "wandb"))
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))  # a folder of that name
    with pytest.raises(SpotkdError, match=r"^logger is mlflow: what python finds by that name is not mlflow"):
        train(options(tmp_path / "run", "mlflow"))
    assert not (tmp_path / "run").exists()
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.setattr(service, "init", lambda **_: 1 / 0)
    with pytest.raises(SpotkdError, match=r"^logger wandb: does not start"):
        train(options(tmp_path / "run", "wandb"))
    (tmp_path / "run" / "loggers.json").write_text("[1]")
    config = options(tmp_path / "run", "wandb")
    monkeypatch.setattr("spotkd.runs.writer.RunWriter._prepare_files", lambda self: None)
    config = with_values(config, {"overwrite": True})
    with pytest.raises(SpotkdError, match=r"loggers\.json: cannot be read"):
        train(config)


@pytest.mark.usefixtures("names")
def test_another_logger_may_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(options(tmp_path / "run"), monkeypatch, 7)
    stored = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(stored.read_text())["logger"] == "tensorboard"
    config = options(tmp_path / "run", "csv")
    config = with_values(config, {"resume": "auto"})
    train(config)
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1.0", "2", "3"]
