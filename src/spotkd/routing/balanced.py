"""Balance as a strategy: everywhere, but nowhere more strongly than labels and logits pull."""

from __future__ import annotations

from .strategies import STRATEGIES, Always


@STRATEGIES.register("balance")
class Balanced(Always):
    """Every sample at every spot, each spot's pull bounded by that of labels and logits.

    The same as `always` with `--balance auto`, see `spotkd.balance`; under this name it combines with others:
    `trust+balance`.
    """

    balances = True
