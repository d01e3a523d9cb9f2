"""The teacher's outputs in a folder, so that other runs, and resumed ones, need not compute them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..runs.checkpoint import fingerprint
from ..runtime.collectives import barrier, merge_rows
from ..runtime.device import Device
from ..teacher_cache import Rows, TeacherCache, memory_order
from ..untrusted.safetensors_files import read_notes, read_tensors
from .hooks import Epoch, Hook

_NOTES, _CHECKSUM, _ORDER = "made of", "checksum", "order"


class TeacherFiles:
    """A :class:`~spotkd.teacher_cache.Store`: one safetensors file for each output and stored crop.

    A file holds the output's ``values`` for all samples, which of them are ``known``, and as notes a checksum and what
    the outputs were made of. It is read into memory no further than it is looked at, and checked when it is first read.

    Args:
        folder: of the files; it is made where it is missing.
        facts: what the outputs depend on, by the words that name it in a message. Short ones are shown.
        device: where the outputs are used; its first process writes.

    Raises:
        SpotkdError: the folder cannot be made, or holds outputs that were made of something else.
    """

    def __init__(self, folder: str, facts: Mapping[str, str], device: Device) -> None:
        self.folder, self.facts, self.device = Path(folder), dict(facts), device
        self._checked: set[Path] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpotkdError(f"cache.folder is {folder}: cannot be made ({error.strerror or error})") from error
        for path in self._files():
            self._check_facts(path)

    def check_room(self, gib: float) -> None:
        """The disk must have room for so many GiB, less those that are there already.

        Raises:
            SpotkdError: it has not.
        """
        missing = gib - sum(path.stat().st_size for path in self._files()) / 2**30
        free = shutil.disk_usage(self.folder).free / 2**30
        if missing > free:
            raise SpotkdError(
                f"cache.folder is {self.folder}: {missing:.3g} GiB more are needed there, and {free:.3g} are free"
            )

    def read(self, crop: int, name: str) -> Rows | None:
        """The rows of an output, as they were written; on a CPU their memory is that of the file.

        Raises:
            SpotkdError: the file is damaged, or made of something else.
        """
        path = self._path(crop, name)
        if not path.exists():
            return None
        notes, tensors = self._check_facts(path), read_tensors(path, ["known", "values"])
        if path not in self._checked and fingerprint(tensors) != notes.get(_CHECKSUM):
            raise SpotkdError(f"{path}: damaged, its checksum is another; delete it, and it is computed again")
        self._checked.add(path)
        order = torch.tensor(json.loads(notes[_ORDER]))
        where = self.device.fabric.device
        return tensors["values"].permute(*order.argsort().tolist()).to(where), tensors["known"].to(where)

    def write(self, crop: int, rows: Mapping[str, Rows]) -> None:
        """Write the rows of these outputs; of several processes each has some, and the first one writes them.

        Raises:
            SpotkdError: the disk is full, or may not be written.
        """
        for name, (values, known) in rows.items():
            merge_rows(values, known)
            if self.device.is_first:
                self._save(self._path(crop, name), values, known)
        barrier()

    def _save(self, path: Path, values: Tensor, known: Tensor) -> None:
        order = memory_order(values)
        tensors = {"known": known.cpu(), "values": values.permute(order).cpu()}
        notes = {_NOTES: json.dumps(self.facts), _CHECKSUM: fingerprint(tensors), _ORDER: json.dumps(order)}
        try:
            with atomic_write(path) as temporary:
                save_file(tensors, temporary, metadata=notes)
        except (OSError, SafetensorError) as error:
            raise SpotkdError(f"{path}: cannot be written ({one_line(error)[:200]})") from error

    def _path(self, crop: int, name: str) -> Path:
        return self.folder / f"crop{crop + 1:04}-{name}.safetensors"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("crop*.safetensors"))

    def _check_facts(self, path: Path) -> dict[str, str]:
        notes = read_notes(path)
        try:
            found = dict(json.loads(notes[_NOTES]))
        except (KeyError, ValueError, TypeError) as error:
            raise SpotkdError(f"{path}: holds no teacher's outputs; give another --cache.folder") from error
        for what, mine in self.facts.items():
            theirs = str(found.get(what, "unknown"))
            if theirs != mine:
                shown = f" ({theirs[:40]}, and here {mine[:40]})" * (max(len(theirs), len(mine)) < _HASH)
                raise SpotkdError(f"{path}: was made with other {what}{shown}; give another --cache.folder")
        return notes


_HASH = 64  # letters of a checksum, which tells people nothing


class CacheKeeper(Hook):
    """Gives the files what each epoch has computed of the teacher's outputs."""

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache

    def on_epoch(self, epoch: Epoch) -> None:
        self._cache.finish_epoch()
