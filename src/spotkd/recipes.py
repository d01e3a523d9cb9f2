"""The paper's experiments by name, as rules: ``cifar100/at/resnet56-resnet20`` and its kin.

The author code has a file for each of its 171 experiments. All of them follow from the tables below, and so does any
other combination of a data set, a distiller and a pair of networks. docs/recipes.md lists the files' exceptions.
"""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .data import DATASETS, resolve_name
from .distillers import DISTILLERS
from .errors import SpotkdError, one_line
from .models import MODELS
from .options import DistillOptions, OptimOptions, TrainOptions, check_filled, from_values, learning_rate, parser_for
from .published import CAUTION, published_top1
from .registry import unknown_name
from .routing import STRATEGIES, make_strategy

SINGLE = "single"  # in place of a distiller: a network trained on labels, a teacher or a student for comparison
EPOCHS = 240
MILESTONES = (150, 180, 210)
DISTILLERS_OF_THE_PAPER = ("at", "cc", "crd", "fitnet", "ft", "nst", "pkt", "rkd", "sp", "vid")
STRATEGIES_OF_THE_PAPER = ("adaptive", "anti", "random", "always", "joint")
PAIRS = {
    "cifar100": (
        "resnet56-resnet20",
        "resnet110-resnet32",
        "resnet32x4-resnet8x4",
        "wrn_40_2-wrn_16_2",
        "vgg13-vgg8",
        "vgg13-MobileNetV2",
        "ResNet50-MobileNetV2",
        "ResNet50-vgg8",
        "resnet32x4-resnet32",
        "wrn_40_2-ShuffleNetV1",
    ),
    "tiny-imagenet": (
        "resnet56-resnet20",
        "resnet110-resnet20",
        "wrn_40_2-wrn_16_2",
        "vgg13-vgg8",
        "vgg13-MobileNetV2",
    ),
}
SMALL_RATE = ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2")  # networks that learn at 0.01; V2 is not the paper's
# Distillers whose routing loss counts twice where it is worse than the student's, by data set; others follow CIFAR-100.
GAMMA = {"cifar100": ("at", "rkd", "vid"), "tiny-imagenet": DISTILLERS_OF_THE_PAPER}
# What single files of the author code have otherwise.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "cifar100/nst/ResNet50-MobileNetV2": {"batch_size": 32, "eval_batch_size": 32},
    "cifar100/nst/wrn_40_2-ShuffleNetV1": {"batch_size": 32, "eval_batch_size": 32},
    "cifar100/ft/ResNet50-vgg8": {"preparation": {"lr": 0.05}},
}


@dataclass(frozen=True)
class Recipe:
    """An experiment by name.

    Attributes:
        data: the data set.
        distiller: what is distilled; empty for a network on its own.
        teacher: the teacher network; empty for a network on its own.
        student: the student network, or the network on its own.
        strategy: where it is distilled; empty for a network on its own.
    """

    data: str
    distiller: str
    teacher: str
    student: str
    strategy: str = "adaptive"

    @property
    def name(self) -> str:
        """Without the strategy, as the list has it."""
        return f"{self.data}/{self.distiller}/{self.pair}" if self.distiller else f"{self.data}/{SINGLE}/{self.student}"

    @property
    def pair(self) -> str:
        """``resnet56-resnet20``"""
        return f"{self.teacher}-{self.student}"

    @property
    def homogeneous(self) -> bool:
        """Whether teacher and student are of one architecture."""
        return architecture(self.teacher) == architecture(self.student)

    @property
    def lr(self) -> float:
        """The student's rate."""
        return 0.01 if self.student in SMALL_RATE else 0.05

    @property
    def gamma(self) -> float:
        """Class weight of the routing loss."""
        return 2.0 if self.distiller in GAMMA.get(self.data, GAMMA["cifar100"]) else 1.0


def architecture(model: str) -> str:
    """The family of a network; four times as wide ResNets are one of their own, as the author code has it."""
    return re.sub(r"^(resnet|ResNet|vgg|wrn)[\d_]+", r"\1", model)


def networks(pair: str) -> tuple[str, str] | None:
    """Teacher and student of ``resnet56-resnet20``; None if it is no pair. Names may hold a dash themselves."""
    dashes = [position for position, letter in enumerate(pair) if letter == "-"]
    cuts = [(pair[:dash], pair[dash + 1 :]) for dash in dashes if pair[:dash] and pair[dash + 1 :]]
    known = [cut for cut in cuts if all(":" in name or name in MODELS for name in cut)]
    return next(iter(known or cuts), None)


def recipe_names() -> list[str]:
    """The paper's 150 distillations and 21 networks on their own."""
    names = []
    for data, pairs in PAIRS.items():
        names += [f"{data}/{distiller}/{pair}" for distiller in DISTILLERS_OF_THE_PAPER for pair in pairs]
        models = {model for pair in pairs for model in pair.split("-")}
        names += [f"{data}/{SINGLE}/{model}" for model in sorted(models)]
    return names


def is_papers(name: str) -> bool:
    """Whether a recipe is an experiment of the paper, and not another that follows the same rules."""
    recipe = parse(name)
    return recipe.name in recipe_names() and recipe.strategy in ("", *STRATEGIES_OF_THE_PAPER)


def parse(name: str) -> Recipe:
    """The recipe that a name stands for; the paper's or any other of known parts.

    Raises:
        SpotkdError: a part is not known, or the data set has no recipe.
    """
    shape = f"recipe {name}: write DATA/DISTILLER/TEACHER-STUDENT, the same and /STRATEGY, or DATA/{SINGLE}/NETWORK"
    head, slash, last = name.rpartition("/")
    strategy = ""
    if slash and "-" not in last and last not in MODELS and not head.endswith(f"/{SINGLE}"):
        strategy = last
        head, slash, last = head.rpartition("/")
    data, slash, distiller = head.rpartition("/")
    data = resolve_name(data)
    if not (slash and data and distiller and last):
        raise SpotkdError(shape)
    pair = ("", last) if distiller == SINGLE else networks(last)
    if pair is None:
        raise SpotkdError(shape)
    teacher, student = pair
    if ":" not in data and data not in DATASETS:
        raise unknown_name(f"data set in recipe {name},", data, list(DATASETS))
    if data == "imagenet":
        raise SpotkdError(f"recipe {name}: the paper and its code have none for ImageNet; give the options yourself")
    for model in filter(None, (teacher, student)):
        if ":" not in model and model not in MODELS:
            raise unknown_name(f"model in recipe {name},", model, list(MODELS))
    if distiller == SINGLE:
        if strategy:
            raise SpotkdError(shape)
        return Recipe(data, "", "", student, "")
    DISTILLERS[distiller]
    make_strategy(strategy or "adaptive")
    return Recipe(data, distiller, teacher, student, strategy or "adaptive")


def describe(name: str) -> str:
    """What sets a recipe apart, on one line."""
    recipe = parse(name)
    options = _options(recipe, {})
    parts = [f"lr {recipe.lr:g}", f"batch {options['batch_size']}"]
    if recipe.distiller:
        kind = "one architecture" if recipe.homogeneous else "two architectures"
        weights = "" if options["beta"] is None else f"beta {options['beta']:g}, "
        parts = [kind, f"{weights}gamma {recipe.gamma:g}", *parts, "variants /" + " /".join(STRATEGIES)]
    return ", ".join(parts if is_papers(name) else ["not the paper's", *parts])


def resolved(name: str, overrides: Mapping[str, Any]) -> TrainOptions | DistillOptions:
    """The complete options of a recipe, with those of the user over them.

    What a rule derives from another option follows the user's value of that: milestones, the policy's bias and a
    preparation follow ``epochs``, the policy's rate follows ``optim.lr``, the policy's options follow ``strategy``.

    Args:
        name: the recipe.
        overrides: options as in a file for ``--config``.

    Raises:
        SpotkdError: an unknown name, key or type; or another data set, distiller or network than the name says.
    """
    recipe = parse(name)
    kind = DistillOptions if recipe.distiller else TrainOptions
    parser = parser_for(kind)
    try:
        check_filled(kind, overrides)
        given = parser.parse_object(dict(overrides), defaults=False).as_dict()  # with numbers that were text as numbers
        beside = given.pop("recipe", None)
        if given.get("epochs") == "auto":
            del given["epochs"]  # the recipe knows
        config: TrainOptions | DistillOptions = from_values(kind, _options(recipe, given))
    except (ArgumentError, TypeError, KeyError) as error:
        raise SpotkdError(f"recipe {name}: {one_line(error)}") from error
    config = replace(config, data=replace(config.data, name=resolve_name(config.data.name)))
    _must_still_be(recipe, config)
    if beside is not None and parse(beside).name != recipe.name:
        raise SpotkdError(f"recipe {beside} is given beside recipe {recipe.name}: give one of them")
    return config


def _options(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the rules give, then the exceptions, then what is given."""
    optim = given.get("optim")
    if optim and optim.get("lr", 0) is None:  # unset: the recipe's
        given = {**given, "optim": {key: value for key, value in optim.items() if key != "lr"}}
    return merged(merged(_rules(recipe, given), EXCEPTIONS.get(recipe.name, {})), given)


def _rules(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the rules give, where the user's own options may shift what is derived from them."""
    epochs, strategy = given.get("epochs", EPOCHS), given.get("strategy", recipe.strategy)
    optim = given.get("optim", {})
    lr = optim.get("lr", recipe.lr if optim.get("kind", "sgd") == "sgd" else learning_rate(OptimOptions(**optim)))
    stepwise = optim.get("schedule", "multistep") == "multistep"
    # In a very short run some coincide: then the run finds them itself.
    drops = [round(epochs * milestone / EPOCHS) for milestone in MILESTONES]
    rules: dict[str, Any] = {
        "recipe": f"{recipe.name}/{strategy}" if recipe.distiller else recipe.name,
        "data": {"name": recipe.data},
        "epochs": epochs,
        "batch_size": 64,
        "eval_batch_size": 64 if recipe.distiller else 128,
        "seed": 1029,
        "optim": {
            "lr": lr,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "multistep",
            "milestones": drops if stepwise and len(set(drops)) == len(drops) else None,
        },
    }
    if not recipe.distiller:
        return rules | {"model": {"name": recipe.student}}
    distiller: Any = DISTILLERS[recipe.distiller]
    at_logits = not getattr(distiller, "default_weight", None) or hasattr(distiller, "temperature")
    rules |= {
        "teacher": {"name": recipe.teacher},
        "student": {"name": recipe.student},
        "distiller": recipe.distiller,
        "strategy": strategy,
        "alpha": 1.0,
        "balance": "none",
        "beta": None if at_logits else distiller.default_weight,
        "temperature": getattr(distiller, "temperature", 4.0),
    }
    preparation = getattr(distiller, "preparation", None)
    if preparation is not None and not given.get("preparation", {}).get("checkpoint"):
        rules["preparation"] = {"epochs": max(round(epochs * preparation.share), 1), "lr": preparation.lr}
    decides = make_strategy(strategy)
    if decides.learns:
        rules["policy"] = {
            "lr": lr / 2,
            "weight_decay": 1e-3,
            "schedule": "published",
            "every": 1,
            "gamma": recipe.gamma,
            "bias": 0.0 if decides.trains_teacher else _bias(recipe, epochs),
        }
    return rules


def _bias(recipe: Recipe, epochs: int) -> float | str:
    """The policy's initial bias towards the teacher: 10 in the paper where both networks are of one architecture.

    Weight decay shrinks it by a constant factor a step, so for another number of epochs it is the one that has shrunk
    to 1 at the same share of the run; never more than 10, at which every decision is the teacher's already. Other data
    sets have other numbers of steps, which are counted when they are opened.
    """
    if not recipe.homogeneous:
        return 0.0
    return float(10.0 ** min(epochs / EPOCHS, 1)) if recipe.data in PAIRS else "scaled"


def _must_still_be(recipe: Recipe, config: TrainOptions | DistillOptions) -> None:
    """A recipe's rules hold for what its name says, so that cannot be changed beside it."""
    if isinstance(config, DistillOptions):
        networks, distiller = f"{config.teacher.name}-{config.student.name}", config.distiller
        now = f"{config.data.name}/{distiller}/{networks}"
    else:
        now = f"{config.data.name}/{SINGLE}/{config.model.name}"
    if now != recipe.name:
        raise SpotkdError(f"recipe {recipe.name} is for other data or networks than these; take recipe {now}")


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Options with others over them, section by section."""
    result = dict(one)
    for key, value in other.items():
        mine = result.get(key)
        result[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return result


def as_yaml(config: TrainOptions | DistillOptions) -> str:
    """The options as a file for ``--config``; a comment says what the paper has, if it is one of its experiments."""
    import yaml

    return _remark(config.recipe) + str(yaml.safe_dump(asdict(config), sort_keys=False))


def _remark(name: str | None) -> str:
    if name is None:
        return ""
    if not is_papers(name):
        return "# By the paper's rules, but not one of its experiments.\n"
    recipe = parse(name)
    pair = (recipe.data, recipe.distiller, recipe.teacher, recipe.student)
    sakd, standard = (published_top1(*pair, strategy) for strategy in ("adaptive", "always"))
    if sakd is None or standard is None:
        return ""
    return f"# In the paper: {sakd:.2f} % by SAKD, {standard:.2f} % at every spot; {CAUTION}.\n"
