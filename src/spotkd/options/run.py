"""The options of a training run: what ``spotkd train`` and ``spotkd distill`` take, and what ``config.yaml`` holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .cache import CacheOptions
from .fields import option, section
from .grammar import parse_hazards, parse_interval, parse_loggers, parse_spots

Precision = Literal["auto", "32", "bf16-mixed"]
Select = Literal["auto", "last", "best_val", "best_test"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]
_PERCENTAGE = "it is a percentage, between 0 and 100"


@dataclass(frozen=True)
class ModelOptions:
    """A network.

    Args:
        name: a network of the zoo, such as resnet20, or torchvision:NAME, timm:NAME, python:MODULE.FUNCTION; or a run
            folder or weights file of spotkd's, which names its network and becomes the checkpoint.
        checkpoint: weights to start from: a run folder, .safetensors, .pt or .pth.
        checkpoint_key: which weights of the checkpoint to take, where it holds several: ema for averaged ones, raw, a
            key of the file, or a prefix of its names; unset takes the raw ones and tells of others.
        replace_head: start with a new classifier where the checkpoint's has another number of classes.
        output: where the logits are in what a network from outside the zoo gives, if that is not one tensor: 0, logits.
        pretrained: start from weights that torchvision or timm offer, with a new classifier where theirs has another
            number of classes: true for the library's default, or their name or tag, as IMAGENET1K_V2 or a1_in1k. They
            are fetched once, and images are normalised as they were trained with.
        at: modules of a network from outside the zoo after which a stage ends, as layer1,layer2; unset proposes some.
    """

    name: str = option("resnet20", affects="result")
    checkpoint: str | None = option(None, affects="result")
    checkpoint_key: str | None = option(None, affects="result")
    replace_head: bool = option(False, affects="result")
    output: str | None = option(None, affects="result")
    pretrained: bool | str = option(False, affects="result")
    at: list[str] | str | None = option(None, affects="result")


@dataclass(frozen=True)
class DataOptions:
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
        white: brightest value of grey pictures with more than 8 bits, as 4095, of folder: and hf: sets; unset takes it
            from the range of all.
        streaming: read an hf: set along while training, never whole; for sets larger than the disk.
        augment: crop and, where that makes sense, mirror training images at random.
        flip: with augment, mirror them where that makes sense; false for pictures in which left and right differ.
        crop_area: cut a random part out of every training image, of at least this share of its area, and bring it to
            the size (torchvision). Unset takes 0.08 for pictures that are decoded as they are needed, and shifts those
            in memory by some pixels.
        randaugment: magnitude of torchvision's RandAugment, two random changes of form or colour of every training
            image; 9 is usual; 0 for none.
        jitter: change brightness, contrast and saturation of every training image by up to this share (torchvision);
            0.4 is usual; 0 for none.
        mean: of pixels in [0, 1], one number or one for each of three channels, to normalise with; unset takes that of
            the weights that the run starts from or is taught by, then the data set's own. Of folder: and hf: sets it is
            measured over up to 2000 training images and noted in the run's config.yaml.
        std: their deviation, likewise.
        workers: processes that decode images which are not kept in memory; unset takes one a core, at most eight.
        conceal_test: put the validation images in place of the test images, which nothing looks at then: to choose
            between runs, as spotkd search does.
    """

    name: str = option("glyph94", affects="result")
    root: str = option("data", affects="place")
    download: bool = option(False, affects="place")
    mirror: str | None = option(None, affects="place")
    limit: int | None = option(None, affects="result", test_image_key=0)
    val_share: float = option(0.0, affects="result")
    test_share: float | None = option(None, affects="result", test_image_key=2)
    image_size: int | None = option(None, affects="result", test_image_key=1)
    white: float | None = option(None, affects="result", above=0, test_image_key=4)
    streaming: bool = option(False, affects="result", test_image_key=3)
    augment: bool = option(True, affects="result")
    flip: bool = option(True, affects="result")
    crop_area: float | None = option(None, affects="result", above=0, at_most=1)
    randaugment: int = option(0, affects="result", at_least=0, at_most=30)
    jitter: float = option(0.0, affects="result", at_least=0, at_most=1)
    mean: list[float] | None = option(None, affects="result")
    std: list[float] | None = option(None, affects="result")
    workers: int | None = option(None, affects="speed", at_least=0)
    conceal_test: bool = option(False, affects="result")


@dataclass(frozen=True)
class OptimOptions:
    """The optimizer and the schedule of its rate.

    Args:
        lr: learning rate; for onecycle and cosine its peak; unset takes 0.05, for adamw 0.001.
        kind: sgd, the paper's, or adamw.
        momentum: momentum, of the policy's parameters too; for adamw the first of its betas.
        weight_decay: weight decay, on every parameter; with adamw 0.05 is usual.
        schedule: onecycle warms up and anneals to zero; cosine rises in a straight line for optim.warmup epochs, then
            falls to zero along half a cosine; multistep, the paper's, divides the rate by ten at each milestone.
        milestones: last epochs before the rate drops; unset takes 5/8, 6/8, 7/8 of all (150, 180, 210 of 240).
        warmup: epochs in which the rate of cosine rises, 2.5 is possible; unset takes a twentieth of all.
        clip: longest gradient; a longer one is shortened to it before the step, the student's and the policy's each by
            itself; 0 for none.
        dot_delta: DOT: the teacher's gradients get so much more momentum and the labels' so much less (0.075 in the
            paper), for a second backward pass in each step; 0 for one momentum. For sgd.
    """

    lr: float | None = option(None, affects="result", above=0)
    kind: Literal["sgd", "adamw"] = option("sgd", affects="result")
    momentum: float = option(0.9, affects="result", at_least=0, below=1)
    weight_decay: float = option(5e-4, affects="result", at_least=0)
    schedule: Literal["multistep", "onecycle", "cosine"] = option("onecycle", affects="result")
    milestones: list[int] | None = option(None, affects="result")
    warmup: float | None = option(None, affects="result", at_least=0)
    clip: float = option(0.0, affects="result", at_least=0)
    dot_delta: float = option(0.0, affects="result", at_least=0, below=1)


@dataclass(frozen=True)
class PolicyOptions:
    """The policy network and its loss; read by strategies that learn (adaptive, anti, joint).

    Args:
        lr: learning rate of the policy and the adapters; unset takes half of the student's.
        weight_decay: their weight decay.
        schedule: scaled to the length of this run: decay as strong over the run as the paper's, a bias of at most 3, a
            start of 50 steps (of a short run the first tenth) in which everybody is distilled and nothing is routed, so
            that statistics settle, a bounded gradient after it, and embeddings of one length. It keeps the policy
            deciding in short runs and with deep students. Or published, as recipes have it.
        every: the policy learns in every so many steps, and decides in all; 1 is the paper. More is an approximation
            that saves time.
        held_out: the policy learns from validation images, which the student is never trained on, in place of its own
            training images, on which a trained teacher is nearly always better; needs data.val_share. Not in the paper.
        bias: initial bias towards the teacher: a number (10 in the paper for pairs of one architecture, else 0), or
            "scaled" for the paper's 10 scaled down to the length of this run.
        gamma: the routing loss counts gamma times when above the student's and 1/gamma times when below; 1 is off.
            (joint: it multiplies every cross entropy.)
        share_cost: adds this times the mean routed share of each spot to the routing loss; 0 (paper) is off.
        target_share: adds target_weight times the squared distance of each spot's share from it; unset (paper) is off.
        target_weight: weight of the target share.
    """

    lr: float | None = option(None, affects="result", above=0)
    weight_decay: float = option(1e-3, affects="result", at_least=0)
    schedule: Literal["scaled", "published"] = option("scaled", affects="result")
    every: int = option(1, affects="result", at_least=1)
    held_out: bool = option(False, affects="result")
    bias: float | Literal["scaled"] = option(0.0, affects="result")
    gamma: float = option(1.0, affects="result")
    share_cost: float = option(0.0, affects="result", at_least=0)
    target_share: float | None = option(None, affects="result")
    target_weight: float = option(1.0, affects="result", at_least=0)


@dataclass(frozen=True)
class PreparationOptions:
    """The phase of training that some distillers need before distillation (ft, ab).

    Args:
        epochs: its passes over the training images; unset takes an eighth of the run's epochs (30 of 240).
        lr: its learning rate; unset takes the distiller's own.
        checkpoint: a run folder or its prepared.ckpt, to take the result from instead of preparing again.
    """

    epochs: int | None = option(None, affects="result", at_least=0)
    lr: float | None = option(None, affects="result", above=0)
    checkpoint: str | None = option(None, affects="result")


@dataclass(frozen=True)
class RunOptions:
    """What every training run has.

    Args:
        recipe: take the options from this recipe, such as cifar100/at/resnet56-resnet20; those given beside it win.
            'spotkd recipes' lists the paper's.
        out: folder of the run; unset makes one under runs/ from the names and the seed.
        overwrite: replace the run that the folder holds; without it an existing run is an error.
        resume: resume an interrupted run: its folder, whose options hold again; or auto, for the folder that this
            run would write to, if it holds one (with --overwrite true, one with other options is replaced).
        accept_changes: resume although options differ from those that the run was started with.
        checkpoint_every: how often to save inside of an epoch: steps, as 500, or minutes, as 10min. After every epoch
            the state is saved anyway.
        skip_nonfinite: leave out so many steps whose loss or gradient is not finite, before the run is stopped.
        data: the data set.
        epochs: passes over the training images; auto takes as many as make 6000 steps, but 30 to 240.
        batch_size: images in a step.
        eval_batch_size: images in an evaluation step.
        seed: of initialisation, order, augmentation and decisions.
        select: the epoch whose weights are the result: last; best_val, the best on the validation images; best_test,
            the best on the test images, as the literature does, which flatters. auto: best_val where there are
            validation images (--data.val_share), else last.
        patience: stop when the validation images have not been recognised better for so many epochs; 0 never.
        optim: the optimizer.
        ema: the result is the moving average of the student's weights, of which a step leaves this share, 0.999 is
            usual; it is evaluated, saved and exported. 0 for the weights themselves.
        mixup: mix every image, and its label, with another one's, for teacher and student alike; shares are drawn from
            Beta(mixup, mixup), 0.2 is usual; 0 for none.
        cutmix: paste a rectangle of another image into every one; its area is drawn from Beta(cutmix, cutmix), 1 is
            usual; 0 for none. Beside mixup, one of both is drawn for each batch.
        label_smoothing: share of every label that is spread over all classes, 0.1 is usual.
        accelerator: auto, cpu, cuda or mps.
        devices: how many processes, each with a device, share every batch; batch_size is that of all together.
        sync_batchnorm: BatchNorm with the statistics of the batches of all devices (CUDA).
        precision: 32, bf16-mixed, or auto for bf16-mixed where the processor computes in it.
        channels_last: store feature maps channels last, which convolutions prefer.
        compile: compile the networks' passes with torch.compile. Each is compared with the plain pass before it is
            used, and its seconds and what it saves are printed; it pays in long runs. Needs a C++ compiler.
        cuda_graphs: on one CUDA device, record the forward and backward pass of a step as a CUDA graph, which is
            launched at once. Compared with the plain step before it is used.
        quiet: print only the result.
        logger: what shows the numbers as they come: tensorboard, csv, wandb, mlflow, or several as tensorboard,wandb;
            none for none. (The run folder's metrics.csv is there anyway.)
    """

    recipe: str | None = option(None, affects="place")
    out: str | None = option(None, affects="place")
    overwrite: bool = option(False, affects="place")
    resume: str | None = option(None, affects="place")
    accept_changes: bool = option(False, affects="place")
    checkpoint_every: int | str | None = option("15min", affects="place", parse=parse_interval)
    skip_nonfinite: int = option(0, affects="numerics", at_least=0)
    data: DataOptions = section(DataOptions)
    epochs: int | Literal["auto"] = option("auto", affects="result", at_least=1)
    batch_size: int = option(64, affects="result", at_least=1)
    eval_batch_size: int = option(256, affects="numerics", at_least=1)
    seed: int = option(1029, affects="result", at_least=0, below=2**32)
    select: Select = option("auto", affects="result")
    patience: int = option(0, affects="result", at_least=0)
    optim: OptimOptions = section(OptimOptions)
    ema: float = option(0.0, affects="result", at_least=0, below=1)
    mixup: float = option(0.0, affects="result", at_least=0)
    cutmix: float = option(0.0, affects="result", at_least=0)
    label_smoothing: float = option(0.0, affects="result", at_least=0, below=1)
    accelerator: Accelerator = option("auto", affects="numerics")
    devices: int = option(1, affects="result", at_least=1, free_on_resume=True)
    sync_batchnorm: bool = option(False, affects="result")
    precision: Precision = option("auto", affects="numerics")
    channels_last: bool = option(True, affects="numerics")
    compile: bool = option(False, affects="numerics")
    cuda_graphs: bool = option(False, affects="numerics")
    quiet: bool = option(False, affects="display")
    logger: list[str] | str = option("tensorboard", affects="display", parse=parse_loggers)


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Train one network on labels: a teacher, or a student alone.

    Args:
        model: the network.
    """

    model: ModelOptions = section(ModelOptions)


@dataclass(frozen=True)
class DistillOptions(RunOptions):
    """Distil a trained teacher into a student.

    Args:
        teacher: the trained network; its checkpoint is required.
        student: the network to train.
        more_teachers: further teachers, as run folders or weights files that note their network, runs/b,runs/c; each
            has spots of its own, and the losses are averaged (strategy confidence: weighed). --teacher given more than
            once is short for it. For strategies without a policy.
        distiller: what to distil; 'spotkd distillers' lists them; kd is the logits alone. python:MODULE.CLASS for one
            of yours.
        strategy: where to distil: always (at every spot), adaptive (SAKD), trust (where the teacher can be believed)
            and others, which 'spotkd strategies' lists; combined as trust+balance, with a value as random:0.3, or
            python:MODULE.CLASS.
        options: the distiller's own options, as --options.negatives 4096; its page in the docs lists them.
        spots: pairs of stages student:teacher, as layer1:layer2,layer3:layer4, in place of the distiller's own.
        alpha: weight of the loss on the logits.
        beta: weight of the distiller; unset takes the paper's.
        balance: auto bounds the distiller's pull at the student by that of labels and logits, so that its weight means
            the same for every pair of networks; none is the paper.
        temperature: of the loss on the logits; unset takes its own (4 for kd).
        standardise: bring logits to mean 0 and deviation 1 before the loss on them.
        min_teacher_top1: stop unless the teacher gets this percentage of (up to 1024) test images right; unset asks for
            more than guessing the commonest class gives; 0 for no check.
        fold: fold the frozen teacher's BatchNorms into its convolutions, where that leaves its outputs as they are.
        gather: with several devices, whatever compares or counts the samples of a batch (relational distillers, the
            gamma rule, the balance and share terms) sees those of all devices; without it, those of its own.
        shard_teacher: with several devices, each keeps its share of the frozen teacher's weights and gets the others as
            they are needed (FSDP2), for a teacher that is too large for a device.
        cache_teacher: GiB that the frozen teacher's outputs may take: they are computed in the first epoch and looked
            up afterwards. 0 keeps none. Only with data.augment false, or cache.crops.
        cache: where they are kept, and for which augmentations.
        hazard: damage done on purpose, to see what a strategy makes of it: wrong:0.4 (for 40 % of the training images
            the teacher sees another one, of another class), subgroup:0.2 (the same for all images of 20 % of the
            classes), shift:1 (noise of that deviation over all that the teacher sees), scale:30 (the distiller's weight
            times 30), mismatch (each spot faces the teacher's feature of the next), noise:0.2 (20 % of the training
            labels are others), or several as wrong:0.4,scale:30. What is evaluated stays as it is.
        policy: the policy network.
        preparation: the phase before distillation that some distillers need.
        inspect_every: where the policy sends 512 training images is noted after every so many epochs, in
            decisions.csv; 0 never. It costs a forward pass of both networks on them.
        compare: folders of runs of the same student to compare the result with, beside its controls in the same
            folder, as runs/a,runs/b.
    """

    teacher: ModelOptions = section(ModelOptions, checkpoint="place")
    student: ModelOptions = section(lambda: ModelOptions("resnet8"))
    more_teachers: list[str] | str | None = option(None, affects="result")
    distiller: str = option("kd", affects="result")
    strategy: str = option("always", affects="result")
    options: dict[str, bool | int | float | str] = option({}, affects="result")
    spots: list[str] | str | None = option(None, affects="result", parse=parse_spots)
    alpha: float = option(1.0, affects="result", at_least=0)
    beta: float | None = option(None, affects="result", at_least=0)
    balance: Literal["auto", "none"] = option("auto", affects="result")
    temperature: float | None = option(None, affects="result")
    standardise: bool = option(False, affects="result")
    min_teacher_top1: float | None = option(
        None, affects="place", at_least=0, at_most=100, wording="it is a percentage, between 0 and 100"
    )
    fold: bool = option(True, affects="result")
    gather: bool = option(False, affects="result")
    shard_teacher: bool = option(False, affects="numerics", free_on_resume=True)
    cache_teacher: float = option(0.0, affects="speed", at_least=0)
    cache: CacheOptions = section(CacheOptions)
    hazard: list[str] | str | None = option(None, affects="result", parse=parse_hazards)
    policy: PolicyOptions = section(PolicyOptions)
    preparation: PreparationOptions = section(PreparationOptions)
    inspect_every: int = option(1, affects="display", at_least=0)
    compare: list[str] | str | None = option(None, affects="display")
