"""Pictures: image files, wherever they lie, and the pixels in them."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ..cores import available_cores
from ..errors import SpotkdError, one_line

EXTENSIONS = frozenset(["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm"])
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # Pillow has others, of which EPS starts a program
LARGEST_FILE = 256 << 20  # bytes of a picture's file
LARGEST_PICTURE = 100_000_000  # pixels: a small file can unfold to any number of them
_BLOCK = 64  # pictures that a thread decodes before it takes more
_THREADS = 8  # at most: more are in each other's way
_SAMPLE = 512  # pictures whose size is looked at before one is chosen for all


class Pictures(Protocol):
    """Image files by number. Worker processes get copies of it, so it must be possible to pickle."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[str, bytes]:
        """What to call the picture in an error message, and the content of its file.

        Raises:
            SpotkdError: it cannot be read.
        """


@dataclass(frozen=True)
class Files:
    """Pictures below a folder.

    Attributes:
        root: the folder.
        names: paths in it, as bytes in one array: worker processes share that, and would copy a million strings.
    """

    root: str
    names: npt.NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[str, bytes]:
        path = Path(self.root, os.fsdecode(self.names[number]))
        return str(path), read(path)


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        SpotkdError: it cannot be read, is no plain file, or a huge one.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # reading a pipe or a device may never end
            raise SpotkdError(f"{path}: not a plain file; remove it")
        if state.st_size > LARGEST_FILE:
            raise SpotkdError(f"{path}: {state.st_size >> 20} MB, and {LARGEST_FILE >> 20} MB are the most; remove it")
        return path.read_bytes()
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be read ({error.strerror})") from error


def is_picture(name: str) -> bool:
    """Whether a file is one, by its name; hidden files are none."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in EXTENSIONS


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: Pillow has them for what is odd in a file, and a picture is either decoded or an error.

    The filters belong to the process, so this stands around threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(name: str, content: bytes) -> Image.Image:
    """A picture in RGB and upright; transparency is left out, of several frames the first is taken.

    Args:
        name: what to call it in an error message.
        content: of its file.

    Raises:
        SpotkdError: it is damaged, or no picture.
    """
    try:
        with _opened(name, content) as file:
            image: Image.Image = file
            image.load()
            with suppress(Exception):  # a broken note on how the camera was held leaves the pixels as they are
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):  # 16 bits of grey, of which Pillow would keep the darkest 256
                grey = np.asarray(image).astype(np.int64) >> 8
                image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except SpotkdError:
        raise
    except UnidentifiedImageError as error:
        raise SpotkdError(f"{name}: damaged or not a picture; replace or remove it") from error
    except Exception as error:  # damage makes the decoders raise nearly anything
        raise SpotkdError(f"{name}: damaged ({one_line(error)[:200]}); replace or remove it") from error


def _opened(name: str, content: bytes) -> Image.Image:
    """A picture of which only the first bytes have been looked at, and not too large a one."""
    most = f"more than {LARGEST_PICTURE // 1_000_000} million pixels; make it smaller or remove it"
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
        raise SpotkdError(f"{name}: {most}") from error
    if image.width * image.height > LARGEST_PICTURE:
        raise SpotkdError(f"{name}: {most}")
    return image


def pixels(image: Image.Image) -> Tensor:
    """``(3, H, W)`` uint8 of a picture in RGB."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture made as large as it must be to cover ``size``, height and width, and its centre cut out."""
    height, width = size
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def size_of(name: str, content: bytes) -> tuple[int, int]:
    """Height and width of a picture, as :func:`decode` gives it, from the first bytes of the file alone.

    Raises:
        SpotkdError: it is no picture.
    """
    try:
        with _opened(name, content) as image:
            width, height = image.size
            orientation = 1
            with suppress(Exception):
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    except SpotkdError:
        raise
    except Exception as error:
        raise SpotkdError(f"{name}: damaged or not a picture; replace or remove it") from error


def common_size(pictures: Sequence[Pictures]) -> tuple[int, int] | None:
    """Height and width that all pictures have, or an evenly spread sample of a great many; None if they differ.

    Raises:
        SpotkdError: one of those looked at is no picture.
    """
    total = sum(map(len, pictures))
    places = np.linspace(0, total - 1, min(total, _SAMPLE)).round().astype(np.int64)
    sizes: set[tuple[int, int]] = set()
    with quiet():
        for part in pictures:
            sizes |= {size_of(*part[int(number)]) for number in places[(places >= 0) & (places < len(part))]}
            places = places - len(part)
    return sizes.pop() if len(sizes) == 1 else None


def decode_all(pictures: Pictures, numbers: Sequence[int], size: tuple[int, int], title: str) -> Tensor:
    """Decode into memory, with a bar in a terminal.

    A picture of another size is brought to it by :func:`cover`.

    Args:
        pictures: where they are.
        numbers: which to decode, in this order.
        size: height and width to bring them to.
        title: what stands before the bar.

    Returns:
        ``(N, 3, H, W)`` uint8.

    Raises:
        SpotkdError: one of them cannot be read or is damaged; the first one, if there are several.
    """
    height, width = size
    images = np.empty((len(numbers), 3, height, width), dtype=np.uint8)

    def fill(start: int) -> int:
        for place, number in enumerate(numbers[start : start + _BLOCK], start):
            image = decode(*pictures[number])
            images[place] = np.asarray(cover(image, size)).transpose(2, 0, 1)
        return len(numbers[start : start + _BLOCK])

    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    text = TextColumn("{task.description}", markup=False)
    bar = Progress(text, *columns, console=console, transient=True, disable=not console.is_terminal)
    with quiet(), bar, ThreadPoolExecutor(min(_THREADS, available_cores())) as threads:
        task = bar.add_task(title, total=len(numbers))
        for done in threads.map(fill, range(0, len(numbers), _BLOCK)):
            bar.advance(task, done)
    return torch.from_numpy(images)
