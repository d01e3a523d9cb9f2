"""Image files: how large they may be on the disk and in pixels, and what is decoded from them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import SpotkdError, one_line
from .files import read_bytes

T = TypeVar("T")

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 100_000_000  # a small file can unfold to any number of them
_LARGE_PIXELS = 10_000_000  # beyond which images are decoded one after the other
_TURN = threading.RLock()
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # Pillow has others, of which EPS starts a program


def read_image_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        SpotkdError: it cannot be read, is no plain file, or a huge one.
    """
    return read_bytes(path, MAX_FILE_BYTES)


@contextmanager
def ignore_warnings() -> Iterator[None]:
    """No warnings: Pillow has them for what is odd in a file, and an image is either decoded or an error.

    The filters belong to the process, so this stands around threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_image(name: str, content: bytes) -> Image.Image:
    """An image in RGB and upright; transparency is left out, of several frames the first is taken.

    Args:
        name: what to call it in an error message.
        content: of its file.

    Raises:
        SpotkdError: it is damaged, no image, or has too many pixels.
    """
    return decode_and_use(name, content, lambda image: image)


def decode_and_use(name: str, content: bytes, use: Callable[[Image.Image], T]) -> T:
    """What ``use`` makes of an image as :func:`decode_image` gives it; large ones one after the other.

    So threads side by side take no more than one large image, and whatever is made of it.
    """
    with ExitStack() as stack:
        return use(_decode(name, content, stack))


def _decode(name: str, content: bytes, turn: ExitStack) -> Image.Image:
    try:
        with _open_image(name, content) as file:
            image: Image.Image = file
            if image.width * image.height > _LARGE_PIXELS:
                turn.enter_context(_TURN)
            image.load()
            with suppress(Exception):  # a broken note on how the camera was held leaves the pixels as they are
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):  # 16 bits of grey, of which Pillow would keep the darkest 256
                grey = np.asarray(image)
                image = Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8))
                del grey
            return image.convert("RGB")
    except SpotkdError:
        raise
    except UnidentifiedImageError as error:
        raise SpotkdError(f"{name}: damaged or not a picture; replace or remove it") from error
    except Exception as error:  # damage makes the decoders raise nearly anything
        raise SpotkdError(f"{name}: damaged ({one_line(error)[:200]}); replace or remove it") from error


def read_image_size(name: str, content: bytes) -> tuple[int, int]:
    """Height and width of an image, as :func:`decode_image` gives it, from the first bytes of the file alone.

    Raises:
        SpotkdError: it is no image, or has too many pixels.
    """
    try:
        with _open_image(name, content) as image:
            width, height = image.size
            orientation = 1
            with suppress(Exception):
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    except SpotkdError:
        raise
    except Exception as error:
        raise SpotkdError(f"{name}: damaged or not a picture; replace or remove it") from error


def _open_image(name: str, content: bytes) -> Image.Image:
    """An image of which only the first bytes have been looked at, and not too large a one."""
    most = f"more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller or remove it"
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
        raise SpotkdError(f"{name}: {most}") from error
    if image.width * image.height > MAX_PIXELS:
        raise SpotkdError(f"{name}: {most}")
    return image
