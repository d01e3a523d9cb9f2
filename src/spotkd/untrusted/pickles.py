"""Pickles, which can run any program: read with the few names that genuine files hold, and every other one refused.

Python's own unpickler is used, never the one in C, which takes a pickle's word for how much memory it needs.
"""

from __future__ import annotations

import mmap
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Sized
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np
import numpy.typing as npt

from ..errors import SpotkdError, one_line
from .files import open_file

Array = npt.NDArray[Any]
MAX_READS = 500_000  # of a pickle; some seventy for each tensor
MAX_PICKLE_BYTES = 1 << 30  # a batch of CIFAR-100 has 155 MB


class RefusedError(Exception):
    """A file wants more than plain data, or claims more than it holds."""


class BoundedReader:
    """Bytes to read from; a length beyond their end is an error, whatever was to be read, and so are too many parts.

    Args:
        file: what lies in memory or is mapped, so that nothing is allocated for what is not there.
    """

    def __init__(self, file: BytesIO | mmap.mmap) -> None:
        self._file, self._reads = file, 0

    def _count(self) -> None:
        self._reads += 1
        if self._reads > MAX_READS:
            raise RefusedError("it has more parts than any checkpoint or batch")

    def read(self, size: int) -> bytes:
        self._count()
        content = self._file.read(size)
        if len(content) < size:
            raise EOFError("it ends too early")
        return content

    def readline(self) -> bytes:
        self._count()
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


class MappedFile(BoundedReader):
    """A file of which only as much takes memory as is looked at.

    Attributes:
        size: in bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._mapped)
        super().__init__(self._mapped)

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._mapped.close()


class Stub:
    """Stands for a name in a pickle: it can be called, and the pickle cannot change it as it could a function.

    Attributes:
        item_size: for a type of storage, bytes of one number; 0 for all else.
    """

    __slots__ = ("_make", "item_size")

    def __init__(self, make: Callable[..., object], item_size: int = 0) -> None:
        self._make, self.item_size = make, item_size

    def __call__(self, *arguments: Any) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise RefusedError("it would change a function")


def check_keys(keys: Iterable[object]) -> None:
    """Refuse what takes long to hash: a tuple of tuples of one and the same tuple would take for ever.

    Raises:
        RefusedError: a key is neither a text or a short number, nor a short tuple of those.
    """
    for key in keys:
        parts = key if type(key) is tuple and len(key) <= _MOST_PARTS else (key,)
        for part in parts:
            if type(part) not in _KEY_TYPES or (type(part) is int and part.bit_length() > _MOST_BITS):
                raise RefusedError("it holds keys that are neither text nor short numbers")


_KEY_TYPES = (str, bytes, int, float, bool, type(None))
_MOST_PARTS, _MOST_BITS = 10, 256  # of a key


class BoundedUnpickler(pickle._Unpickler):
    """Python's own unpickler, with work in proportion to the bytes that it reads.

    Args:
        file: read from where it stands.
        limit: items of calls and states that may be copied, since a pickle can name one of them again and again.
        options: of the unpickler.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, limit: int, **options: Any) -> None:
        super().__init__(file, **options)
        self._limit, self._copied = limit, 0

    def _count_copies(self, arguments: object) -> None:
        parts = [arguments, *(arguments if isinstance(arguments, list | tuple) else ())]
        self._copied += sum(len(part) for part in parts if isinstance(part, Sized))
        if self._copied > self._limit:
            raise RefusedError("its calls copy more than it holds")


def _look_first(operation: bytes, look: Callable[[Any], object]) -> None:
    """Look at the stack before an operation; between a mark and its operation it holds what came after the mark."""
    dispatch: dict[int, Callable[[Any], None]] = BoundedUnpickler.dispatch
    load = dispatch[operation[0]]

    def look_and_load(unpickler: Any) -> None:
        look(unpickler)
        load(unpickler)

    dispatch[operation[0]] = look_and_load


_look_first(pickle.SETITEM, lambda unpickler: check_keys(unpickler.stack[-2:-1]))
for _operation in (pickle.SETITEMS, pickle.DICT):
    _look_first(_operation, lambda unpickler: check_keys(unpickler.stack[::2]))
for _operation in (pickle.ADDITEMS, pickle.FROZENSET):
    _look_first(_operation, lambda unpickler: check_keys(unpickler.stack))
for _operation in (pickle.REDUCE, pickle.BUILD, pickle.NEWOBJ, pickle.NEWOBJ_EX):
    _look_first(_operation, lambda unpickler: unpickler._count_copies(unpickler.stack[-1]))
for _operation in (pickle.INST, pickle.OBJ):
    _look_first(_operation, lambda unpickler: unpickler._count_copies(unpickler.stack))


# The batches of CIFAR: dictionaries of arrays and lists


def read_pickle(path: Path) -> dict[str, object]:
    """The dictionary of arrays of whole numbers, lists, strings, bytes and numbers in a pickle of any protocol.

    Keys come as ``str``, whether they were written by Python 2 or 3.

    Raises:
        SpotkdError: the file is missing or damaged, or holds something that would have to be executed.
    """
    if not path.exists():
        raise SpotkdError(f"{path}: no such file; the folder is incomplete, remove it and fetch it again")
    try:
        with open_file(path, MAX_PICKLE_BYTES) as file, MappedFile(file) as mapped:
            content = DataUnpickler(mapped, 4 * mapped.size, encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} in place of a dictionary")
        return {_text_key(key): _unwrap_array(value) for key, value in content.items()}
    except SpotkdError:
        raise
    except RefusedError as error:
        raise SpotkdError(f"{path}: refused, {error}; this is not the genuine file, remove it") from error
    except Exception as error:  # a damaged pickle is a random program: it may raise nearly anything
        raise SpotkdError(f"{path}: damaged or cannot be read ({one_line(error)[:200]})") from error


class DataUnpickler(BoundedUnpickler):
    """Builds plain data; what else a pickle may name is in ``_ALLOWED_NAMES``.

    Read from a :class:`MappedFile`, no length reaches beyond its end.
    """

    dispatch: ClassVar = dict(BoundedUnpickler.dispatch)

    def _load_bytearray(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray  # type: ignore[assignment]

    def find_class(self, module: str, name: str) -> object:
        known = module.replace("numpy.core", "numpy._core").replace("__builtin__", "builtins"), name
        if known not in _ALLOWED_NAMES:
            raise RefusedError(f"it would execute {f'{module}.{name}'[:80]!r}")
        return Stub(_ALLOWED_NAMES[known])


class _PickledDType:
    """A type of whole numbers: the arguments of ``numpy.dtype``, then its state with the order of bytes."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code, self.order = _to_text(code), "="
        if not re.fullmatch("[iu][1248]", self.code):
            raise RefusedError(f"it holds an array of type {self.code[:20]!r} in place of whole numbers")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = _to_text(state[1])

    def dtype(self) -> np.dtype[Any]:
        if self.order not in ("<", ">", "|", "="):
            raise ValueError(f"no order of bytes: {self.order[:20]!r}")
        return np.dtype(self.order.replace("|", "=") + self.code)


class _PickledArray:
    """An array as pickles have it, made empty and filled by its state."""

    def __init__(self) -> None:
        self._array: Array | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledDType, bool, bytes]) -> None:
        _, shape, kind, by_columns, content = state
        self._array = np.frombuffer(content, kind.dtype()).reshape(shape, order="F" if by_columns else "C")

    def array(self) -> Array:
        if self._array is None:
            raise ValueError("an array without content")
        return self._array


def _text_key(key: object) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _unwrap_array(value: object) -> object:
    return value.array() if isinstance(value, _PickledArray) else value


def _to_text(value: object) -> str:
    """Python 2 wrote bytes where Python 3 writes strings."""
    return value.decode("ascii") if isinstance(value, bytes) else cast(str, value)


def _from_buffer(content: bytes, kind: _PickledDType, shape: tuple[int, ...], order: str, axes: Any = None) -> Array:
    """As NumPy's function of this name, which protocol 5 calls."""
    array = np.frombuffer(content, kind.dtype())
    return array.reshape(shape).transpose(axes) if order == "K" else array.reshape(shape, order=cast(Any, order))


def _encode(text: str, codec: str) -> bytes:
    """Bytes as protocols before 3 write them; in general ``_codecs.encode`` imports any codec it is given."""
    if _to_text(codec) not in ("latin1", "latin-1"):
        raise RefusedError(f"it would execute _codecs.encode with {_to_text(codec)[:20]!r}")
    return text.encode("latin-1")


def _refuse_call(*_: object) -> object:
    raise RefusedError("it would execute numpy.ndarray")


# Names as of Python 3 and NumPy 2; the array that is "reconstructed" is always an empty one.
_ALLOWED_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _refuse_call,
    ("numpy", "dtype"): _PickledDType,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",
}
