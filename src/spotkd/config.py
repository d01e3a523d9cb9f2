"""What a user may set: typed dataclasses, read from a YAML file and the command line.

This module imports nothing heavy, so that ``spotkd --help`` answers at once. Names are checked where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from .errors import SpotkdError, one_line

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
        precision: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
        channels_last: store feature maps channels last, which convolutions prefer.
        quiet: print only the result.
    """

    recipe: str | None = None
    out: str | None = None
    overwrite: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    epochs: int = 240
    batch_size: int = 64
    eval_batch_size: int = 256
    seed: int = 1029
    select: Select = "auto"
    optim: OptimConfig = field(default_factory=OptimConfig)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Precision = "auto"
    channels_last: bool = True
    quiet: bool = False


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
        fold: fold the frozen teacher's BatchNorms into its convolutions, where that leaves its outputs as they are.
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
    fold: bool = True
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
        elif value is None and hint is not Any and NoneType not in get_args(hint):
            raise SpotkdError(f"{section}{key} is empty: give a value or leave it out")


def read_config(kind: type[C], path: str | Path) -> C:
    """The configuration of a run from its ``config.yaml``, checked like the command line.

    Raises:
        SpotkdError: no such file, an unknown key, a value of the wrong type.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        options = parser.parse_path(path)
        check_filled(kind, options.as_dict())
        return kind(**vars(parser.instantiate(options)))
    except (ArgumentError, SpotkdError, TypeError, OSError) as error:
        raise SpotkdError(f"{path}: {one_line(error)}") from error
