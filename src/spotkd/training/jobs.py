"""From a configuration to a run: what ``spotkd train``, ``distill`` and ``evaluate`` do."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from ..config import (
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    ModelConfig,
    PolicyConfig,
    RunConfig,
    TrainConfig,
    data_spec,
    read_config,
)
from ..data import Dataset, Loader, load_data, make_preprocessing
from ..errors import SpotkdError, one_line
from ..folding import folded
from ..method import Method, SpotKD, Supervised
from ..models import build_model, create_model, save_weights
from ..models.weights import find_weights, read_metadata
from ..registry import PYTHON
from ..routing import STRATEGIES, scaled_bias
from ..untrusted.yaml_files import read_yaml
from .averages import broadcast_state
from .checkpoint import newest, seed_everything
from .device import choose_precision, make_fabric
from .evaluate import Scores, evaluate
from .loggers import chosen_loggers
from .loop import fit
from .optim import make_optimizer
from .prepare import check_preparation, prepare
from .processes import begin, join, launch, starts_others, together
from .run import TRAINING, Run, Summary, interval, read_summary
from .select import chosen
from .state import load_learnt
from .teacher import check_teacher

DATA_OPTIONS = (
    "limit",
    "image_size",
    "test_share",
    "streaming",
)  # what one must know to find the same test images again


def train(config: TrainConfig) -> Summary:
    """Train one network on labels; leaves ``model.safetensors`` in the run folder."""
    if starts_others(config):
        _check_numbers(config)
        return launch("train", config)
    data, fabric = _begin(config)
    network = build_model(config.model.name, len(data.classes), config.model.checkpoint, data.image_shape)
    folder = _folder(config) or f"runs/train-{data.name}-{_plain(config.model.name)}-seed{config.seed}"
    with together():
        return _run(Supervised(network), data, fabric, config, folder, config.model, "model.safetensors")


def distill(config: DistillConfig) -> Summary:
    """Distil a teacher into a student; leaves ``student.safetensors`` in the run folder.

    A teacher that the strategy trains is left there too, as ``teacher.safetensors``.
    """
    if starts_others(config):
        _check_numbers(config)
        return launch("distill", config)
    data, fabric = _begin(config)
    method = _distillation(config, data, config.quiet)
    if config.cache_teacher:
        _remember_teacher(method, data, config, fabric)
    check_preparation(method, config.preparation)
    names = (config.distiller, config.teacher.name, config.student.name, config.strategy)
    folder = _folder(config) or f"runs/{data.name}-{'-'.join(map(_plain, names))}-seed{config.seed}"
    with together():
        return _run(method, data, fabric, config, folder, config.student, "student.safetensors")


def resume(folder: str | Path, accept_changes: bool = False) -> Summary:
    """Go on with an interrupted run, whichever command began it. One that is finished is only read.

    Raises:
        SpotkdError: the folder holds no run, or nothing of it can be used.
    """
    kind = kind_of(folder)
    config = read_config(kind, Path(folder) / "config.yaml")
    config.resume, config.accept_changes = str(folder), accept_changes
    return distill(config) if isinstance(config, DistillConfig) else train(config)


def kind_of(folder: str | Path) -> type[TrainConfig] | type[DistillConfig]:
    """What a run folder holds.

    Raises:
        SpotkdError: no run.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise SpotkdError(f"{folder}: holds no run to go on with (no config.yaml)")
    content = read_yaml(path)
    return DistillConfig if isinstance(content, dict) and "teacher" in content else TrainConfig


def _folder(config: RunConfig) -> str | None:
    """The folder that the user named, if any."""
    return config.out if config.resume in (None, "auto") else config.resume


def _remember_teacher(method: SpotKD, data: Dataset, config: DistillConfig, fabric: Fabric) -> None:
    if data.augment:
        raise SpotkdError(
            "cache_teacher: the teacher sees other images in every epoch; set data.augment to false, or leave it out"
        )
    if data.train.labels is None:
        raise SpotkdError(f"cache_teacher: the images of {data.name} stream by and cannot be told apart; leave it out")
    itemsize = 2 if choose_precision(config.precision, fabric.device) == "bf16-mixed" else 4
    method.remember_teacher(len(data.train), itemsize, config.cache_teacher)
    if method.memory is not None and not config.quiet:
        print(f"teacher {config.teacher.name}: its outputs take {method.memory.gib:.3g} GiB")  # noqa: T201


def _plain(name: str) -> str:
    """A name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)


def restore(folder: str | Path) -> tuple[SpotKD, Dataset]:
    """The method of a finished distillation, with its trained student, policy and adapters, and its data set.

    Raises:
        SpotkdError: the folder holds no distillation, or its files are damaged.
    """
    config = read_config(DistillConfig, Path(folder) / "config.yaml")
    data = load_data(data_spec(config.data))
    method = _distillation(config, data, quiet=True)
    state, _ = newest(Path(folder), set_aside=False)
    if state is None or state.get("phase") != TRAINING:
        raise SpotkdError(f"{folder}: no epoch was completed there; go on with: spotkd distill --resume {folder}")
    try:
        load_learnt(method, state["method"])
    except (KeyError, RuntimeError) as error:
        raise SpotkdError(f"{folder}: its checkpoint does not fit ({one_line(error)[:300]})") from error
    return method, data


def _distillation(config: DistillConfig, data: Dataset, quiet: bool) -> SpotKD:
    if config.teacher.checkpoint is None:
        raise SpotkdError(
            "teacher.checkpoint is missing: name a run folder or a weights file; 'spotkd train' makes one"
        )
    _check_class_count(config.teacher.checkpoint, data)
    with redirect_stdout(None) if quiet else nullcontext():  # where cuts are proposed, they are printed
        teacher, student = (
            create_model(
                model.name, len(data.classes), model.checkpoint, at=_listed(model.at), image_shape=data.image_shape
            )
            for model in (config.teacher, config.student)
        )
    strategy = STRATEGIES[config.strategy]()
    if config.fold and not strategy.trains_teacher:
        teacher, _, reason = folded(teacher, data.image_shape)
        if reason is not None and not quiet:
            print(f"teacher {config.teacher.name}: BatchNorm is not folded, {reason}")  # noqa: T201  # for the person
    return SpotKD(
        teacher,
        student,
        config.distiller,
        strategy,
        image_shape=data.image_shape,
        alpha=config.alpha,
        beta=config.beta,
        temperature=config.temperature,
        standardise=config.standardise,
        options=config.options,
        spots=_pairs(config.spots),
        labels=data.train.labels,
        gamma=config.policy.gamma,
        policy_bias=_policy_bias(config, data),
        share_cost=config.policy.share_cost,
        target_share=config.policy.target_share,
        target_weight=config.policy.target_weight,
        gather=config.gather,
    )


def _listed(names: list[str] | str | None) -> list[str] | None:
    """``layer1,layer2`` as a list."""
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def _pairs(spots: list[str] | str | None) -> list[tuple[str, str]] | None:
    """``layer1:layer2,layer3:layer4`` as pairs of stage names, the student's and the teacher's."""
    pairs = [pair.partition(":") for pair in _listed(spots) or ()]
    if any(not (student and teacher) for student, _, teacher in pairs):
        raise SpotkdError(f"spots is {spots}: give pairs of stages student:teacher, as layer1:layer2,layer3:layer4")
    return [(student, teacher) for student, _, teacher in pairs] or None


def evaluate_checkpoint(config: EvaluateConfig) -> Scores:
    """Test scores of a checkpoint; model and data set default to what the file itself notes."""
    noted = read_metadata(config.checkpoint)
    own = Path(config.checkpoint) / "config.yaml"  # where a run folder is given
    names = {"model": config.model or noted.get("model"), "data": config.data or noted.get("data")}
    for key, value in names.items():
        if value is None:
            raise SpotkdError(f"{config.checkpoint}: does not note its {key}; name it with --{key}")
        if getattr(config, key) is None and str(value).startswith(PYTHON):  # the file may come from a stranger
            raise SpotkdError(f"{config.checkpoint}: notes code as its {key}; to run it, say --{key} {value}")
    described = DataConfig(str(names["data"]))
    if config.data is None:
        noted_options = noted.get("data_options") or {}
        described = replace(described, **{key: noted_options.get(key, getattr(described, key)) for key in DATA_OPTIONS})
    if config.root is not None:
        described.root = config.root
    elif own.is_file():
        described.root = str(_noted_root(own) or described.root)
    data = load_data(data_spec(described))
    _check_class_count(config.checkpoint, data)
    fabric = make_fabric(config.accelerator, config.precision)
    model = build_model(str(names["model"]), len(data.classes), config.checkpoint, data.image_shape)
    model = model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = Loader(
        data, data.test, config.batch_size, training=False, device=fabric.device, memory_format=torch.channels_last
    )
    return evaluate(model, loader, fabric, len(data.classes))


def _noted_root(path: Path) -> object:
    """The root of the data sets in a run's configuration, of whichever kind the run is."""
    try:
        return read_yaml(path)["data"]["root"]
    except (SpotkdError, KeyError, TypeError) as error:
        raise SpotkdError(f"{path}: does not name the data's root ({one_line(error)[:200]}); give --root") from error


def _begin(config: RunConfig) -> tuple[Dataset, Fabric]:
    """Check the numbers, open the data, find the device, seed everything."""
    _check_numbers(config)
    fabric = join(config)
    if config.cuda_graphs and not (config.compile and fabric.device.type == "cuda"):
        raise SpotkdError("cuda_graphs records what compile makes, on CUDA: set compile to true there, or leave it out")
    data = load_data(data_spec(config.data))
    chosen(config.select, data)  # before anything is written
    seed_everything(config.seed)
    return data, fabric


def _check_numbers(config: RunConfig) -> None:
    policy = config.policy if isinstance(config, DistillConfig) else PolicyConfig()
    lowest: dict[str, tuple[float, float]] = {  # value and bound
        "epochs": (config.epochs, 1),
        "batch_size": (config.batch_size, 1),
        "eval_batch_size": (config.eval_batch_size, 1),
        "devices": (config.devices, 1),
        "seed": (config.seed, 0),
        "skip_nonfinite": (config.skip_nonfinite, 0),
        "data.workers": (config.data.workers or 0, 0),
        "inspect_every": (config.inspect_every if isinstance(config, DistillConfig) else 0, 0),
        "optim.weight_decay": (config.optim.weight_decay, 0),
        "optim.momentum": (config.optim.momentum, 0),
        "policy.weight_decay": (policy.weight_decay, 0),
        "cache_teacher": (config.cache_teacher if isinstance(config, DistillConfig) else 0.0, 0),
    }
    finite = {
        "policy.share_cost": policy.share_cost,
        "policy.target_weight": policy.target_weight,
        "policy.gamma": policy.gamma,
        "policy.bias": 0.0 if policy.bias == "scaled" else policy.bias,
    }
    if isinstance(config, DistillConfig):
        finite |= {"alpha": config.alpha, "beta": config.beta or 0.0, "temperature": config.temperature or 0.0}
    for key, value in finite.items():
        if not math.isfinite(float(value)):
            raise SpotkdError(f"{key} is {value}: it must be a finite number")
    for key, (value, bound) in lowest.items():
        if not bound <= value < math.inf:
            raise SpotkdError(f"{key} is {value}: it must be at least {bound}")
    for key, rate in (("optim.lr", config.optim.lr), ("policy.lr", policy.lr)):
        if rate is not None and not 0 < rate < math.inf:
            raise SpotkdError(f"{key} is {rate}: it must be above 0")
    interval(config.checkpoint_every)
    chosen_loggers(config.logger)
    if isinstance(config, DistillConfig) and not 0 <= (config.min_teacher_top1 or 0.0) <= 100:
        raise SpotkdError(f"min_teacher_top1 is {config.min_teacher_top1}: it is a percentage, between 0 and 100")
    if config.seed >= 2**32:
        raise SpotkdError(f"seed is {config.seed}: it must be below 2**32")
    if config.optim.momentum >= 1:
        raise SpotkdError(f"optim.momentum is {config.optim.momentum}: it must be below 1")


def _run(
    method: Method,
    data: Dataset,
    fabric: Fabric,
    config: RunConfig,
    folder: str,
    model: ModelConfig,
    weights: str,
) -> Summary:
    if config.sync_batchnorm and fabric.world_size > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    policy = config.policy if isinstance(config, DistillConfig) else PolicyConfig()
    steps = _steps_per_epoch(config, data)
    optimizer, schedule = make_optimizer(method, config.optim, config.epochs, steps, policy.lr, policy.weight_decay)
    started_from = [model.checkpoint, config.teacher.checkpoint if isinstance(config, DistillConfig) else None]
    for checkpoint in filter(None, started_from):
        if find_weights(checkpoint).resolve() in [Path(folder).resolve() / name for name in Run.FILES]:
            raise SpotkdError(
                f"out is {folder}: {checkpoint}, which this run starts from, lies there; give another --out"
            )
    if isinstance(config, DistillConfig) and isinstance(method, SpotKD) and config.resume is None:
        check_teacher(method.teacher, data, fabric, config)
    with begin(folder, config, fabric) as run:
        if run.note is not None and fabric.is_global_zero:
            print(run.note)  # noqa: T201  # for the person
        if run.finished:
            return read_summary(run.folder)
        broadcast_state(method)
        if isinstance(config, DistillConfig) and isinstance(method, SpotKD):
            prepare(method, data, fabric, config, run)
        summary = fit(method, data, optimizer, schedule, fabric, config, run, model.name)
        if fabric.is_global_zero:
            _leave_weights(method, data, config, summary, model, weights)
            run.finish(summary)
        return summary


def _leave_weights(
    method: Method, data: Dataset, config: RunConfig, summary: Summary, model: ModelConfig, weights: str
) -> None:
    """What was trained, as files in the run folder, with what belongs to them."""
    metadata = {
        "model": model.name,
        "data": config.data.name,
        "data_options": {key: getattr(config.data, key) for key in DATA_OPTIONS},
        "classes": data.classes,
        "preprocessing": asdict(make_preprocessing(data)),
        "test_top1": summary.scores.top1,
        "protocol": summary.protocol,
    }
    save_weights(method.student, summary.folder / weights, metadata)
    if method.trained_teacher is not None and isinstance(config, DistillConfig):
        teacher = metadata | {"model": config.teacher.name}
        del teacher["test_top1"]  # the student's
        save_weights(method.trained_teacher, summary.folder / "teacher.safetensors", teacher)


def _steps_per_epoch(config: RunConfig, data: Dataset) -> int:
    return -(-len(data.train) // config.batch_size)


def _policy_bias(config: DistillConfig, data: Dataset) -> float:
    if config.policy.bias != "scaled":
        return float(config.policy.bias)
    steps = config.epochs * _steps_per_epoch(config, data)
    lr = config.optim.lr / 2 if config.policy.lr is None else config.policy.lr
    return scaled_bias(steps, lr, config.policy.weight_decay, config.optim.momentum)


def _check_class_count(checkpoint: str, data: Dataset) -> None:
    classes = read_metadata(checkpoint).get("classes")  # only files of ours note them
    if classes and len(classes) != len(data.classes):
        raise SpotkdError(f"{checkpoint}: trained on {len(classes)} classes, and {data.name} has {len(data.classes)}")
