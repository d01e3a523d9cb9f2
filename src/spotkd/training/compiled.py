"""A hook that compiles the networks' passes."""

from __future__ import annotations

from ..compiling import compile_method
from ..losses import Method
from .hooks import Hook, Start
from .progress import Progress


class Compiled(Hook):
    """The networks' passes as programs of ``torch.compile`` while the training lasts, see :mod:`spotkd.compiling`."""

    def __init__(self, method: Method, size: int, progress: Progress) -> None:
        self._programs = compile_method(method, size, progress.note)

    def on_start(self, start: Start) -> None:
        self._programs.__enter__()

    def on_stop(self, error: BaseException | None) -> None:
        self._programs.__exit__(None, None, None)
