"""Zip and tar archives: unpacked by Python's own library once all members are checked, or read in place."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ..errors import SpotkdError, one_line

MAX_RATIO = 20  # times its own size that an archive may unpack to; pictures hardly shrink
MIN_BOUND = 64 << 20  # bytes that any archive may unpack to
MAX_MEMBER = 256 << 20  # bytes of a member that is read in place


class Member(NamedTuple):
    """What an archive says of one of its members: its name, its size in bytes and what it is."""

    name: str
    size: int
    is_file: bool
    is_folder: bool


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a zip or a tar into ``folder``; what the archive has at its top appears there complete or not at all.

    All members are checked before anything is written, more strictly than by ``tarfile``'s data filter, which allows
    links inside the folder and makes absolute names relative, and by ``zipfile``, which drops parts of names: the
    archive of a data set has no use for either. Of modes and owners the data filter takes over what is harmless.

    Raises:
        SpotkdError: a member that is a link or a device, or has a name outside the folder; a name that is taken; a
            damaged archive; a full disk.
    """
    try:
        with _open_archive(archive) as package:
            tops = _check_members(archive, package)
            for top in tops:
                if os.path.lexists(folder / top):
                    raise SpotkdError(f"{folder / top}: already exists; remove it to unpack {archive}")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{archive.name}.") as temporary:
                _extract_all(package, temporary)
                _flush_files(temporary)
                for top in tops:
                    Path(temporary, top).rename(folder / top)
    except SpotkdError:
        raise
    except Exception as error:  # damage makes the readers raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise SpotkdError(f"{archive}: cannot be unpacked into {folder} ({one_line(error)})") from error
        raise SpotkdError(f"{archive}: damaged or no archive ({one_line(error)[:200]}); remove it") from error


def _open_archive(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return zipfile.ZipFile(archive) if archive.suffix == ".zip" else tarfile.open(archive)


def _extract_all(package: zipfile.ZipFile | tarfile.TarFile, folder: str) -> None:
    if isinstance(package, tarfile.TarFile) and hasattr(tarfile, "data_filter"):  # Python 3.10.12, 3.11.4 and later
        package.extractall(folder, filter="data")
    else:
        package.extractall(folder)


def _check_members(archive: Path, package: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    """The names at the top of an archive, sorted, if all of its members may be unpacked.

    Raises:
        SpotkdError: one is a link or a device, has a name outside the folder, or stands there twice; or all together
            are too large.
    """
    files: set[str] = set()
    tops: set[str] = set()
    for member in _limit_total(archive, _list_members(package)):
        wrong = "stands there twice" if member.name in files else _find_fault(member)
        if wrong:
            raise SpotkdError(
                f"{archive}: refused, its member {member.name!r} {wrong}; this is not the genuine archive"
            )
        files |= {member.name} if member.is_file else set()
        tops |= set(PurePosixPath(member.name).parts[:1])
    return sorted(tops)


def _list_members(package: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    if isinstance(package, tarfile.TarFile):
        yield from (Member(info.name, info.size, info.isreg(), info.isdir()) for info in package)
    else:
        yield from map(_describe_zip_member, package.infolist())


def _describe_zip_member(info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # as Unix has it; zero from elsewhere
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
    return Member(info.filename, info.file_size, plain and not info.is_dir(), plain and info.is_dir())


def _limit_total(archive: Path, members: Iterable[Member]) -> Iterator[Member]:
    """Members as long as their sizes together are in proportion to the archive, of which a tar's end is far away."""
    most = max(MIN_BOUND, MAX_RATIO * archive.stat().st_size)
    total = 0
    for member in members:
        total += member.size
        if total > most:
            raise SpotkdError(
                f"{archive}: refused, it would unfold to more than {most >> 20} MB; this is not the genuine archive"
            )
        yield member


def _find_fault(member: Member) -> str | None:
    """Why a member may not be unpacked; None if it may."""
    if not member.is_file and not member.is_folder:
        return "is a link or a device"
    # As Windows understands it a name has every separator, and drives; what is refused there is needed nowhere.
    if PureWindowsPath(member.name).anchor or ".." in PureWindowsPath(member.name).parts:
        return "would be written outside the folder"
    return None


def _flush_files(folder: str) -> None:
    """Write what was unpacked to the disk, so that the names that it gets never stand for half a file."""
    for place, _, names in os.walk(folder):
        for name in names:
            with Path(place, name).open("rb+") as file:
                os.fsync(file.fileno())


class ZipReader:
    """Files in a zip, read in place.

    Args:
        path: the zip.
        folder: the folder in it that names start below.

    Raises:
        SpotkdError: it is no zip.
    """

    def __init__(self, path: Path, folder: str) -> None:
        self.path, self.folder = path, folder
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # damage makes the reader raise nearly anything
            raise SpotkdError(f"{path}: damaged or no zip archive ({one_line(error)}); remove it") from error
        self.names = {name.removeprefix(f"{folder}/") for name in self._zip.namelist()}

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            SpotkdError: it is missing, damaged or too large.
        """
        try:
            info = self._zip.getinfo(f"{self.folder}/{name}")
            if info.file_size > MAX_MEMBER:  # a small archive can unfold to any size
                raise ValueError(f"it unfolds to {info.file_size >> 20} MB")
            return self._zip.read(info)
        except KeyError as error:
            raise SpotkdError(f"{self.describe(name)}: no such file in the archive") from error
        except Exception as error:  # a wrong checksum, a broken stream, an unknown way to pack
            raise SpotkdError(
                f"{self.describe(name)}: damaged ({one_line(error)[:200]}); remove the archive"
            ) from error

    def describe(self, name: str) -> str:
        """A file as error messages name it."""
        return f"{self.path}: {self.folder}/{name}"
