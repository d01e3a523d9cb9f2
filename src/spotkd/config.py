"""What a user may set: typed dataclasses, read from a YAML file and the command line.

This module imports nothing heavy, so that ``spotkd --help`` answers at once. Names are checked where they are used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_type_hints

from .errors import SpotkdError, one_line
from .untrusted.yaml_files import check_yaml, check_yaml_file

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from .data import DataSpec

C = TypeVar("C")
Precision = Literal["auto", "32", "bf16-mixed"]
Select = Literal["auto", "last", "best_val", "best_test"]


@dataclass
class ModelConfig:
    """A network.

    Args:
        name: a network of the zoo, such as resnet20, or torchvision:NAME, timm:NAME, python:MODULE.FUNCTION.
        checkpoint: weights to start from: a run folder, .safetensors, .pt or .pth.
        at: modules of a network from outside the zoo after which a stage ends, as layer1,layer2; unset proposes some.
    """

    name: str = "resnet20"
    checkpoint: str | None = None
    at: list[str] | str | None = None


@dataclass
class DataConfig:
    """A data set.

    Args:
        name: glyph94, cifar10, cifar100, tiny-imagenet, imagenet, folder:PATH, hf:NAME, or python:MODULE.FUNCTION.
        root: folder that holds the files of data sets known by name, or gets them.
        download: fetch the files if they are not there.
        mirror: address to fetch them from instead of their own, up to the last slash.
        limit: use only so many training images, the first ones of every class in turn; all if unset.
        val_share: share of the training images held out, the same ones in every run, to choose the best epoch on.
        test_share: share held out as test images from a folder: that has no val/ or test/; unset takes a fifth.
        image_size: edge in pixels to bring the images of folder:, hf: and imagenet to; unset keeps the size of small
            images (up to 96) that are all alike, and takes 224 otherwise.
        streaming: read an hf: set along while training, never whole; for sets larger than the disk.
        augment: crop and, where that makes sense, mirror training images at random.
        workers: processes that decode images which are not kept in memory; unset takes one a core, at most eight.
    """

    name: str = "glyph94"
    root: str = "data"
    download: bool = False
    mirror: str | None = None
    limit: int | None = None
    val_share: float = 0.0
    test_share: float | None = None
    image_size: int | None = None
    streaming: bool = False
    augment: bool = True
    workers: int | None = None


@dataclass
class OptimConfig:
    """SGD for the student side.

    Args:
        lr: learning rate; for onecycle its peak.
        momentum: momentum, of the policy's parameters too.
        weight_decay: weight decay, on every parameter.
        schedule: multistep divides the rate by ten at each milestone; onecycle warms up and anneals to zero.
        milestones: last epochs before the rate drops; unset takes 5/8, 6/8, 7/8 of all (150, 180, 210 of 240).
    """

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["multistep", "onecycle"] = "multistep"
    milestones: list[int] | None = None


@dataclass
class PolicyConfig:
    """The policy network and its loss; read by strategies that learn (adaptive, anti, joint).

    Args:
        lr: learning rate of the policy and the adapters; unset takes half of the student's.
        weight_decay: their weight decay.
        bias: initial bias towards the teacher: a number (10 in the paper for pairs of one architecture, else 0), or
            "scaled" for the paper's 10 scaled down to the length of this run.
        gamma: the routing loss counts gamma times when above the student's and 1/gamma times when below; 1 is off.
            (joint: it multiplies every cross entropy.)
        share_cost: adds this times the mean routed share of each spot to the routing loss; 0 (paper) is off.
        target_share: adds target_weight times the squared distance of each spot's share from it; unset (paper) is off.
        target_weight: weight of the target share.
    """

    lr: float | None = None
    weight_decay: float = 1e-3
    bias: float | Literal["scaled"] = 0.0
    gamma: float = 1.0
    share_cost: float = 0.0
    target_share: float | None = None
    target_weight: float = 1.0


@dataclass
class PreparationConfig:
    """The phase of training that some distillers need before distillation (ft, ab).

    Args:
        epochs: its passes over the training images; unset takes an eighth of the run's epochs (30 of 240).
        lr: its learning rate; unset takes the distiller's own.
        checkpoint: a run folder or its prepared.ckpt, to take the result from instead of preparing again.
    """

    epochs: int | None = None
    lr: float | None = None
    checkpoint: str | None = None


@dataclass
class RunConfig:
    """What every training run has.

    Args:
        recipe: take the options from this recipe, such as cifar100/at/resnet56-resnet20; those given beside it win.
            'spotkd recipes' lists the paper's.
        out: folder of the run; unset makes one under runs/ from the names and the seed.
        overwrite: replace the run that the folder holds; without it an existing run is an error.
        resume: go on with an interrupted run: its folder, whose options hold again; or auto, for the folder that this
            run would write to, if it holds one (with --overwrite true, one with other options is replaced).
        accept_changes: go on although options differ from those that the run was begun with.
        checkpoint_every: how often to save inside of an epoch: steps, as 500, or minutes, as 10min. After every epoch
            the state is saved anyway.
        skip_nonfinite: leave out so many steps whose loss or gradient is not finite, before the run is stopped.
        data: the data set.
        epochs: passes over the training images.
        batch_size: images in a step.
        eval_batch_size: images in an evaluation step.
        seed: of initialisation, order, augmentation and decisions.
        select: the epoch whose weights are the result: last; best_val, the best on the validation images; best_test,
            the best on the test images, as the literature does, which flatters. auto: best_val where there are
            validation images (--data.val_share), else last.
        optim: the optimizer.
        accelerator: auto, cpu, cuda or mps.
        devices: how many processes, each with a device, share every batch; batch_size is that of all together.
        sync_batchnorm: BatchNorm with the statistics of the batches of all devices (CUDA).
        precision: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
        channels_last: store feature maps channels last, which convolutions prefer.
        compile: compile the networks' passes with torch.compile. Each is compared with the plain pass before it is
            used, and its seconds and what it saves are told; it pays in long runs. Needs a C++ compiler.
        cuda_graphs: with compile, record each compiled pass as a CUDA graph, which is launched at once.
        quiet: print only the result.
        logger: what shows the numbers as they come: tensorboard, csv, wandb, mlflow, or several as tensorboard,wandb;
            none for none. (The run folder's metrics.csv is there anyway.)
    """

    recipe: str | None = None
    out: str | None = None
    overwrite: bool = False
    resume: str | None = None
    accept_changes: bool = False
    checkpoint_every: int | str | None = "15min"
    skip_nonfinite: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    epochs: int = 240
    batch_size: int = 64
    eval_batch_size: int = 256
    seed: int = 1029
    select: Select = "auto"
    optim: OptimConfig = field(default_factory=OptimConfig)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    sync_batchnorm: bool = False
    precision: Precision = "auto"
    channels_last: bool = True
    compile: bool = False
    cuda_graphs: bool = False
    quiet: bool = False
    logger: list[str] | str = "tensorboard"


@dataclass
class TrainConfig(RunConfig):
    """Train one network on labels: a teacher, or a student alone.

    Args:
        model: the network.
    """

    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass
class DistillConfig(RunConfig):
    """Distil a trained teacher into a student.

    Args:
        teacher: the trained network; its checkpoint is required.
        student: the network to train.
        distiller: what to distil; 'spotkd distillers' lists them. python:MODULE.CLASS for one of yours.
        strategy: where to distil: adaptive (SAKD), anti, random, always, never or joint, or python:MODULE.CLASS.
        options: the distiller's own options, as --options.negatives 4096; its page in the docs lists them.
        spots: pairs of stages student:teacher, as layer1:layer2,layer3:layer4, in place of the distiller's own.
        alpha: weight of the loss on the logits.
        beta: weight of the distiller; unset takes the paper's.
        temperature: of the loss on the logits; unset takes its own (4 for kd).
        standardise: bring logits to mean 0 and deviation 1 before the loss on them.
        min_teacher_top1: stop unless the teacher gets this percentage of (up to 1024) test images right; unset asks for
            more than chance and three standard errors; 0 for no check.
        fold: fold the frozen teacher's BatchNorms into its convolutions, where that leaves its outputs as they are.
        gather: with several devices, whatever compares or counts the samples of a batch (relational distillers, the
            gamma rule, the balance and share terms) sees those of all devices; without it, those of its own.
        cache_teacher: GiB that the frozen teacher's outputs may take: they are computed in the first epoch and looked
            up afterwards. 0 keeps none. Only with data.augment false.
        policy: the policy network.
        preparation: the phase before distillation that some distillers need.
        inspect_every: where the policy sends 512 training images is noted after every so many epochs, in
            decisions.csv; 0 never. It costs a forward pass of both networks on them.
    """

    teacher: ModelConfig = field(default_factory=ModelConfig)
    student: ModelConfig = field(default_factory=lambda: ModelConfig("resnet8"))
    distiller: str = "at"
    strategy: str = "adaptive"
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    spots: list[str] | str | None = None
    alpha: float = 1.0
    beta: float | None = None
    temperature: float | None = None
    standardise: bool = False
    min_teacher_top1: float | None = None
    fold: bool = True
    gather: bool = False
    cache_teacher: float = 0.0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    preparation: PreparationConfig = field(default_factory=PreparationConfig)
    inspect_every: int = 1


@dataclass
class EvaluateConfig:
    """Measure a trained network on the test images.

    Args:
        checkpoint: a run folder or a weights file.
        model: the network's name; unset takes the one noted in the file.
        data: the data set; unset takes the one noted in the file.
        root: folder that holds the files of data sets known by name; unset takes the run's own, or data.
        batch_size: images in a step.
        accelerator: auto, cpu, cuda or mps.
        precision: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
    """

    checkpoint: str
    model: str | None = None
    data: str | None = None
    root: str | None = None
    batch_size: int = 256
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Precision = "auto"


@dataclass
class ExportConfig:
    """Write a trained student as a file for other programs.

    Args:
        run: a run folder or a weights file.
        format: onnx, for any ONNX runtime (pip install 'spotkd[export]'); torch-export, a .pt2 file for PyTorch alone;
            safetensors, weights for spotkd.
        out: the file; unset puts it beside the weights, with the format's ending. With push_to_hub a folder;
            unset takes hub/ in the run folder.
        overwrite: replace what is there.
        model: the network's name; unset takes the one noted in the file.
        data: the data set it was trained on, for weights that note no classes and no preprocessing.
        root: folder that holds the files of that data set; unset takes data.
        push_to_hub: USER/NAME on the Hugging Face Hub to send the student to, with a model card made from the run's
            facts (pip install 'spotkd[hub]'; 'hf auth login' first).
        card_only: only write the folder that would be sent.
        license: licence on the card, as the Hub writes it, such as apache-2.0; unset leaves the field out.
        private: make a new repository private.
    """

    run: str
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx"
    out: str | None = None
    overwrite: bool = False
    model: str | None = None
    data: str | None = None
    root: str | None = None
    push_to_hub: str | None = None
    card_only: bool = False
    license: str | None = None
    private: bool = False


@dataclass
class PredictConfig:
    """Classify pictures with a trained student, on the CPU.

    Args:
        student: a run folder, a weights file, an .onnx or a .pt2 file.
        images: picture files, and folders of them.
        top: how many classes to tell of each picture, the likeliest first.
        csv: a file to write the predictions to as well.
        batch_size: pictures at once.
        trust: open a .pt2 file, which can run code: only for files of your own.
        model: the network's name; unset takes the one noted in the file.
        data: the data set it was trained on, for weights that note no classes and no preprocessing.
        root: folder that holds the files of that data set; unset takes data.
    """

    student: str
    images: list[str]
    top: int = 1
    csv: str | None = None
    batch_size: int = 64
    trust: bool = False
    model: str | None = None
    data: str | None = None
    root: str | None = None


@dataclass
class ProfileConfig:
    """Size and speed of a teacher and of students for it on this machine, and what a training step costs.

    Args:
        teacher: a network of the zoo, or torchvision:NAME, timm:NAME, python:MODULE.FUNCTION.
        students: one or more, likewise.
        data: the data set to take the image shape, classes and number of training images from.
        image_shape: channels, height and width, where no data set is named.
        classes: number of classes, likewise.
        distillers: whose steps to time, as at,kd; all for every one; none for no steps.
        strategies: with which strategies, as always,adaptive; all for every one.
        batch_size: images in a step, and at once where many are classified.
        rounds: times that everything is timed, in turn with plain KD.
        accelerator: auto, cpu, cuda or mps.
        precision: of the steps: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
        csv: a file for every measurement, a row each.
        json: a file for all of it.
    """

    teacher: str
    students: list[str]
    data: str | None = None
    image_shape: list[int] = field(default_factory=lambda: [3, 32, 32])
    classes: int = 100
    distillers: str = "all"
    strategies: str = "always,adaptive"
    batch_size: int = 64
    rounds: int = 5
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Precision = "auto"
    csv: str | None = None
    json: str | None = None


@dataclass
class DemoConfig:
    """A teacher, and a student four times: alone, by KD, by AT everywhere, and by spot-adaptive AT.

    Args:
        out: folder for the runs, the table and the pictures.
        teacher_epochs: passes of the teacher.
        epochs: passes of each student.
        faces: how many typefaces of glyph94 to train on, 94 images each.
        seed: of everything.
        precision: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
        overwrite: replace the runs that the folder holds; without it existing runs are an error.
    """

    out: str = "runs/demo"
    teacher_epochs: int = 3
    epochs: int = 3
    faces: int = 100
    seed: int = 1029
    precision: Precision = "auto"
    overwrite: bool = False


@dataclass
class BenchConfig:
    """Run a plan: a grid of data sets, pairs of networks, distillers, strategies and seeds.

    Args:
        plan: a shipped plan's name or a YAML file; unset with --dry-run lists all shipped plans.
        out: folder of the runs and the report; unset takes runs/bench/PLAN.
        jobs: runs side by side; the processor's cores are shared out among them, and so are several GPUs.
        dry_run: only list the runs with a rough estimate of their time.
        root: folder that holds the data sets' files; unset takes the plan's.
    """

    plan: str | None = None
    out: str | None = None
    jobs: int = 1
    dry_run: bool = False
    root: str | None = None


SplitName = Literal["train", "val", "test"]


@dataclass
class InspectConfig:
    """Tell where the policy of a distillation sends every image, without the noise of sampling.

    Args:
        run: the folder of a run of spotkd distill.
        split: which images, un-augmented: train, val or test.
        out: folder for the tables; unset takes the run's.
        batch_size: images in a step.
        accelerator: auto, cpu, cuda or mps.
    """

    run: str
    split: SplitName = "train"
    out: str | None = None
    batch_size: int = 256
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass
class ReportConfig:
    """Show runs on one HTML page, or write the tables of a plan from its finished runs.

    Args:
        what: folders of runs, or folders that hold some; or a shipped plan's name or a plan's YAML file.
        out: for runs the page, unset takes report.html in the first folder; for a plan the folder of its runs, unset
            takes runs/bench/PLAN.
        figures: folder that gets the page's figures as PNG and SVG, for papers.
        split: images whose decisions are shown: train, val or test.
        batch_size: images in a step.
        accelerator: auto, cpu, cuda or mps.
    """

    what: list[str]
    out: str | None = None
    figures: str | None = None
    split: SplitName = "train"
    batch_size: int = 256
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"


def data_spec(config: DataConfig) -> DataSpec:
    """The options of a data set as plain values, for :func:`spotkd.data.load_data`."""
    from .data import DataSpec

    return DataSpec(**asdict(config))


def check_filled(kind: type, options: Mapping[str, Any], section: str = "") -> None:
    """Refuse what the parser lets pass: no value where there must be one, and a value in place of a section.

    Args:
        kind: the configuration that the options are for.
        options: options as in a file; unknown ones are the parser's affair.
        section: what stands before their names in the message.

    Raises:
        SpotkdError: which option it is.
    """
    hints = get_type_hints(kind)
    for key, value in options.items():
        hint: Any = hints.get(key, Any)
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(value, Mapping):
                first = next(iter(get_type_hints(hint)))
                raise SpotkdError(f"{section}{key} is {value}: it is a section, write {key}: {{{first}: ...}}")
            check_filled(hint, value, f"{section}{key}.")
            continue
        _check_text(f"{section}{key}", value)
        if value is None and hint is not Any and NoneType not in get_args(hint):
            raise SpotkdError(f"{section}{key} is empty: give a value or leave it out")


def _check_text(key: str, value: Any) -> None:
    """Refuse text that cannot be written everywhere, wherever it stands in a value."""
    if isinstance(value, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise SpotkdError(f"{key} is {value[:60]!r}: it holds a character that is no UTF-8 text")
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_text(key, part)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _check_text(key, name)
            _check_text(f"{key}.{name}", part)


_MODE = "spotkd"  # the name under which the library knows our way to read YAML


def make_parser(**options: Any) -> ArgumentParser:
    """A parser that raises its errors, and looks at YAML before it reads it."""
    import jsonargparse
    import yaml

    read = jsonargparse.get_loader("yaml")

    def load(text: str) -> Any:
        check_yaml(text)
        try:
            return read(text)
        except (
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:  # a number of 5000 digits, !!int of no number
            raise yaml.YAMLError(f"{type(error).__name__}: {one_line(error)[:200]}") from error

    jsonargparse.set_loader(_MODE, load, (yaml.YAMLError,))
    jsonargparse.set_dumper(_MODE, lambda value: yaml.safe_dump(value, allow_unicode=True, sort_keys=False))
    return jsonargparse.ArgumentParser(exit_on_error=False, parser_mode=_MODE, **options)


@cache
def parser_for(kind: type) -> ArgumentParser:
    """The parser of a configuration as files have it."""
    parser = make_parser()
    parser.add_class_arguments(kind)
    return parser


def read_config(kind: type[C], path: str | Path) -> C:
    """The configuration of a run from its ``config.yaml``, checked like the command line.

    Raises:
        SpotkdError: no such file, an unknown key, a value of the wrong type.
    """
    from argparse import ArgumentError

    if Path(path).is_file():
        check_yaml_file(path)
    parser = parser_for(cast(type, kind))
    try:
        options = parser.parse_path(path)
        check_filled(kind, options.as_dict())
        return kind(**vars(parser.instantiate(options)))
    except (ArgumentError, SpotkdError, TypeError, OSError) as error:
        raise SpotkdError(f"{path}: {one_line(error)}") from error


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their full names, as ``optim.lr``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def different(stored: Path, wanted: Any, leaving_out: Collection[str]) -> list[str]:
    """In what a configuration differs from the file of another: ``epochs was 2 and is 4``.

    Raises:
        SpotkdError: the file is not one of such a configuration.
    """
    was, now = (flattened(asdict(config)) for config in (read_config(type(wanted), stored), wanted))
    return [
        f"{key} was {was.get(key)} and is {now.get(key)}"
        for key in {**was, **now}
        if key not in leaving_out and was.get(key) != now.get(key)
    ]
