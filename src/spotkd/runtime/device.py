"""The device that computes, its precision and memory layout, and defaults that depend on the machine."""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from ..cores import available_cores
from ..errors import SpotkdError, one_line


@dataclass(frozen=True)
class Device:
    """Where and how a run computes.

    Attributes:
        fabric: the device, its precision, and the other processes of the run, if there are any.
        memory_format: how networks and images are laid out in memory.
    """

    fabric: Fabric
    memory_format: torch.memory_format

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.fabric.is_global_zero

    @property
    def precision(self) -> str:
        """``32-true`` or ``bf16-mixed``."""
        return str(self.fabric.strategy.precision.precision)

    def __str__(self) -> str:
        several = f", {self.fabric.world_size} processes" * (self.fabric.world_size > 1)
        return f"{self.fabric.device.type}, {self.precision}{several}"


def choose_memory_format(channels_last: bool = True) -> torch.memory_format:
    """The layout of images and feature maps: channels last, which convolutions prefer, or contiguous."""
    return torch.channels_last if channels_last else torch.contiguous_format


def choose_precision(wanted: str, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """The precision to compute in; ``auto`` takes bfloat16 autocast where the processor has instructions for it.

    Without them bfloat16 is emulated: on a CPU with AVX2 alone a step of resnet20 took ten times as long as in
    float32.
    """
    if wanted == "auto":
        wanted = "bf16-mixed" if _computes_in_bfloat16(device) else "32"
    return "bf16-mixed" if wanted == "bf16-mixed" else "32-true"


def make_fabric(accelerator: str, precision: str, **several: Any) -> Fabric:
    """One device and its precision; ``several`` are Fabric's arguments where there are more.

    Raises:
        SpotkdError: there is no such device here.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run's summary names the precision
    try:
        fabric = Fabric(accelerator=accelerator, devices=1)
        chosen = choose_precision(precision, fabric.device)
        return Fabric(accelerator=accelerator, precision=chosen, **({"devices": 1} | several))
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise SpotkdError(f"accelerator {accelerator}: {one_line(error)}") from error


def describe_machine(device: torch.device) -> str:
    """What computes here, for people: ``AMD EPYC 7B13, 2 cores, 2 threads`` or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores, threads = available_cores(), torch.get_num_threads()
    return f"{_processor()}, {cores} core{(cores != 1) * 's'}, {threads} thread{(threads != 1) * 's'}"


def _processor() -> str:
    """The processor's name: Linux has it in a file, other systems through Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":  # these checks are private to torch; where they are absent, stay in float32
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(check() for check in checks if check is not None)
    return False
