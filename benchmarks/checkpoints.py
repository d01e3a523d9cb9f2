"""Checkpoints as trainers write them: each of these layouts loads, or one short line says what to do.

python benchmarks/checkpoints.py          prints the table in benchmarks/results/README.md
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import redirect_stderr
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from spotkd import SpotkdError, create_model

State = dict[str, Tensor]
MOST_LETTERS = 480  # six lines of a terminal


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def without(state: State, ending: str) -> State:
    return {name: value for name, value in state.items() if not name.endswith(ending)}


def to(dtype: torch.dtype, state: State) -> State:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def tagged() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(2))
    parameter.tag = "decay"  # type: ignore[attr-defined]
    return parameter


def optimizer_state(make: Callable[..., optim.Optimizer] = optim.SGD) -> dict[str, Any]:
    weight = nn.Parameter(torch.ones(2))
    optimizer = make([weight], 0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    return optimizer.state_dict()


def schedule_state() -> dict[str, Any]:
    return optim.lr_scheduler.MultiStepLR(optim.SGD([nn.Parameter(torch.ones(2))], 0.1), [150, 180, 180]).state_dict()


# What torch.save gets, by the trainer that writes it so.
LAYOUTS: dict[str, Callable[[State], object]] = {
    "bare": lambda s: s,
    "OrderedDict": OrderedDict,
    "RepDistiller": lambda s: {"epoch": 240, "model": s, "acc": torch.tensor(72.3), "optimizer": optimizer_state()},
    "mdistiller": lambda s: {"epoch": 240, "model": behind("module.", s), "best_acc": torch.tensor(72.3)},
    "torchvision references": lambda s: {
        "model": s, "optimizer": optimizer_state(), "lr_scheduler": schedule_state(), "args": Namespace(lr=0.1),
    },
    "torchvision references with EMA": lambda s: {"model": s, "model_ema": behind("module.", s), "args": Namespace()},
    "torch examples": lambda s: {"state_dict": behind("module.", s), "arch": "resnet18", "acc1": torch.tensor(70.0)},
    "timm": lambda s: {"epoch": 3, "arch": "x", "state_dict": s, "optimizer": optimizer_state(), "metric": 70.1},
    "timm with args": lambda s: {"state_dict": s, "args": Namespace(lr=0.1, out=Path("x")), "version": 2},
    "timm with EMA": lambda s: {"state_dict": s, "state_dict_ema": s, "args": Namespace()},
    "EMA alone": lambda s: {"state_dict_ema": s},
    "Lightning": lambda s: {"state_dict": behind("model.", s), "hyper_parameters": {"lr": 0.1}, "loops": {}},
    "Lightning with a loss": lambda s: {"state_dict": behind("net.", s) | {"criterion.weight": torch.ones(10)}},
    "Lightning, student and teacher": lambda s: {"state_dict": behind("student.", s) | behind("teacher.", s)},
    "Lightning, compiled": lambda s: {"state_dict": behind("model._orig_mod.", s)},
    "mmengine": lambda s: {"meta": {"epoch": 1, "time": "2026"}, "state_dict": behind("backbone.", s)},
    "mmengine with EMA": lambda s: {"state_dict": s, "ema_state_dict": behind("module.", s) | {"steps": torch.ones(1)}},
    "DDP": lambda s: behind("module.", s),
    "DDP of DDP": lambda s: behind("module.module.", s),
    "FSDP": lambda s: behind("_fsdp_wrapped_module.", s),
    "compile": lambda s: behind("_orig_mod.", s),
    "compile of DDP": lambda s: behind("_orig_mod.module.", s),
    "DDP of compile": lambda s: {"model": behind("module._orig_mod.", s)},
    "AveragedModel": lambda s: behind("module.", s) | {"n_averaged": torch.tensor(3)},
    "thop": lambda s: s | {"total_ops": torch.ones(1), "conv1.total_params": torch.ones(1)},
    "before torch 0.4": lambda s: without(s, "num_batches_tracked"),
    "fp16": lambda s: to(torch.float16, s),
    "bf16": lambda s: {"model": to(torch.bfloat16, s)},
    "fp64": lambda s: to(torch.float64, s),
    "ignite": lambda s: {"model": s, "trainer": {"iteration": 5}, "optimizer": optimizer_state(optim.Adam)},
    "fairseq": lambda s: {"args": Namespace(arch="x"), "model": s, "optimizer_history": [{"num_updates": 3}]},
    "detectron2": lambda s: {"model": s, "iteration": 5, "scheduler": schedule_state()},
    "basicsr": lambda s: {"params": s, "params_ema": s},
    "net": lambda s: {"net": behind("module.", s), "acc": 93.0},
    "network": lambda s: {"network": s},
    "nested": lambda s: {"checkpoint": 1, "model": {"state_dict": behind("net.", s)}},
    "numpy scalars": lambda s: {"model": s, "acc": np.float64(71.2), "epoch": np.int64(3), "curve": np.arange(3)},
    "Counter": lambda s: {"model": s, "milestones": Counter([150, 180, 180])},
    "defaultdict": lambda s: {"model": s, "losses": defaultdict(list, a=[1.0])},
    "paths and times": lambda s: {"model": s, "at": datetime.now(timezone.utc), "out": PurePosixPath("x")},
    "SimpleNamespace": lambda s: {"model": s, "args": SimpleNamespace(lr=0.1)},
    "parameters with attributes": lambda s: {"model": s, "extra": tagged()},
    "sets and slices": lambda s: {"model": s, "done": {1, 2}, "part": slice(3), "shape": torch.Size([2])},
    "1000 classes": lambda s: s | {"fc.weight": torch.ones(1000, 64), "fc.bias": torch.ones(1000)},
    "without a classifier": lambda s: without(without(s, "fc.weight"), "fc.bias"),
    "another network": lambda s: {f"vit.encoder.{number}.weight": torch.ones(2) for number in range(122)},
    "no weights": lambda s: {"epoch": 3},
    "a whole network": lambda s: nn.Sequential(nn.Linear(2, 2)),
}  # fmt: skip
SAFETENSORS: dict[str, tuple[Callable[[State], State], dict[str, str] | None]] = {
    "safetensors": (lambda s: s, None),
    "safetensors with metadata (HF)": (lambda s: s, {"format": "pt", "note": "x"}),
    "safetensors behind a prefix (HF)": (lambda s: behind("resnet.", s), {"format": "pt"}),
}


def read_all(folder: Path) -> list[tuple[str, bool, str]]:
    """Name of the layout, whether its weights were loaded bit for bit, and what was said."""
    torch.manual_seed(0)
    state = create_model("resnet8", 10).state_dict()
    rows = []
    for name in (*LAYOUTS, *SAFETENSORS):
        path = folder / ("x.safetensors" if name in SAFETENSORS else "x.pth")
        if name in SAFETENSORS:
            make, notes = SAFETENSORS[name]
            save_file({key: value.clone() for key, value in make(state).items()}, path, notes)
        else:
            torch.save(LAYOUTS[name](state), path)
        with redirect_stderr(StringIO()) as said:
            try:
                loaded = create_model("resnet8", 10, path).state_dict()
                most = 0.01 if name in ("fp16", "bf16") else 0.0
                close = all(torch.allclose(loaded[key], state[key], rtol=most, atol=most) for key in state)
                rows.append((name, close, said.getvalue().strip().replace(f"{path}: ", "")))
            except SpotkdError as error:
                rows.append((name, False, str(error).replace(f"{path}: ", "")))
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = read_all(Path(folder))
    print("| layout | loaded | what is said |\n|---|---|---|")
    for name, loaded, said in rows:
        print(f"| {name} | {'yes' if loaded else 'no'} | {said} |")
    print(f"\n{len(rows)} layouts, {sum(loaded for _, loaded, _ in rows)} loaded; torch {torch.__version__}")


if __name__ == "__main__":
    main()
