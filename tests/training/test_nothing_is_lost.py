"""A finished result is never lost, a run is what its checkpoint says, and a folder that is no run is left alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spotkd import SpotkdError
from spotkd.analysis import inspect
from spotkd.cli import main
from spotkd.data import DATASETS, Dataset, DataSpec, ImageSet
from spotkd.errors import RunError, Stopped
from spotkd.options import InspectOptions, TrainOptions, with_values
from spotkd.runs import layout
from spotkd.runs.checkpoint import read_checkpoint, write_checkpoint
from spotkd.runs.folder import RunFolder
from spotkd.runs.writer import RunWriter
from spotkd.training import distill, resume
from spotkd.training.assemble import open_writer

from ..conftest import in_memory
from . import killed_runs
from .killed_runs import configured
from .test_resume import place, stop_after  # noqa: F401  # a fixture


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != layout.LOCK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


def edit_checkpoint(path: Path, **changes: object) -> None:
    write_checkpoint(path, read_checkpoint(path) | changes)


def interrupted(place: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 7, **options: object) -> Path:  # noqa: F811
    with monkeypatch.context() as patched:
        stop_after(patched, steps)
        with pytest.raises(Stopped):
            distill(configured(place, place / "run", "at", **options))
    return place / "run"


# ------------------------------------------------------------------------------------------------- the finished result


@pytest.mark.parametrize("how", ["folder", "auto"])
def test_a_finished_run_without_checkpoints_is_only_read(place: Path, how: str) -> None:  # noqa: F811
    summary = distill(configured(place, place / "run", "at", epochs=1))
    for name in (layout.LAST, layout.PREVIOUS):
        (place / "run" / name).unlink(missing_ok=True)
    before = contents(place / "run")
    again = resume(place / "run") if how == "folder" else distill(configured(place, place / "run", "at", epochs=1))
    assert again.scores == summary.scores
    assert contents(place / "run") == before


def test_a_finished_run_without_checkpoints_is_not_trained_further(place: Path) -> None:  # noqa: F811
    distill(configured(place, place / "run", "at", epochs=1))
    for name in (layout.LAST, layout.PREVIOUS):
        (place / "run" / name).unlink(missing_ok=True)
    before = contents(place / "run")
    with pytest.raises(RunError, match="is finished, and has no checkpoint to train further from"):
        distill(configured(place, place / "run", "at", epochs=2, accept_changes=True))
    assert contents(place / "run") == before


def test_the_old_result_stays_until_the_new_one_is_complete(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distill(configured(place, place / "run", "at", epochs=1, select="last"))
    kept = {name: (place / "run" / name).read_bytes() for name in (layout.SUMMARY, layout.STUDENT)}
    run = interrupted(place, monkeypatch, 3, epochs=3, select="last", accept_changes=True)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert not RunFolder(run).finished
    distill(configured(place, run, "at", epochs=3, select="last"))  # it is not taken for finished
    assert RunFolder(run).finished
    assert RunFolder(run).result.epochs == 3
    assert (run / layout.STUDENT).read_bytes() != kept[layout.STUDENT]
    distill(configured(place, place / "straight", "at", epochs=3, select="last"))
    assert not (run / layout.REOPENED).exists()


def test_a_state_that_does_not_fit_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    distill(configured(place, place / "run", "at", epochs=1))
    before = contents(place / "run")
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda _: killed_runs.tiny_data().limited(20))
    with pytest.raises(SpotkdError, match="training images are other than when"):
        distill(configured(place, place / "run", "at", epochs=2, accept_changes=True))
    assert contents(place / "run") == before


# ------------------------------------------------------------------------------------------- what the checkpoint holds


@pytest.mark.parametrize(("key", "value"), [("seed", 5), ("optim.lr", 0.5), ("batch_size", 4)])
def test_an_edited_config_is_noticed(
    place: Path,  # noqa: F811
    key: str,
    value: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = interrupted(place, monkeypatch)
    content = yaml.safe_load((run / layout.CONFIG).read_text())
    section, _, name = key.rpartition(".")
    (content[section] if section else content)[name] = value
    (run / layout.CONFIG).write_text(yaml.safe_dump(content))
    before = contents(run)
    with pytest.raises(SpotkdError, match=rf"{key} was .* and is {value}.*--accept_changes true"):
        resume(run)
    assert contents(run) == before
    if key != "batch_size":
        assert resume(run, accept_changes=True).epochs == killed_runs.EPOCHS


def test_other_pictures_with_the_same_labels_are_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = interrupted(place, monkeypatch)
    data = killed_runs.tiny_data()
    train = in_memory(data.train)
    data = data.__class__(**{**vars(data), "train": ImageSet(train.images.flip(-1), train.labels)})
    monkeypatch.setitem(DATASETS._entries, "tiny", lambda _: data)
    with pytest.raises(SpotkdError, match="training images, whose labels are the same, are other than"):
        resume(run)


def test_runs_from_before_pixels_were_noted_go_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = interrupted(place, monkeypatch)
    constants = read_checkpoint(run / layout.LAST)["constants"]
    del constants["pixels"]
    edit_checkpoint(run / layout.LAST, constants=constants)
    assert resume(run).epochs == killed_runs.EPOCHS


def test_a_damaged_newest_checkpoint_is_passed_over_by_every_reader(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = interrupted(place, monkeypatch, 12)
    (run / layout.LAST).write_bytes((run / layout.LAST).read_bytes()[:-70])
    found, _ = inspect(InspectOptions(str(run)))
    assert len(found.labels) == len(killed_runs.tiny_data().train)
    assert (run / layout.LAST).exists(), "a reader sets nothing aside"


# ------------------------------------------------------------------------------------------------------ names and links


@pytest.mark.parametrize(
    "tables",
    [
        {"../escaped.csv": "x\n"},
        {"/tmp/escaped.csv": "x\n"},
        {"config.yaml": "x\n"},
        {"metrics.csv": 3},
        ["metrics.csv"],
    ],
)
def test_a_checkpoint_names_no_files(tables: object, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = interrupted(place, monkeypatch)
    for name in (layout.LAST, layout.PREVIOUS):
        if (run / name).exists():
            edit_checkpoint(run / name, tables=tables)
    before = contents(place)
    with pytest.raises(SpotkdError, match=r"a table that no run has|no usable tables"):
        resume(run)
    assert contents(place) == before


@pytest.mark.parametrize("name", [layout.LOCK, "tensorboard", layout.METRICS, layout.CONFIG])
def test_a_link_leads_nowhere(name: str, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    with open_writer(run, TrainOptions()) as writer:
        writer.log({"epoch": 1, "loss": 0.5})
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    with pytest.raises(SpotkdError, match=r"a link, and a run|not a plain file|is no run of spotkd"):
        open_writer(run, TrainOptions(resume="auto", overwrite=True)).begin()
    assert not outside.exists()


@pytest.mark.parametrize("name", [layout.METRICS, layout.LAST, layout.SUMMARY, layout.CONFIG, layout.STUDENT])
def test_a_pipe_is_never_read(name: str, place: Path) -> None:  # noqa: F811
    distill(configured(place, place / "run", "at", epochs=1))
    (place / "run" / name).unlink()
    os.mkfifo(place / "run" / name)
    run = RunFolder(place / "run")
    readers = {
        layout.METRICS: lambda: run.metrics,
        layout.LAST: lambda: read_checkpoint(run.path / layout.LAST),
        layout.SUMMARY: lambda: run.result,
        layout.CONFIG: lambda: run.options,
        layout.STUDENT: lambda: run.weights,
    }
    with pytest.raises(SpotkdError):
        readers[name]()


# ------------------------------------------------------------------------------------------------- folders that are not


@pytest.mark.parametrize("foreign", ["config.yaml", "model.safetensors", "metrics.csv", "csv/mine.csv", "wandb/mine"])
def test_what_is_no_run_is_not_overwritten(foreign: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("mine: 1\n")
    with pytest.raises(SpotkdError, match="is no run of spotkd, so nothing there is overwritten"):
        open_writer(tmp_path / "folder", TrainOptions(overwrite=True))
    assert path.read_text() == "mine: 1\n"


@pytest.mark.parametrize("content", ["{}", "epochs: 3", None])
@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": "auto"}])
def test_options_that_somebody_wrote_make_no_run(how: dict[str, Any], content: str | None, tmp_path: Path) -> None:
    """Such as those of --print_config, used with --config from the folder that is given as --out."""
    (tmp_path / "csv").mkdir()
    options = TrainOptions(out=str(tmp_path), **({} if content else how))
    (tmp_path / layout.CONFIG).write_text(content or yaml.safe_dump(asdict(options)))
    (tmp_path / "csv" / "mine.csv").write_text("mine")
    (tmp_path / layout.MODEL).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(SpotkdError, match=r"is no run of spotkd, so nothing there is overwritten|with other options"):
        open_writer(tmp_path, with_values(options, how)).begin()
    assert contents(tmp_path) == before


def test_folders_of_loggers_that_a_run_did_not_have_stay(tmp_path: Path) -> None:
    for logger, stays in (("none", ["csv", "tensorboard"]), ("csv", ["tensorboard"])):
        with open_writer(tmp_path / logger, TrainOptions(logger=logger)) as run:
            run.log({"epoch": 1, "loss": 0.5})
        for name in ("csv", "tensorboard"):
            (tmp_path / logger / name).mkdir()
        with open_writer(tmp_path / logger, TrainOptions(overwrite=True)) as run:
            run.begin()
        assert [path.name for path in sorted((tmp_path / logger).iterdir()) if path.is_dir()] == stays


def test_a_damaged_run_of_ours_may_be_overwritten(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", TrainOptions()) as run:
        run.log({"epoch": 1, "loss": 0.5})
    with open_writer(tmp_path / "run", TrainOptions(overwrite=True)) as run:
        run.begin()
    assert not (tmp_path / "run" / layout.METRICS).exists()


@pytest.mark.parametrize("what", ["moved", "removed", "replaced"])
def test_a_folder_that_goes_away_ends_the_run(what: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run, plain = place / "run", RunWriter.after_step
    left = [3]

    def after_step(self: RunWriter, state: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            if what == "removed":
                shutil.rmtree(run)
            else:
                run.rename(place / "elsewhere")
            if what == "replaced":
                run.mkdir()
        plain(self, state)  # type: ignore[arg-type]

    monkeypatch.setattr(RunWriter, "after_step", after_step)
    with pytest.raises(RunError, match="was moved, removed or replaced while this run trained"):
        distill(configured(place, run, "at"))


@pytest.mark.parametrize("how", [None, "auto"])
def test_the_teacher_is_checked_before_a_first_step(how: str | None, place: Path) -> None:  # noqa: F811
    torch.manual_seed(3)
    from ..conftest import TinyNet

    torch.save(TinyNet(6).state_dict(), place / "untrained.pt")
    config = configured(place, place / "run", "at", resume=how)
    config = with_values(config, {"teacher.checkpoint": str(place / "untrained.pt"), "min_teacher_top1": None})
    with pytest.raises(SpotkdError, match="is it the wrong checkpoint"):
        distill(config)
    assert not (place / "run").exists()


def test_a_torn_last_line_is_left_out_with_a_remark(tmp_path: Path) -> None:
    with open_writer(tmp_path / "run", TrainOptions()) as writer:
        writer.log({"epoch": 1, "loss": 0.5})
        writer.log({"epoch": 2, "loss": 0.25})
    path = tmp_path / "run" / layout.METRICS
    path.write_text(path.read_text()[:-3])
    run = RunFolder(tmp_path / "run")
    assert run.metrics == {"epoch": [1.0], "loss": [0.5]}
    assert run.remarks == [f"{path.name}: its last row is torn, and left out"]


def test_resuming_fetches_nothing_unasked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = interrupted(place, monkeypatch)
    content = yaml.safe_load((run / layout.CONFIG).read_text())
    content["data"] |= {"download": True, "mirror": "http://127.0.0.1:9"}
    (run / layout.CONFIG).write_text(yaml.safe_dump(content))
    opened: list[DataSpec] = []

    def load(spec: DataSpec) -> Dataset:
        opened.append(spec)
        return killed_runs.tiny_data()

    monkeypatch.setitem(DATASETS._entries, "tiny", load)
    assert resume(run).epochs == killed_runs.EPOCHS
    assert main(["distill", "--resume", str(run)]) == 0
    assert main(["distill", "--resume", str(run), "--data.download", "true"]) == 0
    assert [spec.download for spec in opened] == [False, False, True]
