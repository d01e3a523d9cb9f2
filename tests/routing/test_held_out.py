"""A policy that learns from images held out from the student: whose gradients are whose, and which batch comes next."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spotkd import Batch, SpotKD, SpotkdError, create_model
from spotkd.data import Loader
from spotkd.distributed import Shard, use_shard
from spotkd.models import save_weights
from spotkd.options import DistillOptions, ModelOptions, PolicyOptions
from spotkd.routing import PolicyPace
from spotkd.training.build import build_distillation
from spotkd.training.held_out import HeldOutBatches
from tests.conftest import TinyNet, few_glyphs

from .test_every_strategy import build, make_batch

Pair = tuple[TinyNet, TinyNet]
LEARNING = ["adaptive", "anti", "expert_choice:0.5", "dual:0.5", "trust+adaptive"]


class Given:
    """The same batch in every step."""

    def __init__(self, batch: Batch, shard: Shard | None = None) -> None:
        self.batch, self.shard, self.taken = batch, shard or Shard.of(len(batch.labels)), 0

    def next_batch(self) -> tuple[Batch, Shard]:
        self.taken += 1
        return self.batch, self.shard


def losses_with(pair: Pair, strategy: str, held_out: Batch | None, batch: Batch) -> tuple[SpotKD, dict[str, Tensor]]:
    method = build(pair, "at", strategy)
    for module in method.student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # what the student's statistics have of its own images is no part of the question
    method.held_out = None if held_out is None else Given(held_out)
    torch.manual_seed(3)
    losses = method(batch)
    losses.total.backward()
    return method, losses._asdict()


def gradients(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


@pytest.mark.parametrize("strategy", LEARNING)
def test_the_policy_learns_from_held_out_images_alone_and_the_student_from_its_own(pair: Pair, strategy: str) -> None:
    first, second, held, other = (make_batch(seed) for seed in range(4))
    base, losses = losses_with(pair, strategy, held, first)
    own, _ = losses_with(pair, strategy, None, first)
    assert all(map(torch.equal, gradients(base.student_parameters()), gradients(own.student_parameters())))
    assert not all(map(torch.equal, gradients(base.policy_parameters()), gradients(own.policy_parameters())))

    moved, _ = losses_with(pair, strategy, other, first)  # other images held out: nothing changes for the student
    assert all(map(torch.equal, gradients(moved.student_parameters()), gradients(base.student_parameters())))
    assert not all(map(torch.equal, gradients(moved.policy_parameters()), gradients(base.policy_parameters())))

    same, others = losses_with(pair, strategy, held, second)  # other images to train on: nothing does for the policy
    if strategy != "dual:0.5":  # its price follows the share of all that was routed before
        assert all(map(torch.equal, gradients(same.policy_parameters()), gradients(base.policy_parameters())))
        assert torch.equal(others["route"], losses["route"])
    assert not torch.equal(others["task"], losses["task"])


@pytest.mark.parametrize("strategy", LEARNING)
def test_looking_at_held_out_images_leaves_both_networks_and_the_strategy_as_they_are(
    pair: Pair, strategy: str
) -> None:
    method, plain = (build(pair, "at", strategy) for _ in range(2))
    method.held_out = Given(make_batch(7))
    for each in (method, plain):
        torch.manual_seed(1)
        each(make_batch(1))
    for part in ("student", "teacher", "strategy"):
        mine, theirs = (getattr(each, part).state_dict() for each in (method, plain))
        assert all(torch.equal(value.nan_to_num(-9), mine[key].nan_to_num(-9)) for key, value in theirs.items()), part
    assert all(module.training for module in method.student.modules())
    assert method.strategy.training


def test_the_loss_is_the_routing_networks_on_them(pair: Pair) -> None:
    """Computed apart, from the published parts: eval statistics, one draw, gamma rule, balance and share terms."""
    held = make_batch(5)
    method = build(pair, "at", "adaptive", gamma=2.0, share_cost=0.1, target_share=0.4)
    method.held_out = Given(held)
    torch.manual_seed(1)
    found = method(make_batch(1))
    torch.manual_seed(1)
    torch.rand(8, len(method.spot_names), 2, dtype=torch.float64)  # the draw for the student's images comes first
    student = copy.deepcopy(method.student).eval()
    teacher, outputs = method.teacher.features(held.images), student.features(held.images)
    route = method.strategy.decide(method.policy(teacher[-2], outputs[-2])).route
    assert route is not None
    routed = torch.nn.functional.cross_entropy(method.route(held.images, teacher, route), held.labels)
    alone = torch.nn.functional.cross_entropy(outputs[-1], held.labels)
    shares = route.mean(0)
    assert found.route.item() == pytest.approx((routed * (2 if routed > alone else 0.5)).item(), rel=1e-12)
    assert found.balance.item() == pytest.approx(max(4 - route[:, -1].sum().item(), 0))
    expected = 0.1 * shares.sum() + (shares - 0.4).square().sum()
    assert found.share.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_short_batch_of_either_kind_counts_as_its_samples(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes this one trains on 5 of 8 samples and has 4 of 7 held out; the loop multiplies by 2 * 5 / 8."""
    method, batch, held = build(pair, "at", "adaptive"), make_batch(1), make_batch(5)
    method.held_out = Given(Batch(held.images[:4], held.labels[:4]), Shard(0, 4, 7, processes=2))
    monkeypatch.setattr(method, "routing_losses", lambda *_: 3 * (torch.ones((), dtype=torch.float64),))
    with use_shard(Shard(0, 5, 8, processes=2)) as shard:
        losses = method(Batch(batch.images[:5], batch.labels[:5], None))
    for term in (losses.route, losses.balance, losses.share):
        assert (term * shard.loss_weight).item() == pytest.approx(2 * 4 / 7)


def test_the_next_batch_depends_on_how_many_were_taken() -> None:
    data = few_glyphs(20, 94)

    def batches() -> HeldOutBatches:
        return HeldOutBatches(Loader(data, data.train, 8, training=True, seed=1))

    whole, first = batches(), batches()
    taken = [whole.next_batch() for _ in range(9)]
    passes = [torch.cat([batch.indices for batch, _ in taken[n : n + 3] if batch.indices is not None]) for n in (0, 3)]
    assert all(sorted(each.tolist()) == list(range(20)) for each in passes)
    assert not torch.equal(*passes)
    assert [shard.stop for _, shard in taken[:3]] == [8, 8, 4]
    for _ in range(4):
        first.next_batch()
    resumed = batches()
    resumed.load_state_dict(first.state_dict())
    for batch, shard in taken[4:]:
        mine, its = resumed.next_batch()
        assert torch.equal(mine.images, batch.images)
        assert its == shard


def test_nothing_is_taken_while_the_policy_does_not_learn(pair: Pair) -> None:
    method = build(pair, "at", "adaptive", pace=PolicyPace(settling=1, every=2))
    method.held_out = given = Given(make_batch(7))
    routed = [method(make_batch(seed)).route.item() > 0 for seed in range(5)]
    assert routed == [False, True, False, True, False]
    assert given.taken == 2


@pytest.mark.parametrize(
    ("strategy", "val", "message"),
    [
        ("always", True, "has no effect: this strategy has no policy"),
        ("joint", True, "trains the teacher along"),
        ("adaptive", False, "no validation images; hold some out: --data.val_share 0.1"),
        ("adaptive", True, None),
    ],
)
def test_what_does_not_fit_is_refused(strategy: str, val: bool, message: str | None, tmp_path: Path) -> None:
    save_weights(create_model("resnet8", 94), tmp_path / "teacher.safetensors", {"model": "resnet8"})
    options = DistillOptions(
        teacher=ModelOptions("resnet8", str(tmp_path / "teacher.safetensors")),
        student=ModelOptions("resnet8"),
        strategy=strategy,
        policy=PolicyOptions(held_out=True),
        fold=False,
    )
    data = few_glyphs(188, 94)
    if val:
        data = data.hold_out(0.5)
        with pytest.raises(SpotkdError, match="leave cuda_graphs out" if message is None else message):
            build_distillation(replace(options, cuda_graphs=True), data, quiet=True)
    if message is None:
        assert build_distillation(options, data, quiet=True).held_out is None  # until the session is assembled
    else:
        with pytest.raises(SpotkdError, match=message):
            build_distillation(options, data, quiet=True)
