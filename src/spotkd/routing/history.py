"""What was seen of the last samples: by it a strategy knows which of a batch are extreme."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import all_gather


class History(nn.Module):
    """The values ``(samples, columns)`` of the last samples of all processes; NaN where there was none yet.

    Args:
        samples: how many are kept.
        columns: values of a sample.
    """

    values: Tensor
    _next: Tensor  # the row that is overwritten next; on the device, so that a step is the same whatever it is

    def __init__(self, samples: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("_next", torch.tensor(0), persistent=False)
        self.register_buffer("values", torch.full((samples, columns), torch.nan))

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Keep the values ``(B, columns)`` of this process's samples and of those of the others."""
        rows = all_gather(rows.detach()).to(self.values.dtype)[: len(self.values)]
        places = (self._next + torch.arange(len(rows), device=rows.device)) % len(self.values)
        self.values.index_copy_(0, places, torch.where(rows.isfinite(), rows, torch.nan))
        self._next.add_(len(rows)).remainder_(len(self.values))

    def quantile(self, share: float) -> Tensor:
        """The value ``(columns,)`` below which so large a share of what is kept lies."""
        found: Tensor = self.values.nanquantile(share, dim=0)
        return found

    def get_extra_state(self) -> Tensor:
        """Where the next row goes."""
        return self._next.cpu().clone()

    def set_extra_state(self, state: Any) -> None:
        self._next.fill_(int(state))
