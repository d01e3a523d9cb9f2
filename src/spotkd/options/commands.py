"""The options of the commands beside ``train`` and ``distill``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .cluster import ClusterOptions, EngineName
from .fields import option, section
from .grammar import parse_duration
from .run import Accelerator, DistillOptions, Precision


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained network on the test images.

    Args:
        checkpoint: a run folder or a weights file.
        model: the network's name; unset takes the one noted in the file.
        data: the data set; unset takes the one noted in the file.
        root: folder that holds the files of data sets known by name; unset takes the run's own, or data.
        batch_size: images in a step.
        accelerator: auto, cpu, cuda or mps.
        precision: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
        trust: follow what somebody else's file names: code (python:NAME), data sets of the Hub (hf:NAME).
    """

    checkpoint: str
    model: str | None = None
    data: str | None = None
    root: str | None = None
    batch_size: int = option(256, at_least=1)
    accelerator: Accelerator = "auto"
    precision: Precision = "auto"
    trust: bool = False


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained student as a file for other programs.

    Args:
        run: a run folder or a weights file.
        format: onnx, for any ONNX runtime (pip install 'spotkd[export]'); torch-export, a .pt2 file for PyTorch alone;
            safetensors, weights for spotkd.
        out: the file; unset puts it beside the weights, with the format's ending. With push_to_hub a folder;
            unset takes hub/ in the run folder.
        overwrite: replace what is there.
        model: the network's name; unset takes the one noted in the file.
        data: the data set it was trained on, for weights without metadata on classes and preprocessing.
        root: folder that holds the files of that data set; unset takes data.
        push_to_hub: USER/NAME on the Hugging Face Hub to send the student to, with a model card made from the run's
            facts (pip install 'spotkd[hub]'; 'hf auth login' first).
        card_only: only write the folder that would be sent.
        license: licence on the card, as the Hub writes it, such as apache-2.0; unset leaves the field out.
        private: make a new repository private.
        trust: follow what somebody else's file names: code (python:NAME), data sets of the Hub (hf:NAME).
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
    trust: bool = False


@dataclass(frozen=True)
class PredictOptions:
    """Classify pictures with a trained student, on the CPU.

    Args:
        student: a run folder, a weights file, an .onnx or a .pt2 file.
        images: picture files, and folders of them.
        top: how many classes to print for each picture, the likeliest first.
        csv: a file to write the predictions to as well.
        batch_size: pictures at once.
        trust: open a .pt2 file, which can run code, and follow code that a file names (python:NAME): only for files of
            your own.
        model: the network's name; unset takes the one noted in the file.
        data: the data set it was trained on, for weights without metadata on classes and preprocessing.
        root: folder that holds the files of that data set; unset takes data.
    """

    student: str
    images: list[str]
    top: int = option(1, at_least=1)
    csv: str | None = None
    batch_size: int = option(64, at_least=1)
    trust: bool = False
    model: str | None = None
    data: str | None = None
    root: str | None = None


@dataclass(frozen=True)
class ProfileOptions:
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
    image_shape: list[int] = option([3, 32, 32])
    classes: int = option(100, at_least=1)
    distillers: str = "all"
    strategies: str = "always,adaptive"
    batch_size: int = option(64, at_least=1)
    rounds: int = option(5, at_least=1)
    accelerator: Accelerator = "auto"
    precision: Precision = "auto"
    csv: str | None = None
    json: str | None = None


@dataclass(frozen=True)
class DemoOptions:
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
    teacher_epochs: int = option(10, at_least=1)
    epochs: int = option(4, at_least=1)
    faces: int = option(40, at_least=1, at_most=532, wording="it must lie between 1 and 532")
    seed: int = option(1029, at_least=0, below=2**32)
    precision: Precision = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class BenchOptions:
    """Run a plan: a grid of data sets, pairs of networks, distillers, strategies and seeds.

    Args:
        plan: a shipped plan's name or a YAML file; unset with --dry-run lists all shipped plans.
        out: folder of the runs and the report; unset takes runs/bench/PLAN.
        jobs: runs side by side; the processor's cores are shared out among them, and so are several GPUs. Unset takes 1
            with engine local, and as many as the cluster has room for with engine ray.
        dry_run: only list the runs with a rough estimate of their time.
        root: folder that holds the data sets' files; unset takes the plan's.
        engine: local, processes of this machine; ray, the machines of a Ray cluster that share the folder of the runs
            (pip install 'spotkd[cluster]').
        cluster: the cluster of engine ray.
    """

    plan: str | None = None
    out: str | None = None
    jobs: int | None = option(None, at_least=1)
    dry_run: bool = False
    root: str | None = None
    engine: EngineName = option("local", affects="place")
    cluster: ClusterOptions = section(ClusterOptions)


@dataclass(frozen=True)
class SearchOptions(DistillOptions):
    """Find distiller, weights, strategy and learning rate for a teacher and a student.

    The options of spotkd distill hold for every run; those that are searched are where the search begins. Validation
    images decide (data.val_share; unset takes a fifth of the training images), the winner alone is tested. The same
    command goes on after any interruption, and with a larger budget.

    Args:
        budget: time for all runs together, as 20min, 1.5h or 90s; unset for no limit.
        runs: how many runs to try, pruned ones included; unset for no limit.
        jobs: runs side by side; the processor's cores are shared out among them, and so are several GPUs. Unset takes 1
            with engine local, and as many as the cluster has room for with engine ray.
        sampler: tpe proposes what resembles the best runs so far; random draws.
        prune: stop runs that are behind others after as many epochs (Hyperband); never the first ones.
        distillers: which to try beside the one given, as at,kd.
        strategies: which to try beside the one given.
        engine: local, processes of this machine; ray, the machines of a Ray cluster that share the folder of the runs
            (pip install 'spotkd[cluster]').
        cluster: the cluster of engine ray.
    """

    budget: str | None = option(None, affects="place", parse=parse_duration)
    runs: int | None = option(None, affects="place", at_least=1)
    jobs: int | None = option(None, affects="place", at_least=1)
    sampler: Literal["tpe", "random"] = "tpe"
    prune: bool = True
    distillers: str = "kd,dkd,dist,at,fitnet,sp,rkd,pkt,reviewkd"
    strategies: str = "always,trust,adaptive"
    engine: EngineName = option("local", affects="place")
    cluster: ClusterOptions = section(ClusterOptions)


SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class InspectOptions:
    """Show where the policy of a distillation sends every image, without the noise of sampling.

    Args:
        run: the folder of a run of spotkd distill.
        split: which images, un-augmented: train, val or test.
        out: folder for the tables; unset takes the run's.
        batch_size: images in a step.
        accelerator: auto, cpu, cuda or mps.
        trust: follow what somebody else's file names: code (python:NAME), data sets of the Hub (hf:NAME).
    """

    run: str
    split: SplitName = "train"
    out: str | None = None
    batch_size: int = option(256, at_least=1)
    accelerator: Accelerator = "auto"
    trust: bool = False


@dataclass(frozen=True)
class TrialOptions:
    """Say at which spots, and about which samples, distilling has helped: from runs in which chance decided.

    Args:
        runs: folders of runs of spotkd distill with the strategy trial or cohort, that differ in their seeds.
        csv: a file for every effect, a row each.
    """

    runs: list[str]
    csv: str | None = None


@dataclass(frozen=True)
class ReportOptions:
    """Show runs on one HTML page, or write the tables of a plan from its finished runs.

    Args:
        what: folders of runs, or folders that hold some; or a shipped plan's name or a plan's YAML file.
        out: for runs the page, unset takes report.html in the first folder; for a plan the folder of its runs, unset
            takes runs/bench/PLAN.
        figures: folder that gets the page's figures as PNG and SVG, for papers.
        split: images whose decisions are shown: train, val or test.
        batch_size: images in a step.
        accelerator: auto, cpu, cuda or mps.
        trust: follow what somebody else's file names: code (python:NAME), data sets of the Hub (hf:NAME).
    """

    what: list[str]
    out: str | None = None
    figures: str | None = None
    split: SplitName = "train"
    batch_size: int = option(256, at_least=1)
    accelerator: Accelerator = "auto"
    trust: bool = False
