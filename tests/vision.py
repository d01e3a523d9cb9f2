"""torchvision and timm for the tests; an import error where they are missing, so that no test is skipped unseen.

torchvision registers Python code for its compiled ``nms`` when it is imported. Where the compiled part does not load,
because torch is of another build (a CPU wheel, say), that fails with "operator torchvision::nms does not exist". No
network that classifies images uses the operator, so for the tests a declaration of it is enough. The product never does
this: there, the failing import is told on one line.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # the declarations last as long as this object


def _import_torchvision() -> Any:
    try:
        return import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return import_module("torchvision")


torchvision: Any = _import_torchvision()
timm: Any = import_module("timm")
