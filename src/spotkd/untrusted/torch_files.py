"""Files of ``torch.save``, read so that nothing in them is ever executed and no claim in them is believed.

torch's own reader executes nothing with ``weights_only=True``, but it takes the file's word for sizes: a few bytes can
make it ask for any amount of memory. So the pickle is validated first, with stubs for the few names of plain tensors.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch

from ..errors import SpotkdError, one_line
from .files import MAX_WEIGHTS_BYTES, open_file
from .pickles import BoundedReader, BoundedUnpickler, MappedFile, RefusedError, Stub, check_keys


def load_tensors(path: str | Path) -> object:
    """What ``torch.save`` wrote, onto the CPU; anything but tensors and plain containers is refused.

    The file is validated first: what it claims to hold may not be more than it is long.

    Raises:
        SpotkdError: the file is missing, damaged, or holds something that would have to be executed.
    """
    with open_file(path, MAX_WEIGHTS_BYTES) as file:
        return read_torch_file(file, Path(path))


def read_torch_file(file: BinaryIO, path: Path) -> object:
    """The same from an open file, which ``path`` names in error messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged file makes the reader guess aloud; one line of ours is enough
            file.seek(0)
            names = validate_torch_file(file)
            file.seek(0)
            with torch.serialization.safe_globals([(kind, name) for name, kind in names.items()]):
                return torch.load(file, map_location="cpu", weights_only=True)
    except RefusedError as error:
        raise SpotkdError(f"{path}: refused, {error}; save a plain state dict instead") from error
    except pickle.UnpicklingError as error:
        raise SpotkdError(
            f"{path}: refused, it holds more than tensors (or is no PyTorch file); save a plain state dict instead"
        ) from error
    except Exception as error:  # a damaged pickle is a random program: it may raise nearly anything
        raise SpotkdError(f"{path}: damaged or not a checkpoint ({one_line(error)[:200]})") from error


def validate_torch_file(file: BinaryIO) -> dict[str, type]:
    """Go through all that a file names and claims, and read no tensor.

    Returns:
        What is put for names in it that are neither tensors nor dangerous.

    Raises:
        RefusedError: it names something else than tensors, or claims more than it holds.
        Exception: nearly any other one, from damage.
    """
    if file.read(4) == b"PK\x03\x04":
        return _validate_zip(file)
    with MappedFile(file) as content:  # as torch wrote it before 1.6: pickles one after the other
        for _ in ("magic number", "protocol", "system"):
            PickleValidator(content, {}, content.size).load()
        validator = PickleValidator(content, None, content.size)
        validator.load()
        claimed = sum(validator.claimed.values())
        if claimed > content.size:
            raise RefusedError(f"its tensors claim {claimed} bytes of {content.size}")
        return validator.stand_ins


def _validate_zip(file: BinaryIO) -> dict[str, type]:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as package:
        entries = {entry.filename: entry for entry in package.infolist()}
        tops = {name.partition("/")[0] for name in entries}
        if len(entries) < len(package.infolist()) or len(tops) != 1:
            raise RefusedError("it is a zip that torch.save has not written")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise RefusedError("it is compressed, which torch.save does not do")
        claimed = sum(entry.file_size for entry in entries.values())
        if claimed > size:
            raise RefusedError(f"its parts claim {claimed} bytes, and the file has {size}")
        (top,) = tops
        start = f"{top}/data/"
        records = {name.removeprefix(start): entry.file_size for name, entry in entries.items() if start in name}
        pickled = package.read(f"{top}/data.pkl")
        validator = PickleValidator(BoundedReader(BytesIO(pickled)), records, len(pickled))
        validator.load()
        return validator.stand_ins


class StandIn:
    """Stands for an object that is no tensor, such as the options of a training: nothing of it is made."""

    def __new__(cls, *_: object) -> StandIn:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Its attributes are of no use."""


class DictionaryStandIn:
    """Stands for a kind of dictionary: its items may be the weights, so a plain one is made."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


class PickleValidator(BoundedUnpickler):
    """Goes through the pickle of a checkpoint with stubs for the few names of plain tensors.

    Python's own unpickler is slow, but state dicts are short.

    Args:
        file: read from where it stands.
        records: bytes of each storage by key; None where the storages follow the pickle.
        limit: bytes of the pickle, or of the file that it begins.

    Attributes:
        claimed: bytes of each storage, as the pickle has it.
        stand_ins: a :class:`StandIn` or :class:`DictionaryStandIn` for each harmless name.
    """

    # The last three ways to write something, which torch does not know, ask for memory without filling it.
    dispatch: ClassVar = {op: load for op, load in BoundedUnpickler.dispatch.items() if op < pickle.BYTEARRAY8[0]}

    def __init__(self, file: Any, records: dict[str, int] | None, limit: int) -> None:
        super().__init__(file, limit, encoding="utf-8", errors="surrogateescape")
        self._records = records
        self.claimed: dict[str, int] = {}
        self.stand_ins: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name.removesuffix("Storage") in _ITEM_SIZES:
            return Stub(_ignore, _ITEM_SIZES[name.removesuffix("Storage")])
        if module == "torch" and re.fullmatch(r"b?float\d+\w*|u?int\d+|bool|complex\d+", name):
            return Stub(_ignore)
        if (module, name) not in _ALLOWED_NAMES and _HARMLESS.fullmatch(f"{module}.{name}"):
            now = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # as torch looks it up
            return self._make_stand_in(".".join(now))
        if (module, name) not in _ALLOWED_NAMES:
            raise RefusedError(f"it holds more than tensors: it names {f'{module}.{name}'[:80]!r}")
        return Stub(_ALLOWED_NAMES[module, name])

    def _make_stand_in(self, name: str) -> type[StandIn]:
        self.stand_ins.setdefault(name, StandIn)

        def note_item(*_: object) -> None:
            self.stand_ins[name] = DictionaryStandIn

        return type("StandIn", (StandIn,), {"__setitem__": note_item})

    def persistent_load(self, pid: Any) -> StorageStub:
        _, kind, key, _, count, *_ = pid
        if type(kind) is not Stub or not kind.item_size or type(count) is not int or count < 0:
            raise RefusedError("it holds a storage of an unknown kind")
        check_keys([key])
        key, size = str(key), count * kind.item_size
        if self._records is not None and self._records.get(key, -1) != size:
            raise RefusedError(f"storage {key[:40]!r} claims {size} bytes and has {self._records.get(key, 'none')}")
        self.claimed[key] = max(size, self.claimed.get(key, 0))
        return StorageStub(count)


class StorageStub:
    """Stands for the memory that tensors share.

    Attributes:
        count: numbers in it.
    """

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


def _validate_tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> None:
    """A tensor must lie inside its storage, or torch would make the storage larger."""
    numbers = (offset, *size, *stride)
    if type(storage) is not StorageStub or any(type(number) is not int or number < 0 for number in numbers):
        raise RefusedError("it holds a tensor without a storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise RefusedError(f"a tensor of shape {list(size)} claims more than its storage of {storage.count} numbers")


def _ignore(*_: object) -> None:
    """For names that are looked up and allocate nothing: parameters, types, devices."""


def _validate_attributes(_: object, __: object, ___: object, state: object) -> None:
    """A parameter's attributes of the user's; torch would set those that it has itself, too."""
    names = state if isinstance(state, dict) else [None]
    if any(not isinstance(name, str) or hasattr(torch.nn.Parameter, name) for name in names):
        raise RefusedError("it holds a parameter that changes more than attributes of its own")


def _make_set(items: Iterable[object] = ()) -> set[object]:
    check_keys(listed := list(items))
    return set(listed)


def _make_ordered(pairs: Iterable[Any] = ()) -> OrderedDict[object, object]:
    listed = [(key, value) for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)]
    check_keys(key for key, _ in listed)
    return OrderedDict(listed)


def _make_counter(counts: object) -> Counter[object]:
    """Milestones of a learning-rate schedule; only from a dictionary: of all else torch would count the elements."""
    if type(counts) is not dict or any(type(count) is not int for count in counts.values()):
        raise RefusedError("it holds a Counter of something else than whole numbers")
    return Counter(counts)


_ITEM_SIZES = {  # bytes
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1,
}  # fmt: skip
_ALLOWED_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _make_ordered,
    ("collections", "Counter"): _make_counter,
    ("builtins", "set"): _make_set,
    ("__builtin__", "set"): _make_set,
    ("_codecs", "encode"): _ignore,
    ("torch._utils", "_rebuild_tensor"): _validate_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _validate_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _validate_tensor,
    ("torch._utils", "_rebuild_parameter"): _ignore,
    ("torch._utils", "_rebuild_parameter_with_state"): _validate_attributes,
    ("torch", "Size"): _ignore,
    ("torch", "device"): _ignore,
}

# Options, numbers and settings that trainers save beside their weights.
_HARMLESS = re.compile(
    r"""argparse\.Namespace | types\.SimpleNamespace | collections\.(defaultdict|deque)
    | (builtins|__builtin__)\.(dict|list|int|long|float|str|unicode|bool|tuple|slice|range|xrange|complex|frozenset)
    | numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+) | numpy\.dtypes\.\w+
    | numpy\._?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)
    | pathlib(\._local)?\.\w*Path | datetime\.(date|time|datetime|timedelta|timezone)
    | decimal\.Decimal | fractions\.Fraction | uuid\.UUID | torch\.torch_version\.TorchVersion
    | torch\.optim\.([a-z_]+\.)?[A-Z]\w*
    | (omegaconf|easydict|addict|yacs|mmengine|mmcv|ml_collections|pytorch_lightning|lightning|lightning_fabric
      |lightning_utilities|transformers|timm|fvcore|ignite)\.([a-z_0-9]+\.)*[A-Z]\w*""",
    re.VERBOSE,
)
