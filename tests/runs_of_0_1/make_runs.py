"""Makes the runs in this folder, with the version that they are named after. Not to be made again with a later one.

They are what spotkd 0.1.0 left on the disk before its shell was rebuilt; tests/test_old_runs.py resumes and reads them.
They were made at commit 407807f, from the repository root, by:

    git worktree add /tmp/spotkd-0.1 407807f
    OMP_NUM_THREADS=1 PYTHONPATH=/tmp/spotkd-0.1/src python tests/runs_of_0_1/make_runs.py

- teacher/: the weights of a resnet8 after an epoch on 188 images of glyph94
- interrupted/: SAKD-AT, three epochs of six steps, stopped by SIGTERM after step 3 of epoch 2; interrupted_result/ has
  what the same run leaves where nothing stops it
- finished/: CRD, two epochs; prolonged_result/ has what it leaves where it then goes on to a third
- made_on.json: what decides the last bits of all of them

Files that no test needs (the teacher's state, previous.ckpt) are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from spotkd.cli import main

HERE = Path(__file__).parent
COMMON = [
    "--data",
    "glyph94",
    "--data.limit",
    "282",
    "--data.val_share",
    "0.34",
    "--batch_size",
    "32",
    "--select",
    "last",
    "--seed",
    "5",
    "--accelerator",
    "cpu",
    "--precision",
    "32",
    "--logger",
    "none",
    "--quiet",
    "true",
]
PAIR = ["--teacher", "resnet8", "--teacher.checkpoint", "teacher", "--student", "resnet8", "--min_teacher_top1", "0"]
AT = [
    "--distiller",
    "at",
    "--strategy",
    "adaptive",
    "--epochs",
    "3",
    "--policy.bias",
    "scaled",
    "--policy.target_share",
    "0.5",
]
CRD = [
    "--distiller",
    "crd",
    "--strategy",
    "always",
    "--epochs",
    "2",
    "--options.negatives",
    "64",
    "--options.dim",
    "32",
]
KEPT = {
    "teacher": ["model.safetensors"],
    "interrupted": ["config.yaml", "metrics.csv", "decisions.csv", "last.ckpt"],
    "interrupted_result": ["metrics.csv", "decisions.csv", "student.safetensors"],
    "finished": ["config.yaml", "metrics.csv", "last.ckpt", "summary.json", "student.safetensors"],
    "prolonged_result": ["metrics.csv", "student.safetensors"],
}


def run(*arguments: str, expected: int = 0) -> None:
    status = main(list(arguments))
    if status != expected:
        sys.exit(f"spotkd {' '.join(arguments)}: status {status}, and {expected} was expected")


def run_until_step(step: int, *arguments: str) -> None:
    """As :func:`run`, but the process gets SIGTERM in so many steps of the optimizer."""
    plain, done = torch.optim.SGD.step, 0

    def counting(self: torch.optim.SGD, closure: Any = None) -> Any:
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, closure)

    with patch.object(torch.optim.SGD, "step", counting):
        run(*arguments, expected=75)


def make(folder: Path) -> None:
    """All runs, in ``folder``, which must be the working directory: the names in their options are relative to it."""
    run("train", "--model", "resnet8", *COMMON, "--epochs", "1", "--out", "teacher")
    run("distill", *PAIR, *COMMON, *AT, "--out", "interrupted_result")
    run_until_step(6 + 3, "distill", *PAIR, *COMMON, *AT, "--out", "interrupted")
    run("distill", *PAIR, *COMMON, *CRD, "--out", "finished")
    shutil.copytree(folder / "finished", folder / "prolonged_result")
    run("distill", "--resume", "prolonged_result", "--epochs", "3", "--accept_changes", "true")
    # The notes of what it was made on come from the run itself, so that the test can compare like with like.
    summary = json.loads((folder / "interrupted_result" / "summary.json").read_text(encoding="utf-8"))
    noted = {key: summary[key] for key in ("spotkd", "torch", "machine")}
    noted |= {"commit": "407807f", "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    (folder / "made_on.json").write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def keep(folder: Path) -> None:
    """What tests need of them, in place of what lies here."""
    for name, files in KEPT.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        (HERE / name).mkdir()
        for file in files:
            shutil.copy(folder / name / file, HERE / name)
    shutil.copy(folder / "made_on.json", HERE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        make(Path(temporary))
        keep(Path(temporary))
