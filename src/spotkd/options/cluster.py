"""Where the runs of a grid or a search are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .fields import option

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class ClusterOptions:
    """A Ray cluster, and what of it each run is given (engine ray).

    Args:
        address: HOST:PORT of the cluster's head, or ray://HOST:PORT; unset takes RAY_ADDRESS or the cluster that this
            machine belongs to, and starts one of this machine alone where there is none.
        cpus: processor cores for each run, its threads, whose number can change the last digits of a result.
        gpus: GPUs for each run, a share such as 0.5 too; unset takes one for each of its devices where its accelerator
            is cuda, or auto and the cluster has GPUs.
    """

    address: str | None = option(None, affects="place")
    cpus: int = option(1, affects="numerics", at_least=1)
    gpus: float | None = option(None, affects="place", at_least=0)
