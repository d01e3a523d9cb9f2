"""Time, arithmetic and memory of one training step: plain KD, SAKD written the plain way, SAKD as shipped.

    python benchmarks/step.py                                        # the paper's ten, resnet56 to resnet20
    python benchmarks/step.py --pair vgg13 MobileNetV2 --only at sp --rounds 3
    python benchmarks/step.py --device cuda --precision bf16-mixed
    python benchmarks/step.py --compile                              # (a) and (c) with --compile true
    python benchmarks/step.py --device cuda --cuda-graphs            # (a) and (c) with --cuda_graphs true
    python benchmarks/step.py --switches --only at sp                # (c) without each of its fast paths
    python benchmarks/step.py --profile --only at sp                 # where (c)'s time goes

- (a) plain KD as shipped, in the same precision as (c).
- (b) SAKD step by step as the paper's code has it, in float32 and the default memory layout: two optimizers, the whole
  graph of the student in the routing pass, the teacher run again from the images, samples picked by boolean index.
- (c) SAKD as shipped: one backward, the frozen twin, the teacher folded, channels last.

All three live in one process and take their steps in turn, so that a drift of the machine's speed meets all; ratios are
medians over the rounds, with minimum and maximum. Arithmetic is torch's count of convolutions and matrix products, two
operations a multiplication; the machine's peak is that of a square matrix product or of a convolution of 64 channels,
whichever is higher (the library for products may not know the processor), measured in the same run and precision.
Memory: the highest resident set of a process of its own that takes three steps of (c); on CUDA what building (c) and
its first steps add to what is allocated.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from common import (
    CLASSES,
    SHAPE,
    a_batch,
    in_turn,
    memory_of,
    peak_since,
    print_peak,
    ratios,
    start_of_peak,
    timed,
)
from spotkd import Batch, Losses, SpotKD, create_model, fold_batchnorm
from spotkd.compiling import compile_method
from spotkd.distillers.at import at_loss
from spotkd.distillers.base import match_sizes
from spotkd.distillers.nst import nst_loss
from spotkd.distillers.vid import vid_loss
from spotkd.recording import WARM_UP, RecordedSteps

SAMPLES = 50_000  # in the training set, for memories
KINDS = {  # of operations, by name
    "convolutions": {"mkldnn_convolution", "cudnn_convolution", "convolution_backward"},
    "BatchNorm": {f"{kind}_batch_norm{end}" for kind in ("native", "cudnn") for end in ("", "_backward")},
    "ReLU": {"clamp_min", "clamp_min_", "threshold_backward"},
    "additions": {"add", "add_"},
    "matrix products": {"mm", "addmm", "bmm"},
}
PAPER = ("at", "nst", "vid", "fitnet", "ft", "sp", "rkd", "pkt", "cc", "crd")
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Paths:
    """The fast paths that are taken; by default all that are shipped switched on."""

    fold: bool = True
    channels_last: bool = True
    fused: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    keep: bool = False  # the teacher's outputs, as in an epoch that looks them up

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


SHIPPED, NONE = Paths(), Paths(False, False)
SWITCHES = {
    "without folding": Paths(fold=False),
    "without channels last": Paths(channels_last=False),
    "with a fused optimizer": Paths(fused=True),
    "compiled": Paths(compile=True),
    "recorded as a CUDA graph": Paths(cuda_graphs=True),
    "recorded, with a fused optimizer": Paths(cuda_graphs=True, fused=True),
    "recorded and compiled": Paths(cuda_graphs=True, compile=True),
    "with the teacher's outputs kept": Paths(keep=True),
}


def method_of(name: str, arguments: argparse.Namespace, paths: Paths, strategy: str = "adaptive") -> SpotKD:
    torch.manual_seed(0)
    teacher, student = (create_model(network, CLASSES).to(arguments.device) for network in arguments.pair)
    labels = torch.arange(SAMPLES, device=arguments.device) % CLASSES
    teacher = fold_batchnorm(teacher, SHAPE).model if paths.fold else teacher
    method = SpotKD(teacher, student, name, strategy, image_shape=SHAPE, labels=labels, policy_bias=1.0).train()
    return method.to(arguments.device, memory_format=paths.layout)  # type: ignore[call-overload, no-any-return]


def autocast(precision: str, device: str) -> AbstractContextManager[None]:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")


def shipped(
    method: SpotKD, batch: Batch, precision: str, paths: Paths = SHIPPED, programs: ExitStack | None = None
) -> Step:
    """What the training loop does with a batch; ``programs`` ends what is compiled for it."""
    optimizer = torch.optim.SGD(method.parameter_groups(lr=1e-4), momentum=0.9, fused=paths.fused)
    batch = Batch(batch.images.contiguous(memory_format=paths.layout), batch.labels, batch.indices)

    log = partial(print, file=sys.stderr)
    if programs is not None and paths.compile:
        programs.enter_context(compile_method(method, len(batch.images), log))
    if paths.keep:
        method.cache_teacher(SAMPLES, limit=math.inf)

    def compute(batch: Batch, weight: float) -> Losses:
        with autocast(precision, batch.images.device.type):
            losses: Losses = method(batch)
        optimizer.zero_grad()
        torch.autograd.backward(losses.total * weight)
        return losses

    take = RecordedSteps(method, compute, log) if paths.cuda_graphs else compute

    def step() -> Tensor:
        losses = take(batch, 1.0)
        optimizer.step()
        return losses.total.detach()

    for _ in range(WARM_UP):  # the first steps of a run do more: what is measured is one of a later epoch
        step()
    method.start_epoch(2, 2)
    if method.teacher_cache is not None:
        method.teacher_cache.complete = True  # for this batch it is
    return step


def of_subsets(
    method: SpotKD, name: str, student: list[Tensor], teacher: list[Tensor], mask: Tensor, batch: Batch
) -> Tensor:
    """The distiller's loss from the selected samples themselves: ``n / B`` times their mean at each spot."""
    distiller = method.distiller
    assert distiller is not None
    assert batch.indices is not None
    result = mask.new_zeros(())
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        chosen = mask[:, i] > 0.5
        count = int(chosen.sum())
        if not count:
            continue
        if name == "vid":
            small_s, small_t = match_sizes(s[chosen], t[chosen])
            loss = vid_loss(distiller.regressors[i](small_s), small_t, distiller.log_scales[i]).mean()  # type: ignore[index, operator]
        elif name in ("at", "nst"):
            loss = (at_loss if name == "at" else nst_loss)(s[chosen], t[chosen]).mean()
        else:  # distillers of one spot
            those = Batch(batch.images[chosen], batch.labels[chosen], batch.indices[chosen])
            loss = distiller([s[chosen]], [t[chosen]], torch.ones(count, 1, device=mask.device), those)
        result = result + count / len(mask) * loss
    return result


def plain(method: SpotKD, name: str, batch: Batch) -> Step:
    """The step of the paper's code, with nothing saved."""
    learner = torch.optim.SGD(method.student_parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    agent = torch.optim.SGD(method.policy_parameters(), lr=5e-5, momentum=0.9, weight_decay=1e-3)
    images, labels, _ = batch

    def step() -> Tensor:
        with torch.no_grad():
            t = method.teacher.features(images)
        s = method.student.features(images)
        route = method.strategy.decide(method.policy(t[-2], s[-2])).route
        assert route is not None
        mask = route.detach()
        at_spots = [s[i] for i, _ in method.spots], [t[j] for _, j in method.spots]
        last = mask[:, -1] > 0.5
        kl = F.kl_div(F.log_softmax(s[-1][last] / 4, 1), F.softmax(t[-1][last] / 4, 1), reduction="sum")
        task = F.cross_entropy(s[-1], labels)
        loss = task + 16 * kl / len(labels) + method.beta * of_subsets(method, name, *at_spots, mask, batch)

        method.student.eval()
        x_s = x_t = images
        from_s = from_t = 0
        for i, (to_s, to_t) in enumerate([*method.spots, (len(s) - 1, len(t) - 1)]):
            h_s, h_t = method.student.run(x_s, from_s, to_s + 1), method.teacher.run(x_t, from_t, to_t + 1)
            from_s, from_t = to_s + 1, to_t + 1
            a = route[:, i].view(-1, *[1] * (h_s.dim() - 1))
            if i < len(method.spots):
                x_t = (1 - a) * method.routing.hints[i](h_s) + a * h_t
                x_s = (1 - a) * h_s + a * method.routing.antihints[i](h_t)
        routed = F.cross_entropy((1 - a) * h_s + a * h_t, labels)
        method.student.train()
        if routed.item() > task.item():
            routed = routed * method.gamma
        elif routed.item() < task.item():
            routed = routed / method.gamma
        lacking = len(labels) / 2 - torch.stack(list(route[:, -1])).sum()
        if lacking.item() > 0:
            routed = routed + lacking
        agent.zero_grad()
        torch.autograd.backward(routed, retain_graph=True)
        agent.step()
        learner.zero_grad()
        torch.autograd.backward(loss)
        learner.step()
        return loss.detach() + routed.detach()

    return step


def peaks(precision: str, device: str) -> tuple[float, float]:
    """Operations a second of a square matrix product and of a 3x3 convolution of 64 channels, the best of ten."""
    kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    size, images = (2048, 64) if device == "cpu" else (8192, 4096)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    maps, weights = (torch.randn(n, 64, d, d, device=device, dtype=kind) for n, d in ((images, 16), (64, 3)))
    maps, weights = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (maps, weights))
    product = min(timed(lambda: a @ b, device) for _ in range(10))
    convolution = min(timed(lambda: F.conv2d(maps, weights, padding=1), device) for _ in range(10))
    return 2 * size**3 / product, 2 * weights.numel() * images * 16**2 / convolution


def operations(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def compare(arguments: argparse.Namespace, batch: Batch, stack: ExitStack) -> None:
    """The table of (a), (b) and (c)."""
    device, precision = arguments.device, arguments.precision
    ours = Paths(compile=arguments.compile, cuda_graphs=arguments.cuda_graphs)
    kd = shipped(method_of("kd", arguments, ours, "always"), batch, precision, ours, stack)
    counted = replace(ours, cuda_graphs=False)
    counted_kd = shipped(method_of("kd", arguments, counted, "always"), batch, precision, counted)
    before = Batch(batch.images.contiguous(), batch.labels, batch.indices)
    product, convolution = peaks(precision, device)
    highest = max(product, convolution)
    print(f"Matrix products reach {product / 1e9:.0f} GFLOP/s, convolutions {convolution / 1e9:.0f}.\n")
    print(
        "| distiller | (a) KD, ms | (b) plain, ms | (c) shipped, ms | images/s | (c)/(a) | (c)/(b) "
        "| GFLOP (a), (b), (c) | (c)'s share of peak | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.only:
        with ExitStack() as programs:  # torch keeps few of one function, and at the end forgets them all
            held = start_of_peak(device)
            fast = shipped(method_of(name, arguments, ours), batch, precision, ours, programs)
            memory = memory_of(name) if held is None else peak_since(held)
            steps = {"a": kd, "b": plain(method_of(name, arguments, NONE), name, before), "c": fast}
            times = in_turn(steps, arguments.rounds, device)
        a, b, c = (statistics.median(times[key]) for key in "abc")
        if ours.cuda_graphs:  # a replay shows no operations
            steps |= {"a": counted_kd, "c": shipped(method_of(name, arguments, counted), batch, precision, counted)}
        flops = {key: operations(step) for key, step in steps.items()}
        print(
            f"| {name} | {a:.3g} | {b:.3g} | {c:.3g} | {1e3 * arguments.batch / c:.0f} | {ratios(times, 'c', 'a')} "
            f"| {ratios(times, 'c', 'b')} | {', '.join(f'{flops[key] / 1e9:.1f}' for key in 'abc')} "
            f"| {1e3 * flops['c'] / c / highest:.0%} | {memory:.0f} |",
            flush=True,
        )


def switches(arguments: argparse.Namespace, batch: Batch, stack: ExitStack) -> None:
    """What each fast path is worth: the step without it, or with one that is not shipped, over the shipped step."""
    print("| distiller | switch | ms | over the shipped step |\n|---|---|---|---|")
    for name in arguments.only:
        on_gpu = arguments.device == "cuda"
        variants = {"shipped": SHIPPED} | {key: x for key, x in SWITCHES.items() if on_gpu or not x.cuda_graphs}
        steps = {
            key: shipped(method_of(name, arguments, paths), batch, arguments.precision, paths, stack)
            for key, paths in variants.items()
        }
        times = in_turn(steps, arguments.rounds, arguments.device)
        for key in variants:
            middle = statistics.median(times[key])
            print(f"| {name} | {key} | {middle:.3g} | {ratios(times, key, 'shipped')} |", flush=True)


def profiles(arguments: argparse.Namespace, batch: Batch, stack: ExitStack) -> None:
    """Where the time of (c) goes: milliseconds of a step by kind of operation."""
    print(f"| distiller | all | {' | '.join(KINDS)} | the rest |\n|---|---|{'---|' * len(KINDS)}---|")
    on_gpu = arguments.device == "cuda"
    ours = Paths(compile=arguments.compile)
    for name in arguments.only:
        step = shipped(method_of(name, arguments, ours), batch, arguments.precision, ours, stack)
        for _ in range(3):
            step()
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
            for _ in range(arguments.rounds):
                step()
        times = {
            event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / arguments.rounds
            for event in seen.key_averages()
            if not on_gpu or event.key.startswith("aten::")  # kernels stand there once more by their own names
        }
        sums = [sum(times.get(f"aten::{kind}", 0) for kind in names) for names in KINDS.values()]
        whole = sum(times.values())
        print(f"| {name} | {' | '.join(f'{value:.3g}' for value in (whole, *sums, whole - sum(sums)))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=["resnet56", "resnet20"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--only", nargs="+", default=list(PAPER), choices=PAPER, metavar="DISTILLER")
    parser.add_argument("--precision", choices=["32", "bf16-mixed"], default="32", help="of (a) and (c)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="(a) and (c) compiled")
    parser.add_argument("--cuda-graphs", action="store_true", help="(a) and (c) recorded as CUDA graphs")
    parser.add_argument("--switches", action="store_true", help="compare (c) with itself, a fast path less or more")
    parser.add_argument("--profile", action="store_true", help="milliseconds of (c) by kind of operation")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batch = a_batch(SAMPLES, arguments.batch, arguments.device)
    if arguments.memory:
        ours = Paths(compile=arguments.compile)
        with ExitStack() as stack:
            step = shipped(method_of(arguments.memory, arguments, ours), batch, arguments.precision, ours, stack)
            print_peak(step, arguments.device)
        return
    print(
        f"{' to '.join(arguments.pair)}, batch {arguments.batch}, {arguments.device}, {arguments.precision}"
        f"{', compiled' * arguments.compile}{', CUDA graphs' * arguments.cuda_graphs}, "
        f"torch {torch.__version__}, {arguments.rounds} rounds."
    )
    with ExitStack() as stack:
        table = switches if arguments.switches else profiles if arguments.profile else compare
        table(arguments, batch, stack)


if __name__ == "__main__":
    main()
