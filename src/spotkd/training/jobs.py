"""What ``spotkd train``, ``distill`` and ``evaluate`` do, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from ..data import Dataset, Loader, count_batches, load_data, make_preprocessing, normalised_with, read_preprocessing
from ..errors import RunError, SpotkdError, one_line, refused_memory_as_error
from ..escaping import escape_lines, escape_shell, escape_terminal
from ..formatting import fold
from ..losses import Method
from ..method import SpotKD
from ..models import build_model
from ..models.weights import read_metadata
from ..options import DataOptions, DistillOptions, EvaluateOptions, TrainOptions
from ..options.grammar import parse_hazards
from ..options.values import (
    check_values,
    describe_teachers,
    epochs_for,
    flatten,
    learning_rate,
    options_of_test_images,
    test_image_keys,
    with_values,
)
from ..registry import PYTHON
from ..runs import layout
from ..runs.folder import RunFolder
from ..runs.summary import Scores, Summary
from ..runs.writer import TRAINING, RunWriter
from ..runtime.collectives import broadcast_state
from ..runtime.device import Device, choose_memory_format, make_fabric
from ..runtime.process_group import leaving_process_group
from ..untrusted.names import looking
from .announcement import describe_hazard, describe_start, describe_training, format_number
from .assemble import assemble, check_sources, default_folder, noted_normalisation, open_run, trained_model
from .build import (
    AnyRun,
    build_distillation,
    build_supervised,
    check_class_count,
    check_run_options,
    check_sharding,
    check_teacher_of,
    choose_epochs,
    data_spec,
    open_data,
    open_device,
    plan_preparation,
    reopen_data,
)
from .caching import cache_teacher
from .evaluation import evaluate
from .launch import launch, needs_launch
from .loop import fit
from .normalisation import adopt_normalisation, normalised_as_noted
from .prepare import prepare
from .session import Session
from .state import load_learned_state


def train(options: TrainOptions) -> Summary:
    """Train one network on labels; leaves ``model.safetensors`` in the run folder."""
    check_run_options(options)
    if needs_launch(options):
        return launch("train", options)
    options, device = open_device(options)
    data = open_data(options)
    options, data = _adopt_normalisation(choose_epochs(options, data), data)
    method = build_supervised(options, data)
    with leaving_process_group():
        return _run(options, method, data, device)


def distill(options: DistillOptions) -> Summary:
    """Distil a teacher into a student; leaves ``student.safetensors`` in the run folder.

    A teacher that the strategy trains is left there too, as ``teacher.safetensors``.
    """
    check_run_options(options)
    if needs_launch(options):
        return launch("distill", options)
    options, device = open_device(options)
    data = open_data(options)
    options, data = _adopt_normalisation(choose_epochs(options, data), data)
    method = build_distillation(options, data, options.quiet)
    check_sharding(method, options, device)
    cache_teacher(method, data, options, device)
    # Which options have an effect is known before the teacher is looked at.
    plan_preparation(method, options, len(data.train))
    with leaving_process_group():
        return _run(options, method, data, device)


def resume(folder: str | Path, accept_changes: bool = False, trust: bool = False) -> Summary:
    """Resume an interrupted run, whichever command began it. One that is finished is only read.

    Args:
        folder: of the run.
        accept_changes: resume although its options are no longer those that it was started with.
        trust: open the code, networks and data sets that the folder names, though it was made elsewhere.

    Raises:
        SpotkdError: the folder holds no run, or nothing of it can be used.
    """
    run = RunFolder(folder)
    if not run.exists:
        raise RunError(f"{folder}: holds no run to resume (no {layout.CONFIG})")
    data = replace(run.options.data, download=False)  # it was fetched, or a stranger would have it fetched
    options = replace(run.options, resume=str(folder), accept_changes=accept_changes, data=data)
    with nullcontext() if trust or run.is_own else looking():
        return distill(options) if isinstance(options, DistillOptions) else train(options)


def _adopt_normalisation(options: AnyRun, data: Dataset) -> tuple[AnyRun, Dataset]:
    """Options and data set with the mean and deviation that the weights want, unless the user has given others."""
    given = options.data
    if None not in (given.mean, given.std):
        return options, data
    noted = noted_normalisation(default_folder(options, data), options)
    if noted is not None:  # a run that is resumed keeps its own, whatever would be chosen today
        return with_values(options, noted), normalised_with(data, noted["data.mean"], noted["data.std"])
    model = trained_model(options)
    teacher = options.teacher.checkpoint if isinstance(options, DistillOptions) else None
    chosen = adopt_normalisation(
        data, given.name, model.name, model.pretrained, model.checkpoint, teacher, options.quiet
    )
    if chosen is data:
        return options, data
    chosen = normalised_with(chosen, given.mean, given.std)  # one of both may have been given
    return with_values(options, {"data.mean": list(chosen.mean), "data.std": list(chosen.std)}), chosen


def _run(options: TrainOptions | DistillOptions, method: Method, data: Dataset, device: Device) -> Summary:
    folder = default_folder(options, data)
    check_sources(folder, options)
    with open_run(folder, options, device) as run, refused_memory_as_error(run.last_good):
        if run.note is not None and device.is_first:
            print(escape_lines(run.note))  # noqa: T201  # for the person
        if run.finished:
            return RunFolder(run.folder).result
        session = assemble(options, method, data, device, run)
        scores = None
        if isinstance(options, DistillOptions) and isinstance(method, SpotKD) and run.state is None:
            scores = check_teacher_of(options, method, data, device)
        if not options.quiet:
            balanced = isinstance(method, SpotKD) and method.balance is not None
            for line in _describe_choices(options, balanced, data, device, scores):
                print(fold(escape_terminal(line)))  # noqa: T201  # for the person
        broadcast_state(session.method)
        if isinstance(options, DistillOptions) and isinstance(session.method, SpotKD):
            plan = plan_preparation(session.method, options, len(data.train))
            prepare(session.method, session.data.train, device, run, plan)
        summary = fit(session)
        if device.is_first:
            _save_networks(options, session, data, run, summary)
            run.finish(summary)
        return summary


def _describe_choices(
    options: TrainOptions | DistillOptions, balanced: bool, data: Dataset, device: Device, teacher: Scores | None
) -> Iterator[str]:
    """Two lines before the first step: what was loaded; what was chosen, and which options choose otherwise."""
    images = len(data.train)
    epochs, steps = epochs_for(options, images), count_batches(images, options.batch_size)
    yield describe_start(data, device, epochs, steps)
    if images == steps * options.batch_size + 1:
        yield "in every epoch one image is left out: a batch of one has no statistics (--batch_size)"
    rate = describe_training(learning_rate(options.optim), flatten(asdict(options)))
    if not isinstance(options, DistillOptions):
        yield f"{options.model.name} on labels; {rate} (--epochs, --optim.schedule, --optim.lr)"
        return
    weight = "balanced" if balanced else "as published" if options.beta is None else f"{options.beta:g}"
    known = ""
    if teacher is not None:
        known = f", right on {teacher.top1:.1f} % of {format_number(teacher.images)} test images,"
    method = f"{options.distiller}, {options.strategy}, weight {weight}"
    choices = "--distiller, --strategy, --balance, --epochs, --optim.schedule, --optim.lr"
    yield f"{describe_teachers(options)}{known} teaches {options.student.name}: {method}; {rate} ({choices})"
    if options.hazard:
        yield describe_hazard(parse_hazards(options.hazard), data)


def _save_networks(
    options: TrainOptions | DistillOptions, session: Session, data: Dataset, run: RunWriter, summary: Summary
) -> None:
    """What was trained, as files in the run folder, with what belongs to them."""
    metadata = {
        "model": trained_model(options).name,
        "data": options.data.name,
        "data_options": options_of_test_images(options),
        "classes": data.classes,
        "preprocessing": asdict(make_preprocessing(data)),
        "test_top1": summary.scores.top1,
        "protocol": summary.protocol,
    }
    if options.data.conceal_test:
        del metadata["test_top1"]  # it was measured on validation images
    if (output := trained_model(options).output) is not None:
        metadata["output"] = output
    name = layout.STUDENT if isinstance(options, DistillOptions) else layout.MODEL
    run.save_network(name, session.trained.network, metadata)
    trained_teacher = session.method.trained_teacher
    if trained_teacher is not None and isinstance(options, DistillOptions):
        teacher = metadata | {"model": options.teacher.name}
        teacher.pop("test_top1", None)  # the student's
        run.save_network(layout.TEACHER, trained_teacher, teacher)


def restore(folder: str | Path) -> tuple[SpotKD, Dataset]:
    """The method of a finished distillation, with its trained student, policy and adapters, and its data set.

    Names of code in its options are followed: of somebody else's run only inside of
    :func:`spotkd.untrusted.names.looking`, which follows none.

    Raises:
        SpotkdError: the folder holds no distillation, or its files are damaged.
    """
    run = RunFolder(folder)
    options = with_values(run.distill_options, {"student.pretrained": False})  # what it learnt is in the checkpoint
    data = reopen_data(options.data)
    method = build_distillation(options, data, quiet=True)
    state = run.state()
    if state is None or state.get("phase") != TRAINING:
        again = escape_shell(["spotkd", "distill", "--resume", str(folder)])
        raise RunError(f"{folder}: no epoch was completed there; resume it with: {again}")
    try:
        load_learned_state(method, state["method"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}: its checkpoint does not fit ({one_line(error)[:300]})") from error
    return method, data


def evaluate_checkpoint(options: EvaluateOptions) -> Scores:
    """Test scores of a checkpoint; model and data set default to what the file itself notes.

    Raises:
        SpotkdError: the file does not note them, or notes code; the data set is not there.
    """
    check_values(options)
    noted = read_metadata(options.checkpoint)
    names = {"model": options.model or noted.get("model"), "data": options.data or noted.get("data")}
    for key, value in names.items():
        if value is None:
            raise SpotkdError(f"{options.checkpoint}: does not note its {key}; name it with --{key}")
        given = options.trust or getattr(options, key) is not None
        if not given and str(value).startswith(PYTHON):  # the file may come from a stranger
            raise SpotkdError(f"{options.checkpoint}: notes code as its {key}; to run it, say --{key} {value}")
    described = DataOptions(str(names["data"]))
    if options.data is None:
        known = noted.get("data_options") or {}
        described = replace(described, **{key: known[key] for key in test_image_keys() if key in known})
    if "preprocessing" in noted and described.name.startswith(("folder:", "hf:")):  # as bright as it learnt them
        described = replace(described, white=read_preprocessing(noted["preprocessing"], options.checkpoint).white)
    run = RunFolder(options.checkpoint)
    if options.root is not None:
        described = replace(described, root=options.root)
    elif run.exists:
        described = replace(described, root=str(_noted_root(run) or described.root))
    own = run.own_names if run.exists else ()
    with looking((options.model, options.data, *own), options.trust):
        data = load_data(data_spec(described))
        data = normalised_as_noted(data, options.checkpoint)
        check_class_count(options.checkpoint, data)
        model = build_model(str(names["model"]), len(data.classes), options.checkpoint, data.image_shape)
    device = Device(make_fabric(options.accelerator, options.precision), choose_memory_format())
    model = model.to(device.fabric.device, memory_format=device.memory_format)  # type: ignore[call-overload]
    loader = Loader(
        data,
        data.test,
        options.batch_size,
        training=False,
        device=device.fabric.device,
        memory_format=device.memory_format,
    )
    return evaluate(model, loader, device.fabric, len(data.classes))


def _noted_root(run: RunFolder) -> object:
    """The root of the data sets in a run's options, of whichever kind the run is."""
    try:
        return run.raw_options["data"]["root"]
    except (SpotkdError, KeyError, TypeError) as error:
        raise RunError(
            f"{run.path / layout.CONFIG}: does not name the data's root ({one_line(error)[:200]}); give --root"
        ) from error
