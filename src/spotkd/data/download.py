"""Files of data sets from the net: fetched so that nothing is lost, checked before use.

A fetch that was cut goes on where it stopped, in this process or in a later one. Nothing stands under its final name
before its checksum is right.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import BinaryIO, cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..errors import SpotkdError, one_line
from ..untrusted.archives import unpack_archive
from .spec import DataSpec

_ATTEMPTS = 5  # connections that may break off before the user has to start again
_PAUSE = 1.0  # seconds before the second attempt; more before later ones
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 20  # bytes at a time
_LOCK = ".lock"  # in the folder while a process fetches or unpacks there


@dataclass(frozen=True)
class Archive:
    """The archive that a data set is published as.

    Attributes:
        name: of the data set; it begins error messages.
        url: where its makers keep it.
        md5: of the archive, in hexadecimal digits.
    """

    name: str
    url: str
    md5: str

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2]

    def address(self, mirror: str | None) -> str:
        """Where to fetch it; a mirror stands for all of the URL up to the last slash."""
        return self.url if mirror is None else f"{mirror.rstrip('/')}/{self.filename}"


def obtain(archive: Archive, spec: DataSpec, holds: str) -> Path:
    """The folder ``holds`` that the archive unpacks to: in the root, or the root itself if that is its name.

    A folder that is there is taken as it is. Failing that, the archive in the root is checked and unpacked, fetched
    before if the user has asked for it.

    Raises:
        SpotkdError: neither is there and nothing was to be fetched; or as :func:`fetch` and :func:`unpack_archive`.
    """
    root = Path(spec.root)
    wanted, packed = root / holds, root / archive.filename
    for folder in (wanted, root):
        if folder.name == holds and folder.is_dir():
            return folder
    if not packed.is_file():
        _must_be_allowed(archive, spec, holds)
    with _alone_in(root):
        if not wanted.is_dir():
            fetch(archive.address(spec.mirror), packed, archive.md5)
            _say(f"unpacking {packed}")
            unpack_archive(packed, root)
    if not wanted.is_dir():
        raise SpotkdError(f"{packed}: holds no folder {holds}")
    return wanted


def obtain_packed(archive: Archive, spec: DataSpec) -> Path:
    """The archive itself, in the root, for data that are read without unpacking; fetched if the user has asked for it.

    The checksum is computed once, when the file is fetched. A file that is there is taken as it is, like a folder: the
    formats have checksums of their own, and what passes those may be a set that the user has changed on purpose.

    Raises:
        SpotkdError: it is not there and nothing was to be fetched; or as :func:`fetch`.
    """
    packed = Path(spec.root) / archive.filename
    if not packed.is_file():
        _must_be_allowed(archive, spec, archive.filename)
        with _alone_in(packed.parent):
            fetch(archive.address(spec.mirror), packed, archive.md5)
    return packed


def _must_be_allowed(archive: Archive, spec: DataSpec, missing: str) -> None:
    if not spec.download:
        raise SpotkdError(
            f"{archive.name}: no {Path(spec.root) / missing}: let '--data.download true' fetch it, or put "
            f"{archive.address(spec.mirror)} (md5 {archive.md5}) into {spec.root}"
        )


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Processes that start side by side take turns; where folders cannot be locked, the checksums must do."""
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
    path = root / _LOCK
    lock = FileLock(path)
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _say(f"{root}: another process is fetching or unpacking there; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows keeps an open file, and filelock removes it there
                path.unlink()
        lock.release()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A full disk or a folder that may not be written to, on one line."""
    try:
        yield
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be written ({error.strerror or one_line(error)})") from error


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


class _BrokenOffError(Exception):
    """The connection, not the user nor the disk, is at fault."""


def fetch(url: str, target: Path, md5: str) -> None:
    """Download to ``target``, by way of ``target.part``, which a later call goes on from.

    Args:
        url: an http or https address.
        target: the file to make; one that is there is checked and left alone.
        md5: what the content must be, in hexadecimal digits.

    Raises:
        SpotkdError: no connection, or one that keeps breaking off; another checksum; the disk is full.
    """
    part = target.with_name(f"{target.name}.part")
    for path in (target, part):
        if os.path.lexists(path) and not path.is_file():
            raise SpotkdError(f"{path}: not a file, or a link to nowhere; remove it")
    if target.exists():
        if (found := _md5(target)) != md5:
            raise SpotkdError(f"{target}: has md5 {found} in place of {md5}, so it is damaged or outdated; remove it")
        return
    if not url.lower().startswith(("http://", "https://")):
        raise SpotkdError(f"{url}: only http:// and https:// addresses can be fetched")
    _say(f"fetching {url} to {target}")
    with _explained(part):
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            if reason := _receive_all(url, file):
                there = file.tell()
                again = f"run again to go on after the first {there} bytes, or " if there else ""
                raise SpotkdError(
                    f"{url}: cannot be fetched ({reason}); {again}set data.mirror, or put the file (md5 {md5}) "
                    f"at {target} yourself"
                )
            file.flush()
            os.fsync(file.fileno())
        if (found := _md5(part)) != md5:
            part.unlink()
            raise SpotkdError(f"{url}: gave a file of md5 {found} in place of {md5}; removed it, try again or a mirror")
        part.replace(target)


def _receive_all(url: str, file: BinaryIO) -> str | None:
    """Append what ``file`` lacks of ``url``, over as many connections as it may take.

    Returns:
        None, or why it could not be done.
    """
    reason = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * attempt)
        try:
            _receive(url, file)
        except HTTPError as error:
            error.close()
            # 416: the file ends where we want to go on. If it is not the one we want, its checksum will tell.
            return None if error.code == 416 and file.tell() else one_line(error)
        except (URLError, InvalidURL, ValueError) as error:
            reason = one_line(error).strip("<>")
            if not attempt:  # no such server or no such address; later it is one more thing that passes
                break
        except _BrokenOffError as error:
            reason = f"the connection broke off: {one_line(error)}"
        else:
            return None
    return reason


def _receive(url: str, file: BinaryIO) -> None:
    """Append what one connection gives."""
    start = file.seek(0, os.SEEK_END)
    wanted = {"User-Agent": "spotkd"} | ({"Range": f"bytes={start}-"} if start else {})
    with ExitStack() as stack:
        with _blaming_the_connection():
            response = cast(HTTPResponse, stack.enter_context(urlopen(Request(url, headers=wanted), timeout=_TIMEOUT)))
        given = response.headers.get("Content-Range", "no range") if response.status == 206 else "bytes 0-"
        if not given.startswith(f"bytes {start}-"):  # the server sends all of it, or some part that we did not ask for
            start = file.seek(0)
            file.truncate()
            if not given.startswith("bytes 0-"):
                raise _BrokenOffError(f"asked for another part, the server gave {given}")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        bar = stack.enter_context(_bar())
        task = bar.add_task(Path(url).name, total=total, completed=start)
        while True:
            with _blaming_the_connection():
                block = response.read1(_BLOCK)
            if not block:
                break
            file.write(block)
            bar.advance(task, len(block))
    if total is not None and file.tell() < total:
        raise _BrokenOffError(f"{file.tell()} of {total} bytes came")


@contextmanager
def _blaming_the_connection() -> Iterator[None]:
    """Tell errors of the net, which are worth another attempt, from those of the disk."""
    try:
        yield
    except (URLError, InvalidURL):
        raise
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(one_line(error)) from error


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, *columns, console=console, transient=True, disable=not console.is_terminal)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
