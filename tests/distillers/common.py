"""What the tests of the distillers share: shapes, masks, ways to build one, and the loss of the selected samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spotkd import DISTILLERS, Batch
from spotkd.distillers import Distiller

from .references import REFERENCES, at_the_smaller_size

Shapes = tuple[tuple[int, ...], ...]

NARROW: Shapes = ((4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2), (8,), (5,))
WIDE: Shapes = ((4, 8, 8), (5, 8, 8), (7, 8, 8), (9, 2, 2), (9,), (5,))  # one map is larger than the narrow one's
SAME_WIDTH: Shapes = ((4, 8, 8), (5, 8, 8), (7, 4, 4), (9, 2, 2), (9,), (5,))  # as WIDE, but for that map's size
CONSECUTIVE = ("fsp", "kdsvd")  # terms that span two spots; both networks need equally many channels

B = 9
MASKS = {
    "none": torch.zeros(B),
    "one": torch.eye(B)[3],
    "two": torch.eye(B)[3] + torch.eye(B)[7],
    "some": torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 1]),
    "all": torch.ones(B),
}

TRAINING_LABELS = torch.arange(40) % 5  # a class of eight leaves 32 samples to contrast with
OPTIONS: dict[str, dict[str, Any]] = {"crd": {"negatives": 12, "dim": 16}}
# Every entry of the registry as it stands, and some with options that change the mathematics.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, OPTIONS.get(name, {})) for name in DISTILLERS} | {
    "cc, teacher trained": ("cc", {"train_teacher": True}),
    "crd, with replacement": ("crd", {"negatives": 50, "dim": 16}),
    "crd, relaxed": ("crd", {"negatives": 12, "dim": 16, "relaxed": True}),
}


def shapes_for(name: str, larger: str = "teacher") -> tuple[Shapes, Shapes]:
    """Shapes of a student and a teacher; ``larger`` has the larger map where the sizes differ."""
    pair = (SAME_WIDTH, WIDE) if name in CONSECUTIVE else (NARROW, WIDE)
    return pair if larger == "teacher" else (pair[1], pair[0])


def build(variant: str, student: Shapes | None = None, teacher: Shapes | None = None, seed: int = 0) -> Distiller:
    """A distiller in float64 and train mode."""
    name, options = VARIANTS[variant]
    ours, theirs = shapes_for(name)
    torch.manual_seed(seed)
    distiller = DISTILLERS[name](student or ours, teacher or theirs, labels=TRAINING_LABELS, **options)
    return distiller.double().train()


def features(shapes: Shapes, at: list[int], seed: int, relu: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(B, *shapes[i], generator=generator, dtype=torch.float64) for i in at]
    return [f.relu() for f in made] if relu else made


def inputs(
    distiller: Distiller, student: Shapes, teacher: Shapes, relu: bool = False
) -> tuple[list[Tensor], list[Tensor], Batch]:
    """Features at the spots, the student's with gradients, and a batch."""
    ours = features(student, [s for s, _ in distiller.spots], seed=1, relu=relu)
    theirs = features(teacher, [t for _, t in distiller.spots], seed=2, relu=relu)
    indices = torch.tensor([3, 38, 11, 0, 22, 25, 17, 31, 9])
    images = torch.zeros(B, 3, 8, 8, dtype=torch.float64)
    return [f.requires_grad_() for f in ours], theirs, Batch(images, TRAINING_LABELS[indices], indices)


def rows(draw: tuple[Tensor, Tensor, Tensor]) -> list[list[int]]:
    """What CRD drew, as lists: for each sample its positive and then its negatives."""
    positives, candidates, drawn = draw
    own = candidates.expand(len(drawn), -1)  # shared by the batch, or each sample's own
    return [[p, *c[chosen].tolist()] for p, c, chosen in zip(positives.tolist(), own, drawn, strict=True)]


# The distillers' own layers, written out from their weights; they see the whole batch, as their BatchNorm must.


def normed(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    return F.batch_norm(x, None, None, w[f"{name}.weight"], w[f"{name}.bias"], training=True)


def factors(x: Tensor, w: Mapping[str, Tensor], module: str, norm: bool) -> Tensor:
    """FT: three 3x3 convolutions with LeakyReLU."""
    for i in (0, 3, 6):
        x = F.conv2d(x, w[f"{module}.{i}.weight"], w[f"{module}.{i}.bias"], padding=1)
        x = F.leaky_relu(normed(x, w, f"{module}.{i + 1}") if norm else x, 0.1)
    return x


def gaussian_mean(x: Tensor, w: Mapping[str, Tensor], i: int) -> Tensor:
    """VID: three 1x1 convolutions without bias."""
    first, second, third = (w[f"regressors.{i}.{k}.weight"][:, :, 0, 0] for k in (0, 2, 4))
    x = torch.einsum("oc,bchw->bohw", first, x).relu()
    x = torch.einsum("oc,bchw->bohw", second, x).relu()
    return torch.einsum("oc,bchw->bohw", third, x)


def reviewed(student: list[Tensor], teacher: list[Tensor], w: Mapping[str, Tensor]) -> list[Tensor]:
    """ReviewKD: attention-based fusion from deep to shallow."""
    results: list[Tensor] = []
    below = None
    for i, (x, t) in reversed(list(enumerate(zip(student, teacher, strict=True)))):
        name = f"fusions.{i}"
        x = normed(F.conv2d(x, w[f"{name}.inward.0.weight"]), w, f"{name}.inward.1")
        if below is not None:
            below = F.interpolate(below, x.shape[2:], mode="nearest")
            z = F.conv2d(torch.cat([x, below], 1), w[f"{name}.attention.0.weight"], w[f"{name}.attention.0.bias"])
            x = x * z.sigmoid()[:, 0:1] + below * z.sigmoid()[:, 1:2]
        below = F.interpolate(x, t.shape[2:], mode="nearest")
        out = F.conv2d(below, w[f"{name}.outward.0.weight"], padding=1)
        results.insert(0, normed(out, w, f"{name}.outward.1"))
    return results


def chosen_layers(student: list[Tensor], teacher: list[Tensor], w: Mapping[str, Tensor]) -> list[Tensor]:
    """SemCKD: for each of the student's maps the weights ``(B, K)`` of the teacher's."""

    def embed(x: Tensor, name: str) -> Tensor:
        hidden = x.mean((2, 3)) @ w[f"{name}.first.weight"].T + w[f"{name}.first.bias"]
        out = F.normalize(hidden).relu() @ w[f"{name}.second.weight"].T + w[f"{name}.second.bias"]
        return F.normalize(out)

    keys = [embed(t, f"keys.{j}") for j, t in enumerate(teacher)]
    queries = [embed(s, f"queries.{i}") for i, s in enumerate(student)]
    return [torch.stack([(q * k).sum(1) for k in keys], dim=1).softmax(1) for q in queries]


def through_own_layers(
    name: str, distiller: Distiller, student: list[Tensor], teacher: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    w = dict(distiller.named_parameters())
    if name == "fitnet":
        return [distiller.get_submodule("regressor")(student[0])], teacher
    if name == "ab":
        connectors = distiller.get_submodule("connectors")
        assert isinstance(connectors, nn.ModuleList)
        return [connector(s) for connector, s in zip(connectors, student, strict=True)], teacher
    if name == "ofd":
        widened = [F.conv2d(s, w[f"connectors.{i}.0.weight"]) for i, s in enumerate(student)]
        return [normed(s, w, f"connectors.{i}.1") for i, s in enumerate(widened)], teacher
    if name == "ft":
        return (
            [factors(student[0], w, "translator.encoder", norm=True)],
            [factors(teacher[0], w, "paraphraser.encoder", norm=False)],
        )
    if name == "vid":
        pairs = [at_the_smaller_size(s, t) for s, t in zip(student, teacher, strict=True)]
        return [gaussian_mean(s, w, i) for i, (s, _) in enumerate(pairs)], [t for _, t in pairs]
    if name == "reviewkd":
        ours, theirs = ([f if f.dim() == 4 else f[:, :, None, None] for f in fs] for fs in (student, teacher))
        return reviewed(ours, theirs, w), theirs
    if name == "semckd":
        regressors = iter(distiller.get_submodule("regressors").children())
        errors = [[(next(regressors)(s) - t).pow(2).flatten(1).mean(1) for t in teacher] for s in student]
        return chosen_layers(student, teacher, w), [torch.stack(mine, dim=1) for mine in errors]
    if name in ("cc", "crd"):
        s = student[0] @ w["embed_student.weight"].T + w["embed_student.bias"]
        t = teacher[0] @ w["embed_teacher.weight"].T + w["embed_teacher.bias"]
        return [s], [t]
    return student, teacher


def extras(name: str, distiller: Distiller, teacher: list[Tensor], i: int) -> dict[str, Any]:
    """What a reference needs beside the features of spot ``i``."""
    if name == "vid":
        return {"log_scale": dict(distiller.named_parameters())[f"log_scales.{i}"]}
    if name == "ofd":  # the mean of the teacher's negative values, over the whole batch; a constant
        return {"margin": torch.stack([c[c < 0].mean() for c in teacher[i].detach().transpose(0, 1)])}
    return {}


def subset_loss(
    name: str,
    distiller: Distiller,
    student: list[Tensor],
    teacher: list[Tensor],
    masks: Tensor,
    batch: Batch,
    crd: dict[str, Any] | None = None,
) -> Tensor:
    """The sum over spots of n / B times the reference loss of the selected samples.

    ``crd``: both memories before the call, ``drawn`` rows of all samples and the normalisers ``z``.
    """
    ours, theirs = through_own_layers(name, distiller, student, teacher)
    terms = [f.sum() * 0 for f in student]
    if name in CONSECUTIVE:
        for k in range(len(student) - 1):
            chosen = (masks[:, k] * masks[:, k + 1]).bool()
            four = (ours[k], ours[k + 1], theirs[k], theirs[k + 1])
            if count := int(chosen.sum()):
                terms.append(count / B * REFERENCES[name](*(f[chosen] for f in four)))
        return torch.stack(terms).sum()
    for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        chosen = masks[:, i].bool()
        count = int(chosen.sum())
        if not count:
            continue
        more = extras(name, distiller, teacher, i)
        if name == "dkd":
            more["labels"] = batch.labels[chosen]
        if crd is not None:
            more = crd | {"drawn": [row for row, c in zip(crd["drawn"], chosen.tolist(), strict=True) if c]}
        weight = 2.0 ** (i - len(student) + 1) if name in ("ab", "ofd") else 1.0
        terms.append(weight * count / B * REFERENCES[name](s[chosen], t[chosen], **more))
    return torch.stack(terms).sum()
