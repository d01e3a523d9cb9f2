"""CRD: the draw of negatives, the two memories and the normalisers, which are set once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spotkd import DISTILLERS, Batch, SpotkdError
from spotkd.distillers import Distiller
from spotkd.distillers.crd import Negatives

from .common import MASKS, NARROW, TRAINING_LABELS, WIDE, B, build, inputs, rows, subset_loss, through_own_layers
from .references import crd_memory, crd_scores

pytestmark = pytest.mark.distillers("crd")

SIZES = {0: 12, 1: 7, 2: 4, 3: 9, 4: 1, 6: 3}  # samples by class, 36 in all; nobody is of class 5
DRAWS = 4000


def uneven_labels() -> Tensor:
    labels = torch.tensor([label for label, size in SIZES.items() for _ in range(size)])
    return labels[torch.randperm(36, generator=torch.Generator().manual_seed(4))]


def drawn_often(negatives: Negatives, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Positives ``(draws, B)``, and how often each sample was a negative in each draw, ``(draws, B, 36)``."""
    torch.manual_seed(0)
    positives, hits = [], []
    for _ in range(DRAWS):
        positive, candidates, drawn = negatives(indices, negatives.labels[indices])
        positives.append(positive)
        own = candidates.expand(len(indices), -1)  # shared by the batch, or each sample's own
        hits.append(torch.zeros(len(indices), 36).scatter_add_(1, own, drawn.float()))
    return torch.stack(positives), torch.stack(hits)


def near(counts: Tensor, chance: float) -> bool:
    """Whether all counts lie within five standard deviations of what independent draws of this chance give."""
    return bool(((counts - DRAWS * chance).abs() <= 5 * (DRAWS * chance * (1 - chance)) ** 0.5).all())


@pytest.mark.parametrize("count", [1, 10, 24, 25, 60])
def test_negatives_are_drawn_uniformly_from_the_other_classes(count: int) -> None:
    """The largest class has 12 of 36 samples: up to 24 negatives are without replacement, more are with."""
    labels = uneven_labels()
    indices = torch.stack([(labels == label).nonzero()[0, 0] for label in SIZES])
    positives, hits = drawn_often(Negatives(labels, count, relaxed=False), indices)
    assert (positives == indices).all()
    assert (hits.sum(2) == count).all()  # exactly so many
    for b, index in enumerate(indices):
        assert not hits[:, b, labels == labels[index]].any()
        found = (hits[:, b, labels != labels[index]] > 0).float()
        pool, without = found.shape[1], count <= 24
        missed, both_missed = (1 - 1 / pool) ** count, (1 - 2 / pool) ** count
        one = count / pool if without else 1 - missed
        two = count * (count - 1) / (pool * (pool - 1)) if without else 1 - 2 * missed + both_missed
        assert near(found.sum(0), one)
        pairs = found.T @ found
        assert near(pairs[~torch.eye(pool, dtype=torch.bool)], two)  # a pair is as likely as any other
        assert (hits[:, b].max() > 1) == (not without)


def test_relaxed_positives_are_uniform_in_their_class() -> None:
    labels = uneven_labels()
    indices = torch.stack([(labels == label).nonzero()[0, 0] for label in SIZES])
    positives, _ = drawn_often(Negatives(labels, 5, relaxed=True), indices)
    for b, size in enumerate(SIZES.values()):
        found = positives[:, b].bincount(minlength=36)
        own = labels == labels[indices[b]]
        assert near(found[own], 1 / size)  # itself too
        assert not found[~own].any()


def memories(distiller: Distiller) -> tuple[Tensor, Tensor]:
    return distiller.get_buffer("memory_student").clone(), distiller.get_buffer("memory_teacher").clone()


def step(distiller: Distiller, kind: str, seed: int = 0) -> tuple[Tensor, list[list[int]]]:
    """One batch: the loss, and what was drawn."""
    found: list[list[list[int]]] = []
    handle = distiller.get_submodule("draw").register_forward_hook(lambda *call: found.append(rows(call[2])))
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    torch.manual_seed(seed)
    loss = distiller(student, teacher, MASKS[kind][:, None], batch)
    handle.remove()
    return loss, found[0]


def embedded(distiller: Distiller) -> tuple[Tensor, Tensor, Tensor]:
    """Both embedded vectors of the batch, and its indices."""
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    (s,), (t,) = through_own_layers("crd", distiller, student, teacher)
    assert batch.indices is not None
    return s.detach(), t.detach(), batch.indices


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("variant", ["crd", "crd, relaxed"])
def test_memories_move_at_the_selected_rows_alone(variant: str, kind: str) -> None:
    distiller = build(variant)
    before = memories(distiller)
    step(distiller, kind)
    *vectors, indices = embedded(distiller)
    chosen = MASKS[kind].bool()
    others = torch.ones(len(TRAINING_LABELS), dtype=torch.bool)
    others[indices[chosen]] = False
    for old, new, v in zip(before, memories(distiller), vectors, strict=True):
        torch.testing.assert_close(new, crd_memory(old, v[chosen], indices[chosen].tolist()), rtol=0, atol=1e-15)
        assert torch.equal(new[others], old[others])


def test_momentum_is_the_share_of_the_old_row() -> None:
    torch.manual_seed(0)
    distiller = DISTILLERS["crd"](NARROW, WIDE, labels=TRAINING_LABELS, negatives=4, momentum=0.9).double()
    old = memories(distiller)[0]
    step(distiller, "one")
    v, _, indices = embedded(distiller)
    moved = 0.9 * old[indices[3]] + 0.1 * v[3] / v[3].norm()
    torch.testing.assert_close(memories(distiller)[0][indices[3]], moved / moved.norm(), rtol=0, atol=1e-15)


def test_normalisers_are_those_of_the_first_batch_with_a_selected_sample() -> None:
    distiller = build("crd")
    memory_s, memory_t = memories(distiller)
    assert step(distiller, "none")[0].item() == 0
    assert not distiller.get_buffer("norms_known")

    _, drawn = step(distiller, "some", seed=1)
    s, t, _ = embedded(distiller)
    chosen = [b for b in range(B) if MASKS["some"][b]]
    wanted = [
        crd_scores(v[chosen], memory, [drawn[b] for b in chosen]).mean() * len(TRAINING_LABELS)
        for v, memory in ((s, memory_t), (t, memory_s))
    ]
    norms = distiller.get_buffer("norms").clone()
    torch.testing.assert_close(norms, torch.stack(wanted), rtol=1e-12, atol=0)

    for kind in ("none", "all"):
        step(distiller, kind, seed=2)
        assert torch.equal(distiller.get_buffer("norms"), norms)


def test_later_batches_use_memories_and_normalisers_as_they_are() -> None:
    distiller = build("crd")
    step(distiller, "all")
    before, z = memories(distiller), distiller.get_buffer("norms").tolist()
    loss, drawn = step(distiller, "some", seed=1)
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    crd = {"memory_s": before[0], "memory_t": before[1], "drawn": drawn, "z": z}
    expected = subset_loss("crd", distiller, student, teacher, MASKS["some"][:, None], batch, crd)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)


def test_mean_scores_are_computed_only_until_an_epoch_starts_with_normalisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step without them gives the same bits; a distiller that takes up a state starts from what that knows."""
    distiller, always = build("crd"), build("crd")
    unset = {key: value.clone() for key, value in distiller.state_dict().items()}
    distiller.start_epoch(1, 3)
    for one in (distiller, always):
        step(one, "all")
    known = {key: value.clone() for key, value in distiller.state_dict().items()}
    assert not distiller.norms_ready
    distiller.start_epoch(2, 3)
    assert distiller.norms_ready

    exponentials: list[Tensor] = []
    exp = Tensor.exp

    def counted(tensor: Tensor) -> Tensor:
        exponentials.append(tensor)
        return exp(tensor)

    monkeypatch.setattr(Tensor, "exp", counted)
    losses, counts = [], []
    for one in (distiller, always):
        exponentials.clear()
        losses.append(step(one, "some", seed=1)[0])
        counts.append(len(exponentials))
    assert torch.equal(*losses)
    assert counts == [0, 4]
    assert all(torch.equal(value, always.state_dict()[key]) for key, value in distiller.state_dict().items())

    distiller.load_state_dict(unset)
    step(distiller, "all")
    assert all(torch.equal(value, known[key]) for key, value in distiller.state_dict().items())
    resumed = build("crd")
    resumed.load_state_dict(known)
    resumed.start_epoch(2, 3)
    assert resumed.norms_ready


@pytest.mark.parametrize("trained", [False, True])
def test_evaluation_changes_nothing(trained: bool) -> None:
    distiller = build("crd")
    if trained:
        step(distiller, "all")
    state = {key: value.clone() for key, value in distiller.state_dict().items()}
    distiller.eval()
    assert torch.isfinite(step(distiller, "some")[0])
    assert all(torch.equal(value, state[key]) for key, value in distiller.state_dict().items())


def test_memories_begin_as_the_papers() -> None:
    torch.manual_seed(0)
    distiller = DISTILLERS["crd"](NARROW, WIDE, labels=torch.arange(2000) % 5)
    for memory in memories(distiller):
        assert memory.shape == (2000, 128)
        assert 0.15305 < memory.abs().max() <= (3 / 128) ** 0.5
        assert memory.var().item() == pytest.approx(1 / 128, rel=0.02)  # rows of length about 1
    assert not any(memory.requires_grad for memory in memories(distiller))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SpotkdError, match=r"labels"):
        DISTILLERS["crd"](NARROW, WIDE)
    with pytest.raises(SpotkdError, match=r"all training labels are the same"):
        DISTILLERS["crd"](NARROW, WIDE, labels=torch.zeros(40, dtype=torch.long))
    distiller = build("crd")
    student, teacher, batch = inputs(distiller, NARROW, WIDE)
    with pytest.raises(SpotkdError, match=r"indices"):
        distiller(student, teacher, MASKS["all"][:, None], Batch(batch.images, batch.labels))
