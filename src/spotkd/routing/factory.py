"""Strategies from their names, alone or combined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import SpotkdError, one_line
from ..registry import PYTHON
from ..stages import Shape
from .strategies import STRATEGIES, Decisions, Draw, Evidence, Strategy


def make_strategy(name: str) -> Strategy:
    """The strategy of that name: ``always``, ``random:0.3``, ``trust:labels=false``, ``trust+balance``, ``python:...``.

    Raises:
        SpotkdError: there is none, its values make no sense, or code of the user's gives something else.
    """
    parts = [_make_one(part) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else Combined(parts)


def _make_one(name: str) -> Strategy:
    kind, _, given = (name, "", "") if name.startswith(PYTHON) else name.partition(":")
    make: Any = STRATEGIES[kind]
    words = [word.partition("=") for word in given.split(",") if word]
    try:
        strategy = make(
            *(_read_value(word) for word, equals, _ in words if not equals),
            **{key: _read_value(value) for key, equals, value in words if equals},
        )
    except TypeError as error:
        raise SpotkdError(f"strategy is {name}: it cannot be made ({one_line(error)[:200]})") from error
    if not isinstance(strategy, Strategy):
        raise SpotkdError(f"strategy is {name}: it gives a {type(strategy).__name__}, not a spotkd.Strategy")
    return strategy


def _read_value(word: str) -> bool | float:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        return float(word)
    except ValueError:
        raise SpotkdError(f"strategy: '{word}' is no number, and neither true nor false") from None


class Combined(Strategy):
    """Several strategies at once: their weights are multiplied.

    Args:
        parts: the strategies; at most one may learn a policy, and at most one may try out what helps.
    """

    def __init__(self, parts: Sequence[Strategy]) -> None:
        super().__init__()
        for flag, what in (("learns", "learn a policy"), ("needs_held_out", "try out what helps")):
            alike = [type(part).__name__ for part in parts if getattr(part, flag)]
            if len(alike) > 1:
                raise SpotkdError(f"strategy: {' and '.join(alike)} both {what}, and only one can; take one")
        self.parts = nn.ModuleList(parts)
        self.learns = any(part.learns for part in parts)
        self.trains_teacher = any(part.trains_teacher for part in parts)
        self.policy_warmup = max(part.policy_warmup for part in parts)
        self.needs_losses = any(part.needs_losses for part in parts)
        self.looks_ahead = any(part.looks_ahead for part in parts)
        self.balances = any(part.balances for part in parts)
        self.needs_held_out = any(part.needs_held_out for part in parts)

    def __iter__(self) -> Iterator[Strategy]:
        return iter(cast(Sequence[Strategy], self.parts))

    @property
    def tells_samples_apart(self) -> bool:
        return any(part.tells_samples_apart for part in self)

    def build(self, spots: int, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape]) -> None:
        for part in self:
            part.build(spots, student_shapes, teacher_shapes)

    def weigh(self, evidence: Evidence) -> Decisions:
        decisions: list[Decisions] = [part.weigh(evidence) for part in self]
        mask = decisions[0].mask
        for other in decisions[1:]:
            mask = mask * other.mask
        losses = [each.loss for each in decisions if each.loss is not None]
        route = next((each.route for each in decisions if each.route is not None), None)
        return Decisions(mask, route, torch.stack(losses).sum() if losses else None)

    def draw_route(self, logits: Tensor) -> Tensor:
        learning = [part for part in self if part.learns]
        return (learning or list(self))[0].draw_route(logits)

    def expected_weights(self, evidence: Evidence) -> Tensor:
        weights = torch.ones_like(evidence.policy_logits[..., 0])
        for part in self:
            weights = weights * part.expected_weights(evidence)
        return weights

    def measures(self) -> Mapping[str, Tensor]:
        return {name: numbers for part in self for name, numbers in part.measures().items()}

    def start_epoch(self, epoch: int, epochs: int) -> None:
        for part in self:
            part.start_epoch(epoch, epochs)

    def finish_epoch(self, held_out_loss: float) -> Sequence[Draw]:
        drawn = [part.finish_epoch(held_out_loss) for part in self if part.needs_held_out]
        return next(filter(None, drawn), ())
