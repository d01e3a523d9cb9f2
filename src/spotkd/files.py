"""Files: written so that nobody ever sees half of one, read so that nothing in them is ever executed."""

from __future__ import annotations

import mmap
import os
import pickle
import re
import tempfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch

from .errors import SpotkdError, one_line


@contextmanager
def replacing(path: str | Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit it is flushed to the disk and renamed to ``path``.

    An exception inside the block, or a kill at any instant, leaves what stood at ``path`` untouched. With ``keep``,
    that is renamed to ``keep`` before the new file takes its place.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        if os.name == "posix":  # the rename itself lies in the folder's data
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_tensors(path: str | Path) -> object:
    """What ``torch.save`` wrote, onto the CPU; anything but tensors and plain containers is refused.

    The file is looked through first: what it claims to hold may not be more than it is long.

    Raises:
        SpotkdError: the file is missing, damaged, or holds something that would have to be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise SpotkdError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged file makes the reader guess aloud; one line of ours is enough
            _look_through(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except _RefusedError as error:
        raise SpotkdError(f"{path}: refused, {error}; save a plain state dict instead") from error
    except pickle.UnpicklingError as error:
        raise SpotkdError(
            f"{path}: refused, it holds more than tensors (or is no PyTorch file); save a plain state dict instead"
        ) from error
    except Exception as error:  # a damaged pickle is a random program: it may raise nearly anything
        raise SpotkdError(f"{path}: damaged or not a checkpoint ({one_line(error)[:200]})") from error


# Looking through a file of torch.save. torch's own reader executes nothing, but it takes the file's word for sizes:
# a few bytes can make it ask for any amount of memory.


class _RefusedError(Exception):
    """The file wants more than plain tensors, or claims more than it holds."""


def _look_through(path: Path) -> None:
    """Go through all that a file names and claims, and read no tensor.

    Raises:
        _RefusedError: it names something else than tensors, or claims more than it holds.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            _look_through_zip(path)
            return
        with Mapped(file) as content:
            for _ in ("magic number", "protocol", "system"):
                _Scout(content, {}, content.size).load()
            scout = _Scout(content, None, content.size)
            scout.load()
            if sum(scout.claimed.values()) > content.size:
                raise _RefusedError(f"its tensors claim {sum(scout.claimed.values())} bytes of {content.size}")


def _look_through_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as package:
        entries = {entry.filename: entry for entry in package.infolist()}
        tops = {name.partition("/")[0] for name in entries}
        if len(entries) < len(package.infolist()) or len(tops) != 1:
            raise _RefusedError("it is a zip that torch.save has not written")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise _RefusedError("it is compressed, which torch.save does not do")
        claimed = sum(entry.file_size for entry in entries.values())
        if claimed > path.stat().st_size:
            raise _RefusedError(f"its parts claim {claimed} bytes, and the file has {path.stat().st_size}")
        (top,) = tops
        start = f"{top}/data/"
        records = {name.removeprefix(start): entry.file_size for name, entry in entries.items() if start in name}
        pickled = package.read(f"{top}/data.pkl")
        _Scout(Whole(BytesIO(pickled)), records, len(pickled)).load()


class Whole:
    """Something to read from in which a length beyond its end is an error, whatever was to be read."""

    def __init__(self, file: BytesIO | mmap.mmap) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        content = self._file.read(size)  # of what lies in memory: nothing is made for what is not there
        if len(content) < size:
            raise EOFError("it ends too early")
        return content

    def readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


class Mapped(Whole):
    """A file of which only as much takes memory as is looked at.

    Attributes:
        size: in bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._mapped)
        super().__init__(self._mapped)

    def __enter__(self) -> Mapped:
        return self

    def __exit__(self, *_: object) -> None:
        self._mapped.close()


class _Inert:
    """What stands for a name in a pickle: it can be called, and not be changed by the pickle."""

    __slots__ = ("_make", "size")

    def __init__(self, make: Callable[..., object], size: int = 0) -> None:
        self._make, self.size = make, size

    def __call__(self, *arguments: Any) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("it would change a function")


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> None:
    """A tensor must lie inside its storage, or torch would make the storage larger."""
    numbers = (offset, *size, *stride)
    if type(storage) is not _Storage or any(type(number) is not int or number < 0 for number in numbers):
        raise _RefusedError("it holds a tensor without a storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise _RefusedError(f"a tensor of shape {list(size)} claims more than its storage of {storage.count} numbers")


class _Storage:
    """Numbers that tensors share."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


def _nothing(*_: object) -> None:
    """Names that are looked up and make no memory: parameters, types, devices."""


def _counter(counts: object) -> Counter[object]:
    """Milestones of a learning-rate schedule; only from a dictionary: of all else torch would count the elements."""
    if type(counts) is not dict or any(type(count) is not int for count in counts.values()):
        raise _RefusedError("it holds a Counter of something else than whole numbers")
    return Counter(counts)


_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1,
}  # fmt: skip
_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): _counter,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): _nothing,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _nothing,
    ("torch", "Size"): _nothing,
    ("torch", "device"): _nothing,
}


class _Scout(pickle._Unpickler):
    """Goes through a pickle with stand-ins for the few names of plain tensors.

    It is Python's own slow one: the fast one takes a pickle's word for sizes, too. State dicts are short.

    Args:
        file: read from where it stands.
        records: bytes of each storage by key; None where the storages follow the pickle.
        limit: bytes of the pickle, or of the file that it begins.

    Attributes:
        claimed: bytes of each storage, as the pickle has it.
    """

    # The last three ways to write something, which torch does not know, ask for memory without filling it.
    dispatch: ClassVar = {op: load for op, load in pickle._Unpickler.dispatch.items() if op < pickle.BYTEARRAY8[0]}

    def __init__(self, file: Any, records: dict[str, int] | None, limit: int) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self._records = records
        self._limit, self._copied = limit, 0
        self.claimed: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name.removesuffix("Storage") in _BYTES:
            return _Inert(_nothing, _BYTES[name.removesuffix("Storage")])
        if module == "torch" and re.fullmatch(r"b?float\d+\w*|u?int\d+|bool|complex\d+", name):
            return _Inert(_nothing)
        if (module, name) not in _NAMES:
            raise _RefusedError(f"it holds more than tensors: it names {f'{module}.{name}'[:80]!r}")
        make = _NAMES[module, name]
        return _Inert(lambda *arguments: make(*self._copying(arguments)))

    def _copying(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call, which copies them: a pickle that names one of them again and again grows quickly."""
        self._copied += sum(len(argument) for argument in arguments if isinstance(argument, Sized))
        if self._copied > self._limit:
            raise _RefusedError("its calls copy more than it holds")
        return arguments

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count, *_ = pid
        if type(kind) is not _Inert or not kind.size or type(count) is not int or count < 0:
            raise _RefusedError("it holds a storage of an unknown kind")
        key, size = str(key), count * kind.size
        if self._records is not None and self._records.get(key, -1) != size:
            raise _RefusedError(f"storage {key[:40]!r} claims {size} bytes and has {self._records.get(key, 'none')}")
        self.claimed[key] = max(size, self.claimed.get(key, 0))
        return _Storage(count)
