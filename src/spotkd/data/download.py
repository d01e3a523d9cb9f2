"""Files of data sets from the net: fetched so that nothing is lost, checked before use.

A fetch that was cut resumes where it stopped, in this process or in a later one. Nothing stands under its final name
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
from ..untrusted.names import is_looking
from .spec import DataSpec

_ATTEMPTS = 5  # connections that may break off before the user has to repeat the command
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


def ensure_folder(archive: Archive, spec: DataSpec, name: str) -> Path:
    """The folder ``name`` that the archive unpacks to: in the root, or the root itself if that is its name.

    A folder that is there is taken as it is. Failing that, the archive in the root is checked and unpacked, fetched
    before if the user has asked for it.

    Raises:
        SpotkdError: neither is there and nothing was to be fetched; or as :func:`fetch` and :func:`unpack_archive`.
    """
    root = Path(spec.root)
    wanted, packed = root / name, root / archive.filename
    for folder in (wanted, root):
        if folder.name == name and folder.is_dir():
            return folder
    if not packed.is_file():
        _require_download(archive, spec, name)
    if is_looking():
        raise SpotkdError(f"{packed}: not unpacked yet, and looking at a run writes nothing; training unpacks it")
    with _lock_folder(root):
        if not wanted.is_dir():
            fetch(archive.address(spec.mirror), packed, archive.md5)
            _print_status(f"unpacking {packed}")
            unpack_archive(packed, root)
    if not wanted.is_dir():
        raise SpotkdError(f"{packed}: holds no folder {name}")
    return wanted


def ensure_archive(archive: Archive, spec: DataSpec) -> Path:
    """The archive itself, in the root, for data that are read without unpacking; fetched if the user has asked for it.

    The checksum is computed once, when the file is fetched. A file that is there is taken as it is, like a folder: the
    formats have checksums of their own, and what passes those may be a set that the user has changed on purpose.

    Raises:
        SpotkdError: it is not there and nothing was to be fetched; or as :func:`fetch`.
    """
    packed = Path(spec.root) / archive.filename
    if not packed.is_file():
        _require_download(archive, spec, archive.filename)
        with _lock_folder(packed.parent):
            fetch(archive.address(spec.mirror), packed, archive.md5)
    return packed


def _require_download(archive: Archive, spec: DataSpec, missing: str) -> None:
    if not spec.download:
        raise SpotkdError(
            f"{archive.name}: no {Path(spec.root) / missing}: let '--data.download true' fetch it, or put "
            f"{archive.address(spec.mirror)} (md5 {archive.md5}) into {spec.root}"
        )


@contextmanager
def _lock_folder(root: Path) -> Iterator[None]:
    """Processes that start side by side take turns; where folders cannot be locked, the checksums must do."""
    with _explain_write_error(root):
        root.mkdir(parents=True, exist_ok=True)
    path = root / _LOCK
    lock = FileLock(path)
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _print_status(f"{root}: another process is fetching or unpacking there; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows keeps an open file, and filelock removes it there
                path.unlink()
        lock.release()


@contextmanager
def _explain_write_error(path: Path) -> Iterator[None]:
    """A full disk or a folder that may not be written to, on one line."""
    try:
        yield
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be written ({error.strerror or one_line(error)})") from error


def _print_status(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


class _ConnectionLostError(Exception):
    """The connection, not the user nor the disk, is at fault."""


def fetch(url: str, target: Path, md5: str) -> None:
    """Download to ``target``, by way of ``target.part``, which a later call resumes.

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
        if (found := _compute_md5(target)) != md5:
            raise SpotkdError(f"{target}: has md5 {found} in place of {md5}, so it is damaged or outdated; remove it")
        return
    if not url.lower().startswith(("http://", "https://")):
        raise SpotkdError(f"{url}: only http:// and https:// addresses can be fetched")
    _print_status(f"fetching {url} to {target}")
    with _explain_write_error(part):
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            if reason := _receive_all(url, file):
                there = file.tell()
                again = f"run again to resume after the first {there} bytes, or " if there else ""
                raise SpotkdError(
                    f"{url}: cannot be fetched ({reason}); {again}set data.mirror, or put the file (md5 {md5}) "
                    f"at {target} yourself"
                )
            file.flush()
            os.fsync(file.fileno())
        if (found := _compute_md5(part)) != md5:
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
            # 416: the file ends where we want to resume. If it is not the one we want, its checksum will show it.
            return None if error.code == 416 and file.tell() else one_line(error)
        except (URLError, InvalidURL, ValueError) as error:
            reason = one_line(error).strip("<>")
            if not attempt:  # no such server or no such address; later it is one more thing that passes
                break
        except _ConnectionLostError as error:
            reason = f"the connection broke off: {one_line(error)}"
        else:
            return None
    return reason


def _receive(url: str, file: BinaryIO) -> None:
    """Append what one connection gives."""
    start = file.seek(0, os.SEEK_END)
    wanted = {"User-Agent": "spotkd"} | ({"Range": f"bytes={start}-"} if start else {})
    with ExitStack() as stack:
        with _translate_network_errors():
            response = cast(HTTPResponse, stack.enter_context(urlopen(Request(url, headers=wanted), timeout=_TIMEOUT)))
        given = response.headers.get("Content-Range", "no range") if response.status == 206 else "bytes 0-"
        if not given.startswith(f"bytes {start}-"):  # the server sends all of it, or some part that we did not ask for
            start = file.seek(0)
            file.truncate()
            if not given.startswith("bytes 0-"):
                raise _ConnectionLostError(f"asked for another part, the server gave {given}")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        bar = stack.enter_context(_make_progress_bar())
        task = bar.add_task(Path(url).name, total=total, completed=start)
        while True:
            with _translate_network_errors():
                block = response.read1(_BLOCK)
            if not block:
                break
            file.write(block)
            bar.advance(task, len(block))
    if total is not None and file.tell() < total:
        raise _ConnectionLostError(f"{file.tell()} of {total} bytes came")


@contextmanager
def _translate_network_errors() -> Iterator[None]:
    """Translate errors of the net, which are worth another attempt; those of the disk stay as they are."""
    try:
        yield
    except (URLError, InvalidURL):
        raise
    except (OSError, HTTPException) as error:
        raise _ConnectionLostError(one_line(error)) from error


def _make_progress_bar() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, *columns, console=console, transient=True, disable=not console.is_terminal)


def _compute_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise SpotkdError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
