"""Files of data sets from the net: fetched so that nothing is lost, checked before use, unpacked in safety.

A fetch that was cut goes on where it stopped, in this process or in a later one. Nothing stands under its final name
before its checksum is right, and no archive writes outside its folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO, TypeVar, cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..config import DataConfig
from ..errors import SpotkdError, one_line

_ATTEMPTS = 5  # connections that may break off before the user has to start again
_PAUSE = 1.0  # seconds before the second attempt; more before later ones
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 20  # bytes at a time
_UNFOLDS = 20  # times its own size that an archive may unpack to; pictures hardly shrink
_SMALL = 64 << 20  # bytes that any archive may unpack to

T = TypeVar("T")


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


def obtain(archive: Archive, config: DataConfig, holds: str) -> Path:
    """The folder ``holds`` that the archive unpacks to: in the root, or the root itself if that is its name.

    A folder that is there is taken as it is. Failing that, the archive in the root is checked and unpacked, fetched
    before if the user has asked for it.

    Raises:
        SpotkdError: neither is there and nothing was to be fetched; or as :func:`fetch` and :func:`unpack`.
    """
    root = Path(config.root)
    wanted, packed = root / holds, root / archive.filename
    for folder in (wanted, root):
        if folder.name == holds and folder.is_dir():
            return folder
    if not packed.is_file():
        _must_be_allowed(archive, config, holds)
    with _alone_in(root):
        if not wanted.is_dir():
            fetch(archive.address(config.mirror), packed, archive.md5)
            _say(f"unpacking {packed}")
            unpack(packed, root)
    if not wanted.is_dir():
        raise SpotkdError(f"{packed}: holds no folder {holds}")
    return wanted


def obtain_packed(archive: Archive, config: DataConfig) -> Path:
    """The archive itself, in the root, for data that are read without unpacking; fetched if the user has asked for it.

    The checksum is computed once, when the file is fetched. A file that is there is taken as it is, like a folder: the
    formats have checksums of their own, and what passes those may be a set that the user has changed on purpose.

    Raises:
        SpotkdError: it is not there and nothing was to be fetched; or as :func:`fetch`.
    """
    packed = Path(config.root) / archive.filename
    if not packed.is_file():
        _must_be_allowed(archive, config, archive.filename)
        with _alone_in(packed.parent):
            fetch(archive.address(config.mirror), packed, archive.md5)
    return packed


def _must_be_allowed(archive: Archive, config: DataConfig, missing: str) -> None:
    if not config.download:
        raise SpotkdError(
            f"{archive.name}: no {Path(config.root) / missing}: let '--data.download true' fetch it, or put "
            f"{archive.address(config.mirror)} (md5 {archive.md5}) into {config.root}"
        )


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Processes that start side by side take turns; where folders cannot be locked, the checksums must do."""
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if sys.platform != "win32":
            import fcntl

            with suppress(OSError):
                handle = os.open(root, os.O_RDONLY)
                stack.callback(os.close, handle)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _say(f"{root}: another process is fetching or unpacking there; waiting for it")
                    fcntl.flock(handle, fcntl.LOCK_EX)
        yield


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


@dataclass(frozen=True)
class _Member:
    """Something in an archive: a ``"file"``, a ``"folder"``, or what else there may be."""

    name: str
    kind: str
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or a tar into ``folder``; what the archive has at its top appears there complete or not at all.

    Only the content of plain files is taken over: no modes, owners or links. (This is more than the filters of
    ``tarfile`` do, and the same in every Python.) All names are looked at before anything is written.

    Raises:
        SpotkdError: a member that is a link or a device, or has a name outside the folder; a name that is taken; a
            damaged archive; a full disk.
    """
    try:
        with _members(archive) as members:
            tops = sorted({part for member in members for part in PurePosixPath(member.name).parts[:1]})
            for member in members:
                _refuse_unsafe(archive, member)
            for top in tops:
                if os.path.lexists(folder / top):
                    raise SpotkdError(f"{folder / top}: is there already; remove it to unpack {archive}")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{archive.name}.") as temporary:
                for member in members:
                    _extract(member, Path(temporary, member.name))
                for top in tops:
                    Path(temporary, top).rename(folder / top)
    except SpotkdError:
        raise
    except Exception as error:  # damage makes the readers raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise SpotkdError(f"{archive}: cannot be unpacked into {folder} ({one_line(error)})") from error
        raise SpotkdError(f"{archive}: damaged or no archive ({one_line(error)[:200]}); remove it") from error


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """What an archive holds, while it is open."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as package:
            sized = _bounded(archive, ((info, info.file_size) for info in package.infolist()))
            yield [_Member(info.filename, _zip_kind(info), partial(package.open, info)) for info in sized]
    else:
        with tarfile.open(archive) as tar:
            parts = _bounded(archive, ((info, info.size) for info in tar))
            yield [_Member(info.name, _tar_kind(info), partial(tar.extractfile, info)) for info in parts]


def _bounded(archive: Path, members: Iterable[tuple[T, int]]) -> Iterator[T]:
    """Members as long as their sizes together are in proportion to the archive, of which a tar's end is far away."""
    most = max(_SMALL, _UNFOLDS * archive.stat().st_size)
    total = 0
    for member, size in members:
        total += size
        if total > most:
            raise SpotkdError(
                f"{archive}: refused, it would unfold to more than {most >> 20} MB; this is not the genuine archive"
            )
        yield member


def _tar_kind(info: tarfile.TarInfo) -> str:
    return "file" if info.isreg() else "folder" if info.isdir() else "other"


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16  # as Unix has it; zero from elsewhere
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "other"
    return "folder" if info.is_dir() else "file"


def _refuse_unsafe(archive: Path, member: _Member) -> None:
    wrong = None
    if member.kind == "other":
        wrong = "is a link or a device"
    # As Windows understands it a name has every separator, and drives; what is refused there is needed nowhere.
    elif PureWindowsPath(member.name).anchor or ".." in PureWindowsPath(member.name).parts:
        wrong = "would be written outside the folder"
    if wrong:
        raise SpotkdError(f"{archive}: refused, its member {member.name!r} {wrong}; this is not the genuine archive")


def _extract(member: _Member, path: Path) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None, member.name  # for type checkers: tarfile opens every plain file
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
        file.flush()
        os.fsync(file.fileno())
