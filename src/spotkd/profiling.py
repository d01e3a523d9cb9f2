"""Which student to choose: size, arithmetic, speed and memory of networks, and what a step of distillation costs.

Times are measured on this machine, everything in turn round by round, so that a drift of its speed meets all; medians
with the lowest and the highest. Arithmetic is PyTorch's count of convolutions and matrix products, two operations a
multiplication. Memory is that of the activations: of all tensors that a forward pass makes, as many bytes as are alive
at once.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .config import ProfileConfig
from .data import DataSpec, load_data
from .distillers import DISTILLERS
from .errors import SpotkdError
from .files import atomic_write
from .folding import fold_batchnorm
from .method import SpotKD
from .models import build_model, create_model
from .routing import STRATEGIES
from .runtime.device import describe_machine, make_fabric
from .stages import Batch, Shape
from .wording import cell

SAMPLES = 50_000  # training images, for distillers that keep a memory of them, where no data set is named
WARM_UP = 2  # rounds that do not count
Run = Callable[[], object]


class Spread(NamedTuple):
    """Of ``n`` measurements."""

    median: float
    lowest: float
    highest: float
    n: int

    def __str__(self) -> str:
        median, lowest, highest = (f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in self[:3])
        return f"{median} ({lowest} to {highest})"


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class NetworkProfile:
    """One network, whole and in eval mode.

    Attributes:
        name: as on the command line.
        parameters: their number.
        flops: operations for one image, two a multiplication.
        one: milliseconds for one image.
        batch: milliseconds for a batch.
        activations: bytes of a batch's activations that are alive at once.
    """

    name: str
    parameters: int
    flops: int
    one: Spread
    batch: Spread
    activations: int


@dataclass(frozen=True)
class StepCost:
    """A training step of one distiller and strategy.

    Attributes:
        student: which it trains.
        distiller: what is distilled.
        strategy: where.
        milliseconds: of a step; None where the distiller does not fit the pair.
        to_kd: times a step of plain KD in the same round.
        problem: why it does not fit.
    """

    student: str
    distiller: str
    strategy: str
    milliseconds: Spread | None
    to_kd: Spread | None
    problem: str | None = None


@dataclass(frozen=True)
class Profile:
    """All that was measured, and on what. The first of the networks is the teacher."""

    machine: str
    device: str
    precision: str
    torch: str
    image_shape: tuple[int, ...]
    classes: int
    batch_size: int
    networks: list[NetworkProfile]
    steps: list[StepCost]


def profile(config: ProfileConfig, progress: Callable[[str], None] = lambda _: None) -> Profile:
    """Measure a teacher and its students.

    Args:
        config: the options.
        progress: is told what is being measured.

    Raises:
        SpotkdError: an unknown name, a number that is too small.
    """
    for key, value in (("batch_size", config.batch_size), ("rounds", config.rounds), ("classes", config.classes)):
        if value < 1:
            raise SpotkdError(f"{key} is {value}: it must be at least 1")
    shape: Shape = tuple(config.image_shape)
    classes, samples = config.classes, SAMPLES
    if config.data is not None:
        data = load_data(DataSpec(config.data))
        shape, classes, samples = data.image_shape, len(data.classes), len(data.train)
    if len(shape) != 3 or min(shape) < 1:
        raise SpotkdError(f"image_shape is {list(shape)}: give channels, height and width, as [3,32,32]")
    distillers = [] if config.distillers == "none" else _chosen(config.distillers, DISTILLERS)
    strategies = _chosen(config.strategies, STRATEGIES)
    names = list(dict.fromkeys([config.teacher, *config.students]))
    fabric = make_fabric(config.accelerator, config.precision)
    progress("networks")
    networks = _networks(names, classes, shape, config, fabric.device)
    steps: list[StepCost] = []
    for student in dict.fromkeys(config.students):
        make = _Methods(config.teacher, student, classes, shape, samples, fabric)
        batch = make.batch(config.batch_size)
        plain = make.step("kd", "always", batch)
        for distiller in distillers:
            progress(f"{student}: {distiller}")
            steps += _step_costs(make, distiller, strategies, plain, batch, config.rounds)
    return Profile(
        describe_machine(fabric.device),
        str(fabric.device),
        str(fabric.strategy.precision.precision),
        torch.__version__,
        shape,
        classes,
        config.batch_size,
        networks,
        steps,
    )


def _chosen(names: str, registry: Any) -> list[str]:
    """``at,kd`` as a list of known names; all of them for ``all``."""
    if names == "all":
        return list(registry)
    listed = [name.strip() for name in names.split(",")]
    for name in listed:
        registry[name]  # an unknown one is told with the near ones
    return listed


def _networks(
    names: Sequence[str], classes: int, shape: Shape, config: ProfileConfig, device: torch.device
) -> list[NetworkProfile]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(config.batch_size, *shape, generator=generator).to(device, memory_format=torch.channels_last)
    networks: dict[str, nn.Module] = {}
    for name in names:
        model = build_model(name, classes, image_shape=shape).eval()
        networks[name] = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(name: str, some: Tensor) -> Run:
        return torch.inference_mode()(lambda: networks[name](some))

    runs = {(name, size): forward(name, images[:size]) for name in names for size in (1, config.batch_size)}
    times = in_turn(runs, config.rounds, device)
    return [
        NetworkProfile(
            name,
            sum(parameter.numel() for parameter in networks[name].parameters()),
            operations(networks[name], images[:1]),
            spread(times[name, 1]),
            spread(times[name, config.batch_size]),
            activations(networks[name], images),
        )
        for name in names
    ]


def in_turn(runs: dict[Any, Run], rounds: int, device: torch.device) -> dict[Any, list[float]]:
    """Milliseconds of every one, ``rounds`` times, in turn, after some that warm up."""
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for number in range(rounds + WARM_UP):
        for key, run in runs.items():
            started = time.perf_counter()
            run()
            _wait_for(device)
            if number >= WARM_UP:
                times[key].append(1e3 * (time.perf_counter() - started))
    return times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def operations(network: nn.Module, images: Tensor) -> int:
    """Additions and multiplications of convolutions and matrix products in a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


def activations(network: nn.Module, images: Tensor) -> int:
    """The most bytes of tensors made by a forward pass without a graph that are alive at once."""
    with torch.no_grad(), _Alive([images, *network.parameters(), *network.buffers()]) as alive:
        network(images)
    return int(alive.most)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of the storages that operations make, from their making to their end."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in given}
        self._now, self.most = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


@dataclass(frozen=True)
class _Methods:
    """Makes training steps of one pair, as the training loop takes them."""

    teacher: str
    student: str
    classes: int
    shape: Shape
    samples: int
    fabric: Fabric

    def batch(self, size: int) -> Batch:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(size, *self.shape, generator=generator)
        labels, indices = torch.arange(size) % self.classes, torch.arange(size) % self.samples
        device = self.fabric.device
        return Batch(images.to(device, memory_format=torch.channels_last), labels.to(device), indices.to(device))

    def step(self, distiller: str, strategy: str, batch: Batch) -> Run:
        torch.manual_seed(0)
        with redirect_stdout(None):  # proposed cuts
            teacher, student = (
                create_model(name, self.classes, image_shape=self.shape) for name in (self.teacher, self.student)
            )
        where = STRATEGIES[strategy]()
        if not where.trains_teacher:
            teacher = fold_batchnorm(teacher, self.shape).model
        labels = torch.arange(self.samples) % self.classes
        method = SpotKD(teacher, student, distiller, where, image_shape=self.shape, labels=labels).train()
        method = method.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9)

        def step() -> None:
            with self.fabric.autocast():
                total = method(batch).total
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()

        return step


def _tried(make: _Methods, distiller: str, strategy: str, batch: Batch) -> Run | SpotkdError:
    """A step that has been taken once, or why it cannot be."""
    try:
        step = make.step(distiller, strategy, batch)
        step()
    except SpotkdError as error:
        return error
    return step


def _step_costs(
    make: _Methods, distiller: str, strategies: Sequence[str], plain: Run, batch: Batch, rounds: int
) -> Iterator[StepCost]:
    """The steps of one distiller with each strategy."""
    runs: dict[str | None, Run] = {None: plain}
    problems: dict[str, str] = {}
    for strategy in strategies:
        made = _tried(make, distiller, strategy, batch)
        if isinstance(made, SpotkdError):
            problems[strategy] = str(made)
        else:
            runs[strategy] = made
    times = in_turn(runs, rounds, make.fabric.device) if len(runs) > 1 else {}
    for strategy in strategies:
        if strategy in problems:
            yield StepCost(make.student, distiller, strategy, None, None, problems[strategy])
            continue
        of_kd = [own / kd for own, kd in zip(times[strategy], times[None], strict=True)]
        yield StepCost(make.student, distiller, strategy, spread(times[strategy]), spread(of_kd))


Table = tuple[list[str], list[list[str]]]  # the head, and the rows


def network_table(result: Profile) -> Table:
    """A row a network, the teacher first, with how much smaller than the teacher it is."""
    teacher = result.networks[0]
    head = [
        "network",
        "parameters",
        "GFLOP an image",
        "ms for 1",
        f"ms for {result.batch_size}",
        "activations, MiB",
        "times fewer parameters",
        "times fewer GFLOP",
    ]
    return head, [
        [
            network.name,
            f"{network.parameters / 1e6:.3g} M",
            f"{network.flops / 1e9:.3g}",
            str(network.one),
            str(network.batch),
            f"{network.activations / 2**20:.3g}",
            f"{teacher.parameters / max(1, network.parameters):.3g}",
            f"{teacher.flops / max(1, network.flops):.3g}",
        ]
        for network in result.networks
    ]


def step_table(result: Profile) -> Table:
    """A row a student, distiller and strategy."""
    return ["student", "distiller", "strategy", "ms a step", "times plain KD"], [
        [step.student, step.distiller, step.strategy, str(step.milliseconds), str(step.to_kd)]
        if step.problem is None
        else [step.student, step.distiller, step.strategy, "-", f"does not fit: {step.problem}"]
        for step in result.steps
    ]


def write_json(result: Profile, path: str) -> None:
    """All of it."""
    content = asdict(result)
    for entry in (*content["networks"], *content["steps"]):
        entry.update({key: value._asdict() for key, value in entry.items() if isinstance(value, Spread)})
    with _writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(result: Profile, path: str) -> None:
    """A row a measurement."""
    rows: list[tuple[str, str, str, str, Spread]] = []
    for network in result.networks:
        quantities = {
            "parameters": spread([network.parameters]),
            "flops": spread([network.flops]),
            "activation_bytes": spread([network.activations]),
            "ms_for_1": network.one,
            f"ms_for_{result.batch_size}": network.batch,
        }
        rows += [(network.name, "", "", quantity, numbers) for quantity, numbers in quantities.items()]
    for step in result.steps:
        if step.milliseconds is not None and step.to_kd is not None:
            rows.append((step.student, step.distiller, step.strategy, "ms_a_step", step.milliseconds))
            rows.append((step.student, step.distiller, step.strategy, "times_plain_kd", step.to_kd))
    with _writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("network", "distiller", "strategy", "quantity", "median", "lowest", "highest", "n"))
        writer.writerows((*map(cell, words), *numbers) for *words, numbers in rows)


@contextmanager
def _writing(path: str) -> Iterator[Path]:
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be written ({error.strerror or error})") from error
