"""From options to a session. Options end here: nothing that a session is made of has heard of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..compiling import compile_method
from ..data import Dataset, Loader, Mixing, count_batches
from ..errors import SpotkdError
from ..escaping import escape_shell
from ..losses import Method
from ..method import SpotKD
from ..models.weights import find_weights
from ..options import DistillOptions, ModelOptions, RunOptions, TrainOptions
from ..options.grammar import parse_interval, parse_loggers, parse_names
from ..options.parsing import parse_options
from ..options.values import (
    changes_of_run,
    epochs_for,
    flatten,
    learning_rate,
    milestones,
    warmup,
    with_values,
)
from ..runs import layout
from ..runs.folder import RunFolder
from ..runs.follower import RunFollower, share_state
from ..runs.writer import RunWriter
from ..runtime.device import Device
from ..runtime.sharding import shard_network
from .build import policy_decay
from .decision_log import WATCHED_IMAGES, DecisionLog
from .gradients import Gradients, RecordedGradients
from .guard import Guard
from .held_out import HeldOutBatches
from .hooks import Hook, Start
from .loggers import Loggers
from .optim import make_optimizer
from .progress import Notes, Progress
from .select import Selection
from .session import Schedule, Session, TrainingData
from .state import changing_buffers
from .teacher_files import CacheKeeper
from .trained import AveragedNetwork, TrainedNetwork
from .trial import TrialLog


def default_folder(options: TrainOptions | DistillOptions, data: Dataset) -> str:
    """The folder of the run: the one that the user names, or one under ``runs/`` from the names and the seed."""
    named = options.out if options.resume in (None, "auto") else options.resume
    if named:
        return named
    if isinstance(options, DistillOptions):
        more = [Path(path).resolve().name for path in parse_names(options.more_teachers) or ()]
        names = [options.distiller, options.teacher.name, *more, options.student.name, options.strategy]
        names += [options.hazard] if isinstance(options.hazard, str) else options.hazard or []
        return f"runs/{_as_folder_name(data.name)}-{'-'.join(map(_as_folder_name, names))}-seed{options.seed}"
    return f"runs/train-{_as_folder_name(data.name)}-{_as_folder_name(options.model.name)}-seed{options.seed}"


def _as_folder_name(name: str) -> str:
    """A name as part of a folder's name; of a path the last part."""
    source, colon, rest = name.partition(":")
    last = Path(rest).resolve().name if source == "folder" else rest
    return re.sub(r"[^A-Za-z0-9_.]+", "-", source + colon + last)


def trained_model(options: TrainOptions | DistillOptions) -> ModelOptions:
    """The network that is trained."""
    return options.student if isinstance(options, DistillOptions) else options.model


def check_sources(folder: str, options: TrainOptions | DistillOptions) -> None:
    """The weights that a run starts from may not be files that it writes.

    Raises:
        SpotkdError: they are.
    """
    teachers: list[str | None] = []
    if isinstance(options, DistillOptions):
        teachers = [options.teacher.checkpoint, *(parse_names(options.more_teachers) or ())]
    for checkpoint in filter(None, [trained_model(options).checkpoint, *teachers]):
        if find_weights(checkpoint).resolve() in [Path(folder).resolve() / name for name in layout.FILES]:
            raise SpotkdError(
                f"out is {folder}: {checkpoint}, which this run starts from, lies there; give another --out"
            )


@contextmanager
def open_run(folder: str, options: TrainOptions | DistillOptions, device: Device) -> Iterator[RunWriter]:
    """The run's folder; of several processes the first one opens it, and sends the others what it found there.

    Raises:
        SpotkdError: the folder already holds a run and neither overwriting nor resuming was asked for, or that run has
            other options; another process is running there; the folder cannot be made.
    """
    run = open_writer(folder, options) if device.is_first else RunFollower(folder)
    if device.fabric.world_size > 1:
        share_state(run)
    with run:
        yield run


def open_writer(folder: str | Path, options: TrainOptions | DistillOptions) -> RunWriter:
    there = RunFolder(folder)
    changes: list[str] = []
    resumes = options.resume is not None and there.exists
    if options.resume not in (None, "auto") and not there.exists:
        raise SpotkdError(f"{folder}: holds no run to resume (no {layout.CONFIG})")
    if resumes:
        changes = _changes(there, options)
        if changes and not options.accept_changes:
            if options.resume == "auto" and options.overwrite:
                resumes = False
            else:
                raise SpotkdError(
                    f"{folder}: was started with other options: {'; '.join(changes[:8])}; start over (--out, "
                    "--overwrite true), or resume all the same: --accept_changes true"
                )
    begins = options.overwrite if not resumes else not there.is_begun  # and removes what an earlier run left
    if begins and there.files and not there.is_ours:
        raise SpotkdError(
            f"{folder}: holds {there.files[0]}, and is no run of spotkd, so nothing there is overwritten; give another "
            "--out"
        )
    if there.files and not (resumes or options.overwrite):
        raise SpotkdError(
            f"{folder}: already holds a run ({there.files[0]}); give another --out, replace it: --overwrite true, "
            "or resume it: --resume auto"
        )
    return RunWriter(
        folder,
        asdict(options),
        "distill" if isinstance(options, DistillOptions) else "train",
        resumes=resumes,
        reopens=resumes and bool(changes),
        check=lambda saved: _check_options(folder, saved, options),
        logger_folders=there.logger_folders,
        save_every=parse_interval(options.checkpoint_every),
    )


def noted_normalisation(folder: str, options: TrainOptions | DistillOptions) -> dict[str, Any] | None:
    """``data.mean`` and ``data.std`` of the run that is to be resumed in a folder; None where none will be.

    What the options give comes first.
    """
    there = RunFolder(folder)
    if options.resume is None or not there.exists:
        return None
    was, given = there.options.data, options.data
    noted = {"data.mean": given.mean or was.mean, "data.std": given.std or was.std}
    starts_over = options.resume == "auto" and options.overwrite
    return None if starts_over and _changes(there, with_values(options, noted)) else noted


def _check_options(folder: str | Path, saved: Mapping[str, Any], options: TrainOptions | DistillOptions) -> bool:
    """Whether the options differ from those in a checkpoint, which are the run's, whatever ``config.yaml`` says now.

    Raises:
        SpotkdError: they do, and nobody accepted that.
    """
    changes = changes_of_run(parse_options(type(options), saved, f"{folder}: its checkpoint"), options)
    if changes and not options.accept_changes:
        raise SpotkdError(
            f"{folder}: was trained with other options than {layout.CONFIG} or this command says: "
            f"{'; '.join(changes[:8])}; resume all the same: --accept_changes true"
        )
    return bool(changes)


def _changes(there: RunFolder, options: TrainOptions | DistillOptions) -> list[str]:
    """In what the options differ from those of the run in the folder.

    Raises:
        SpotkdError: another command made that run, or its options are damaged.
    """
    if not isinstance(there.options, type(options)):
        again = escape_shell(["spotkd", there.kind, "--resume", str(there.path)])
        raise SpotkdError(f"{there.path}: is a run of 'spotkd {there.kind}': {again}")
    return changes_of_run(there.options, options)


def assemble(
    options: TrainOptions | DistillOptions, method: Method, data: Dataset, device: Device, run: RunWriter
) -> Session:
    """A session of everything that was built; nothing after this knows the options.

    Raises:
        SpotkdError: milestones that do not fit the epochs.
    """
    if options.sync_batchnorm and device.fabric.world_size > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    method.label_smoothing = options.label_smoothing
    optimizer, schedule = _optimizer(options, method, data, device)
    method.to(memory_format=device.memory_format)  # type: ignore[call-overload]
    if isinstance(options, DistillOptions) and isinstance(method, SpotKD) and options.shard_teacher:
        shard_network(method.teacher, device.fabric.device, device.fabric.world_size)
    trained = TrainedNetwork(method.student)
    if options.ema:
        trained = AveragedNetwork(method.student, options.ema, device.fabric.device)
    networks = {"student": trained.network}
    if method.trained_teacher is not None:
        networks["teacher"] = method.trained_teacher
    selection = Selection(options.select, data, networks, options.patience)
    images = _loaders(options, data, selection, device)
    if isinstance(method, SpotKD) and images.train.view is not None:
        method.teacher_view = images.train.teacher_images
    if isinstance(options, DistillOptions) and isinstance(method, SpotKD) and options.policy.held_out and data.val:
        common = _loader_options(options, device)
        method.held_out = HeldOutBatches(Loader(data, data.val, options.batch_size, training=True, **common))
    model = trained_model(options).name
    hooks = _hooks(options, method, images, optimizer.param_groups, device, run)
    gradients: Any = Gradients
    if options.cuda_graphs:
        note = next(hook for hook in hooks if isinstance(hook, Progress)).note
        gradients = partial(RecordedGradients, method=method, log=note)
    return Session(model, method, trained, images, optimizer, schedule, selection, device, run, hooks, gradients)


def _optimizer(
    options: TrainOptions | DistillOptions, method: Method, data: Dataset, device: Device
) -> tuple[Any, Schedule]:
    optim, epochs = options.optim, epochs_for(options, len(data.train))
    policy = {}
    if isinstance(options, DistillOptions):
        policy = {"policy_lr": options.policy.lr, "policy_weight_decay": policy_decay(options, data)}
    optimizer, rates = make_optimizer(
        method,
        epochs=epochs,
        steps_per_epoch=count_batches(len(data.train), options.batch_size),
        kind=optim.kind,
        lr=learning_rate(optim),
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        milestones=milestones(optim, epochs),
        warmup=warmup(optim, epochs),
        clip=optim.clip,
        dot_delta=optim.dot_delta,
        fused=device.fabric.device.type == "cuda",
        **policy,  # type: ignore[arg-type]  # of DistillOptions' own types
    )
    return optimizer, Schedule(epochs, rates)


def _loader_options(options: RunOptions, device: Device) -> dict[str, Any]:
    """What all loaders of a run have in common."""
    fabric = device.fabric
    return {
        "seed": options.seed,
        "device": fabric.device,
        "memory_format": device.memory_format,
        "workers": options.data.workers,
        "rank": fabric.global_rank,
        "processes": fabric.world_size,
    }


def _loaders(options: RunOptions, data: Dataset, selection: Selection, device: Device) -> TrainingData:
    common = _loader_options(options, device)
    split, watched = selection.watched
    mixes = options.mixup or options.cutmix
    mixing = Mixing(len(data.classes), options.mixup, options.cutmix) if mixes else None
    crops: dict[str, Any] = {}
    if isinstance(options, DistillOptions):
        crops = {"crops": options.cache.crops, "crop_seed": options.cache.seed}
    return TrainingData(
        dataset=data,
        train=Loader(data, data.train, options.batch_size, training=True, mixing=mixing, **crops, **common),
        watched=Loader(data, watched, options.eval_batch_size, training=False, **common),
        watched_split=split,
        test=Loader(data, data.test, options.eval_batch_size, training=False, **common),
    )


def _hooks(
    options: TrainOptions | DistillOptions,
    method: Method,
    images: TrainingData,
    groups: list[dict[str, Any]],
    device: Device,
    run: RunWriter,
) -> list[Hook]:
    """In the order in which they are called."""
    train, split = images.train, images.watched_split
    parameters = [parameter for group in groups for parameter in group["params"]]
    epochs = epochs_for(options, len(images.dataset.train))
    progress = Progress(trained_model(options).name, epochs, len(train), split, options.quiet)
    loggers = Loggers(parse_loggers(options.logger), run, flatten(asdict(options)))
    hooks: list[Hook] = [
        Guard(run, len(train), options.skip_nonfinite, parameters, changing_buffers(method)),
        loggers,
    ]
    if isinstance(options, DistillOptions) and isinstance(method, SpotKD) and method.strategy.tells_samples_apart:
        hooks += _decision_log(options, method, images.dataset, device, loggers)
    if isinstance(method, SpotKD) and method.teacher_cache is not None:
        hooks.append(CacheKeeper(method.teacher_cache))
    if isinstance(method, SpotKD) and method.strategy.needs_held_out:
        hooks.append(TrialLog(method, run))
    hooks += [progress, _notes(options, method, progress)]
    if options.compile:
        shard = train.shard(1, 0)  # what this process has of a full batch
        hooks.append(Compiled(method, shard.stop - shard.start, progress))
    return hooks


def _notes(options: TrainOptions | DistillOptions, method: Method, progress: Progress) -> Notes:
    asked = isinstance(options, DistillOptions) and options.policy.target_share is not None
    remedy = "--balance auto bounds it"
    if isinstance(options, DistillOptions) and options.balance == "auto":
        remedy += " without --compile"
    balanced = isinstance(method, SpotKD) and method.balance is not None
    return Notes(progress.note, advises_share=not asked, bound=None if balanced else remedy)


def _decision_log(
    options: DistillOptions, method: SpotKD, data: Dataset, device: Device, loggers: Loggers
) -> Iterator[Hook]:
    """The log of the policy's decisions, where it is asked for."""
    if options.inspect_every:
        # Every process looks at all of the images, and the first one notes.
        alone = _loader_options(options, device) | {"rank": 0, "processes": 1}
        watched = data.limited(min(WATCHED_IMAGES, len(data.train))).train
        loader = Loader(data, watched, options.eval_batch_size, training=False, **alone)
        show = loggers.show_images if loggers.can_show_images else None
        yield DecisionLog(method, loader, options.inspect_every, loggers.run, show)


class Compiled(Hook):
    """The networks' passes as programs of ``torch.compile`` while the training lasts, see :mod:`spotkd.compiling`."""

    def __init__(self, method: Method, size: int, progress: Progress) -> None:
        self._programs = compile_method(method, size, progress.note)

    def on_start(self, start: Start) -> None:
        self._programs.__enter__()

    def on_stop(self, error: BaseException | None) -> None:
        self._programs.__exit__(None, None, None)
