"""`spotkd trial`: known effects are found, others are not claimed, and runs that are no trial are told so."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spotkd.analysis.trial import _regress, conclude, effect_table, estimate_trial
from spotkd.cli import main
from spotkd.errors import RunError
from spotkd.options import DistillOptions, ModelOptions
from spotkd.runs.folder import RunFolder
from spotkd.runs.tables import TrialRow, TrialTable

from ..conftest import few_glyphs, instead_of_glyph94

Array = npt.NDArray[np.float64]
COHORTS, SHARES, SPOTS = ("a", "b", "c"), np.array([0.2, 0.3, 0.5]), ("layer1", "layer3", "logits")
NOTHING = np.zeros((3, 3))  # effects by cohort and spot


def make_run(seed: int, effects: Array = NOTHING, epochs: int = 30, strategy: str = "trial") -> Any:
    """Logarithms of losses fall, with noise that shrinks and is correlated in time; of effects half is left later."""
    dice, rows, lasting, noise = np.random.default_rng(seed), [], 0.0, 0.0
    for epoch in range(1, epochs + 1):
        levels = (dice.random((3, 3)) < 0.5) * 1.0
        lasting = 0.5 * lasting + (effects * SHARES[:, None] * levels).sum() * (epoch > 1)
        noise = 0.5 * noise + 0.1 * (1.5 - epoch / epochs) * dice.normal()
        loss = 1 + 3 * np.exp(-4 * epoch / epochs) + lasting + noise
        rows += [
            TrialRow(epoch, cohort, share, np.exp(loss), 90 - 10 * loss, tuple(drawn))
            for cohort, share, drawn in zip(COHORTS, SHARES, levels, strict=True)
        ]
    options = DistillOptions(
        teacher=ModelOptions("resnet20"), student=ModelOptions("resnet8"), strategy=strategy, seed=seed
    )
    return SimpleNamespace(path=Path(f"run{seed}"), distill_options=options, trial=TrialTable(SPOTS, tuple(rows)))


def test_regression_is_least_squares_with_everything_in_it() -> None:
    """Against the normal equations of one wide matrix, with a curve for each of two runs."""
    dice = np.random.default_rng(0)
    columns, outcomes = ([dice.normal(size=(n, 2)) for n in (15, 22)] for _ in range(2))
    wide = np.zeros((37, 10))
    for place, (x, outcome) in zip((0, 15), zip(columns, outcomes, strict=True), strict=True):
        rows, time, first = slice(place, place + len(x)), np.linspace(0, 1, len(x)), 2 + 4 * (place > 0)
        wide[rows, :2] = x
        wide[rows, first : first + 4] = np.column_stack([time**0, time, time**2, outcome[:, 1]])
    y = np.concatenate([outcome[:, 0] for outcome in outcomes])
    inverse = np.linalg.inv(wide.T @ wide)
    expected = inverse @ wide.T @ y
    errors = np.sqrt(np.diag(inverse) * ((y - wide @ expected) ** 2).sum() / 27)
    found = _regress(columns, outcomes)
    assert [each.value for each in found] == pytest.approx(expected[:2].tolist())
    assert [each.half for each in found] == pytest.approx((2.0518305 * errors[:2]).tolist())  # t of 27, 97.5 %


def test_a_known_effect_is_found_and_said() -> None:
    effects = np.zeros((3, 3))
    effects[:, 0], effects[:, 1] = -0.4, 0.4
    result = estimate_trial([make_run(seed, effects) for seed in range(3)])
    assert (result.runs, result.epochs) == (3, 87)
    at = {effect.spot: effect for effect in result.effects if effect.cohort is None}
    assert abs(at["layer1"].loss.value + 40) < at["layer1"].loss.half
    assert abs(at["layer1"].top1.value - 4) < at["layer1"].top1.half
    lines = conclude(result)
    assert [line for line in lines if line.startswith("distilling at layer1 helps (+")]
    assert [line for line in lines if line.startswith("distilling at layer3 hurts (-")]
    assert [line for line in lines if line.startswith("distilling at logits has no clear effect (")]
    assert len(effect_table(result)[1]) == 12


def test_the_cohort_that_matters_is_named() -> None:
    effects = np.zeros((3, 3))
    effects[1, 2] = 2.0  # on the loss of everybody 0.3 * 2
    result = estimate_trial([make_run(seed, effects, strategy="trust+cohort") for seed in range(3)])
    cells = [(effect.spot, effect.cohort) for effect in result.effects if effect.cohort and effect.is_significant]
    assert cells == [("logits", "b")]
    said = "distilling twice as much at logits, where the teacher is b, hurts (-"
    assert [line for line in conclude(result) if line.startswith(said)]


def test_nothing_is_claimed_where_nothing_is() -> None:
    result = estimate_trial([make_run(6)])  # how often it is, the slow test below says
    assert "nothing is significant in so many epochs" in conclude(result)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [20, 60])
def test_false_claims_are_as_rare_as_is_said(epochs: int) -> None:
    """Of 400 runs without effects about 5 % claim one of a spot, and 5 % one of a cohort; intervals hold 95 %."""
    effects, claims, held = np.zeros((3, 3)), np.zeros(2), 0
    effects[:, 1] = 0.2
    for seed in range(400):
        found = estimate_trial([make_run(seed, epochs=epochs)]).effects
        claims += [any(e.is_significant for e in found if (e.cohort is None) == whole) for whole in (True, False)]
        loss = estimate_trial([make_run(1000 + seed, effects, epochs)]).effects[1].loss
        held += abs(loss.value - 20) < loss.half
    assert claims.max() / 400 < 0.085  # three standard errors above 5 %
    assert claims.min() / 400 > 0.018
    assert abs(held / 400 - 0.95) < 0.033


def test_what_is_no_trial_gets_one_line() -> None:
    with pytest.raises(RunError, match=r"run0: was not randomised, its strategy is always; .* --strategy trial"):
        estimate_trial([make_run(0, strategy="always")])
    with pytest.raises(RunError, match=r"decided in 10 epochs, and 2 more are needed"):
        estimate_trial([make_run(0, epochs=11)])
    with pytest.raises(RunError, match="no epoch of it is complete"):
        estimate_trial([make_run(0, epochs=0)])
    with pytest.raises(RunError, match="run1: differs from run0 in strategy; name runs that differ"):
        estimate_trial([make_run(0), make_run(1, strategy="cohort")])
    torn = make_run(0)
    torn.trial = dataclasses.replace(torn.trial, rows=torn.trial.rows[:-1])
    with pytest.raises(RunError, match="its trial is damaged"):
        estimate_trial([torn])


@pytest.mark.parametrize("strategy", ["trial", "cohort+balance"])
@pytest.mark.slow
def test_the_command_on_real_runs(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    instead_of_glyph94(few_glyphs(188, 16), monkeypatch)
    small = ["--batch-size", "32", "--quiet", "true", "--epochs"]
    teacher, out = str(tmp_path / "teacher"), str(tmp_path / "run")
    assert main(["train", "--model", "resnet8", "--out", teacher, *small, "1"]) == 0
    given = ["--teacher", "resnet8", "--teacher.checkpoint", teacher, "--min_teacher_top1", "0", "--student", "resnet8"]
    given += ["--strategy", strategy, "--out", out, *small, "14"]
    capsys.readouterr()
    assert main(["distill", *given]) == 2
    assert "it needs validation images" in capsys.readouterr().err
    held_out = ["--data.val_share", "0.5"]
    assert main(["distill", *given, *held_out, "--select", "best_test"]) == 2
    assert "select is best_test; take best_val" in capsys.readouterr().err
    assert main(["distill", *given, *held_out]) == 0
    table = RunFolder(out).trial
    assert (table.spots, len(table.rows)) == (("logits",), 14 * 6)
    metrics = RunFolder(out).metrics
    assert (strategy == "trial") or metrics["learnt_logits"] == pytest.approx([1.0] * 14)  # one spot: the whole dose
    assert [row.loss for row in table.rows[::6]] == pytest.approx(metrics["val_loss"], rel=1e-5)
    capsys.readouterr()
    assert main(["trial", out, "--csv", str(tmp_path / "nowhere" / "effects.csv")]) == 2
    assert "effects.csv: cannot be written (No such file or directory)" in capsys.readouterr().err
    assert main(["trial", out, "--csv", str(tmp_path / "effects.csv")]) == 0
    printed = capsys.readouterr().out
    assert "from 13 epochs of 1 run in which chance decided" in printed
    with (tmp_path / "effects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["spot"] == "logits"
    assert len(rows) == 1 + len({row.cohort for row in table.rows if row.epoch > 1 and row.share > 0})


def test_a_strangers_table(hostile_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    text = (hostile_runs / "kd" / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("strategy: always", "strategy: trial"))
    head = "epoch,cohort,share,loss,top1,drawn_logits\n"
    rows = [f"{epoch},\x1b[31mred,1,{2 - epoch / 20},50,{epoch % 3 % 2}\n" for epoch in range(1, 21)]
    for content, told in (
        (head + "1,all,x,2,3,1\n", "cannot be read (could not convert"),
        (head + "1,all,1,2\n", "row 2 has another number of cells"),
        (head + "1,all,1,nan,3,1\n" * 3, "its trial is damaged"),
        (head + "\x1b,1,1,2,3,1\n", "cannot be read"),
    ):
        (run / "trial.csv").write_text(content)
        assert main(["trial", str(run)]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    (run / "trial.csv").write_text(head + "".join(rows))
    assert main(["trial", str(run)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (run / "trial.csv").unlink()
    (run / "trial.csv").symlink_to(tmp_path / "elsewhere")
    assert main(["trial", str(run)]) == 2
    assert "trial.csv" in capsys.readouterr().err
