"""The parts of a session, each built from the options that describe it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from typing import TypeVar

from ..committee import teachers_of
from ..cores import available_cores
from ..data import Dataset, Loader, count_batches, load_data
from ..data.hazards import damage
from ..data.spec import DataSpec
from ..distillers.mismatch import mismatch
from ..errors import SpotkdError
from ..folding import fold_batchnorm
from ..losses import Supervised
from ..method import SpotKD
from ..models import build_model, create_model
from ..models.weights import read_metadata
from ..options import DataOptions, DistillOptions, ModelOptions, RunOptions, TrainOptions
from ..options.grammar import parse_hazards, parse_loggers, parse_names, parse_spots
from ..options.values import (
    MOST_EPOCHS,
    check_dot,
    check_values,
    describe_teachers,
    epochs_for,
    learning_rate,
    milestones,
    warmup,
    with_values,
)
from ..routing import Strategy, make_strategy
from ..runs.summary import Scores
from ..runtime.device import Device, choose_memory_format
from ..runtime.process_group import connect, launched_processes
from ..runtime.random_state import seed_everything
from ..spots import check_logits
from ..stages import StagedModel
from .held_out import check_policy_images
from .loggers import check_installed
from .policy import choose_bias, choose_decay, choose_pace
from .prepare import PreparationPlan
from .select import check_patience, resolve_select
from .teacher import check_teacher, load_teacher, sample_of
from .trial import check_held_out

_DEVICES_ANYWHERE = 16  # processes that are tried even where there are few cores
AnyRun = TypeVar("AnyRun", TrainOptions, DistillOptions)


def check_run_options(options: RunOptions) -> None:
    """What can be checked before anything is opened.

    Raises:
        SpotkdError: a value makes no sense, milestones do not fit the epochs, or a logger is not installed.
    """
    check_values(options)
    for check in (milestones, warmup):
        check(options.optim, MOST_EPOCHS if options.epochs == "auto" else options.epochs)
    check_installed(parse_loggers(options.logger))
    if options.optim.dot_delta:
        check_dot(options.optim, options.compile, isinstance(options, DistillOptions))
    if isinstance(options, DistillOptions) and options.hazard and (options.mixup or options.cutmix):
        raise SpotkdError(
            "hazard: pictures that are damaged on purpose are not mixed; leave it out, or mixup and cutmix"
        )


def check_devices(options: RunOptions) -> None:
    """The number of devices must suit the batch, and BatchNorm the devices.

    Raises:
        SpotkdError: which option does not.
    """
    import torch

    if options.batch_size < 2 * options.devices:
        raise SpotkdError(
            f"batch_size is {options.batch_size}: {options.devices} devices share a batch, and need at least "
            f"{2 * options.devices} images"
        )
    most = max(_DEVICES_ANYWHERE, 4 * available_cores(), torch.cuda.device_count())
    if options.devices > most:
        raise SpotkdError(f"devices is {options.devices}: this machine takes at most {most}")
    if options.sync_batchnorm and (options.accelerator == "cpu" or not torch.cuda.is_available()):
        raise SpotkdError("sync_batchnorm is true: torch has it for CUDA devices only; leave it out")


def open_device(options: AnyRun) -> tuple[AnyRun, Device]:
    """This process's device; of several processes that were launched together, all but the first are quiet.

    Raises:
        SpotkdError: there are no such devices, or their number is not that of the processes.
    """
    processes = launched_processes()
    if processes > 1:
        if options.devices not in (1, processes):
            raise SpotkdError(
                f"devices is {options.devices}, and torchrun started {processes} processes: leave devices out"
            )
        options = replace(options, devices=processes)
        check_devices(options)
    fabric = connect(options.accelerator, options.precision)
    device = Device(fabric, choose_memory_format(options.channels_last))
    if options.cuda_graphs and (fabric.device.type != "cuda" or fabric.world_size > 1):
        raise SpotkdError("cuda_graphs records the steps of one CUDA device: leave it out elsewhere")
    return replace(options, quiet=options.quiet or not device.is_first), device


def check_sharding(method: SpotKD, options: DistillOptions, device: Device) -> None:
    """A teacher can be shared out among devices, if it stays as it is.

    Raises:
        SpotkdError: there is one device, the teacher is trained, or its passes are compiled.
    """
    if not options.shard_teacher:
        return
    if device.fabric.world_size == 1:
        raise SpotkdError("shard_teacher has no effect on one device: use several (--devices 2), or leave it out")
    if method.joint:
        raise SpotkdError("shard_teacher: this strategy trains the teacher; leave it out")
    if options.compile:
        raise SpotkdError("shard_teacher: passes that gather weights are not compiled; leave it out, or compile")


def data_spec(options: DataOptions) -> DataSpec:
    """What `data` is asked for."""
    return DataSpec(**asdict(options))


def reopen_data(options: DataOptions) -> Dataset:
    """The data set of a run that is there: it was fetched when the run began, or a stranger would have it fetched."""
    return load_data(replace(data_spec(options), download=False))


def open_data(options: RunOptions) -> Dataset:
    """The data set; the choice of an epoch must be possible on it. Seeds all generators of random numbers.

    Raises:
        SpotkdError: it is not there, or has no validation images where they are needed.
    """
    data = load_data(data_spec(options.data))
    resolve_select(options.select, data)  # before anything is written
    check_patience(options.patience, data)
    seed_everything(options.seed)
    return damage(data, parse_hazards(options.hazard), options.seed) if isinstance(options, DistillOptions) else data


def choose_epochs(options: AnyRun, data: Dataset) -> AnyRun:
    """The options with their number of epochs and their learning rate, where those were left open."""
    chosen = {"epochs": epochs_for(options, len(data.train)), "optim.lr": learning_rate(options.optim)}
    return with_values(options, chosen)


def build_supervised(options: TrainOptions, data: Dataset) -> Supervised:
    """The method of plain training."""
    model = options.model
    network = build_model(
        model.name,
        len(data.classes),
        model.checkpoint,
        data.image_shape,
        checkpoint_key=model.checkpoint_key,
        replace_head=model.replace_head,
        output=model.output,
        pretrained=model.pretrained,
    )
    check_logits(network, f"network {model.name}", data.image_shape)
    return Supervised(network)


def _make_network(model: ModelOptions, data: Dataset) -> StagedModel:
    return create_model(
        model.name,
        len(data.classes),
        model.checkpoint,
        at=parse_names(model.at),
        image_shape=data.image_shape,
        checkpoint_key=model.checkpoint_key,
        replace_head=model.replace_head,
        output=model.output,
        pretrained=model.pretrained,
    )


def build_distillation(options: DistillOptions, data: Dataset, quiet: bool) -> SpotKD:
    """The method of a distillation; unless ``quiet``, proposed cuts and what could not be folded are printed.

    Raises:
        SpotkdError: whatever does not fit.
    """
    _check_teacher_weights(options, data)
    with redirect_stdout(None) if quiet else nullcontext():
        teacher, student = (_make_network(model, data) for model in (options.teacher, options.student))
        given = (options.data.mean, options.data.std) != (None, None)
        more = [load_teacher(path, data, options.data.name, given) for path in parse_names(options.more_teachers) or ()]
    strategy, policy = make_strategy(options.strategy), options.policy
    check_held_out(options.strategy, strategy, data, options.select)
    if policy.held_out:
        check_policy_images(data, strategy.learns, strategy.trains_teacher, options.cuda_graphs)
    scaled = policy.schedule == "scaled"
    teachers = [teacher, *more]
    if options.fold and not strategy.trains_teacher:
        for place, teacher in enumerate(teachers):
            teachers[place], _, reason = fold_batchnorm(teacher, data.image_shape)
            if reason is not None and not quiet:
                print(f"teacher {options.teacher.name}: BatchNorm is not folded, {reason}")  # noqa: T201
    if options.compile and strategy.looks_ahead:
        raise SpotkdError("compile: this strategy looks a step ahead, which compiled passes cannot; leave one out")
    hazards = parse_hazards(options.hazard)
    check_hazards(hazards, strategy)
    method = SpotKD(
        teachers,
        student,
        mismatch(options.distiller) if "mismatch" in hazards else options.distiller,
        strategy,
        image_shape=data.image_shape,
        alpha=options.alpha,
        beta=options.beta,
        temperature=options.temperature,
        standardise=options.standardise,
        options=options.options,
        spots=parse_spots(options.spots),
        labels=data.train.labels,
        gamma=policy.gamma,
        policy_bias=choose_bias(
            policy.bias, scaled, _steps(options, data), _policy_lr(options), policy.weight_decay, options.optim.momentum
        ),
        pace=choose_pace(scaled, policy.every, _steps(options, data)),
        share_cost=policy.share_cost,
        target_share=policy.target_share,
        target_weight=policy.target_weight,
        gather=options.gather,
        balanced=options.balance == "auto",
    )
    method.scale_distiller(hazards.get("scale", 1.0))
    if options.compile and method.balance is not None:
        method.balance = None
        if not quiet:
            print("note: the weights are not balanced, since gradients cannot be measured inside compiled passes")  # noqa: T201
    return method


def _check_teacher_weights(options: DistillOptions, data: Dataset) -> None:
    if options.teacher.pretrained:
        raise SpotkdError(
            f"teacher.pretrained: fine-tune it on these images first: spotkd train --model {options.teacher.name} "
            "--model.pretrained true, and name that run with --teacher.checkpoint"
        )
    if options.teacher.checkpoint is None:
        raise SpotkdError(
            "teacher.checkpoint is missing: name a run folder or a weights file; 'spotkd train' makes one"
        )
    if not options.teacher.replace_head:
        check_class_count(options.teacher.checkpoint, data)


def check_hazards(hazards: Mapping[str, float], strategy: Strategy) -> None:
    """What a strategy builds upon must be there.

    Raises:
        SpotkdError: it is not.
    """
    seen = hazards.keys() & {"wrong", "subgroup", "shift"}
    if seen and strategy.trains_teacher:
        raise SpotkdError(f"hazard is {min(seen)}: this strategy trains the teacher, which would learn the damage")
    if "mismatch" in hazards and strategy.learns:
        raise SpotkdError("hazard is mismatch: this strategy grafts both networks at the spots, which must fit")


def policy_decay(options: DistillOptions, data: Dataset) -> float:
    """The policy's weight decay: as given, or scaled to the length of the run."""
    policy, steps = options.policy, _steps(options, data)
    scaled, momentum = policy.schedule == "scaled", options.optim.momentum
    return choose_decay(policy.weight_decay, scaled, steps, _policy_lr(options), momentum)


def _policy_lr(options: DistillOptions) -> float:
    return learning_rate(options.optim) / 2 if options.policy.lr is None else options.policy.lr


def _steps(options: DistillOptions, data: Dataset) -> int:
    """Of the whole run."""
    return epochs_for(options, len(data.train)) * count_batches(len(data.train), options.batch_size)


def check_class_count(checkpoint: str, data: Dataset) -> None:
    """Weights that note their classes must have as many as the data.

    Raises:
        SpotkdError: they have not.
    """
    classes = read_metadata(checkpoint).get("classes")  # only files of ours note them
    if classes and len(classes) != len(data.classes):
        raise SpotkdError(f"{checkpoint}: trained on {len(classes)} classes, and {data.name} has {len(data.classes)}")


def plan_preparation(method: SpotKD, options: DistillOptions, images: int) -> PreparationPlan:
    """How the distiller is prepared on so many training images, where it needs that.

    Raises:
        SpotkdError: an option of the preparation has no effect.
    """
    chosen, preparation = options.preparation, method.preparation
    given = [name for name in ("epochs", "lr", "checkpoint") if getattr(chosen, name) is not None]
    if preparation is None and given:
        raise SpotkdError(f"preparation.{given[0]} has no effect: this distiller is ready without preparation")
    if chosen.checkpoint is not None and len(given) > 1:
        raise SpotkdError(
            f"preparation.{given[0]} has no effect: preparation.checkpoint takes the result of another run"
        )
    names = {"distiller": options.distiller, "teacher": describe_teachers(options), "student": options.student.name}
    share = 0.0 if preparation is None else preparation.share
    epochs = max(round(epochs_for(options, images) * share), 1) if chosen.epochs is None else chosen.epochs
    return PreparationPlan(names, epochs, chosen.lr, chosen.checkpoint, options.quiet, options.skip_nonfinite)


def check_teacher_of(options: DistillOptions, method: SpotKD, data: Dataset, device: Device) -> Scores | None:
    """See :func:`.teacher.check_teacher`."""
    loader = Loader(
        data,
        sample_of(data.test),
        options.eval_batch_size,
        training=False,
        device=device.fabric.device,
        memory_format=device.memory_format,
        workers=options.data.workers,
    )
    checkpoints = [str(options.teacher.checkpoint), *(parse_names(options.more_teachers) or ())]
    scores = [
        check_teacher(
            teacher,
            loader,
            len(data.classes),
            device,
            checkpoint=checkpoint,
            data_name=options.data.name,
            min_top1=options.min_teacher_top1,
            warn=(lambda _: None) if options.quiet else print,
        )
        for teacher, checkpoint in zip(teachers_of(method.teacher), checkpoints, strict=True)
    ]
    return scores[0]
