"""Fetching goes on where it stopped and trusts nothing unchecked; unpacking stays in its folder."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from spotkd import SpotkdError
from spotkd.data import DataSpec, ImageSet, cifar, download, load_dataset
from spotkd.data.download import Archive, ensure_archive, ensure_folder, fetch
from spotkd.untrusted.archives import unpack_archive

from .formats import write_cifar100

CONTENT = np.random.default_rng(0).bytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """A web server with bad manners on request.

    Attributes:
        content: what it has under every path.
        cuts: bytes after which it closes each of the next connections.
        ranges: how it takes a wish for a part: "kept", "ignored", or "shifted" to another part.
        status: answer this to everything; 200 for none.
        length: say how much is to come.
        stall: having sent the bytes of a cut, wait for this before closing.
        asked: path and Range header of each request.
        sent: bytes sent in each answer.
    """

    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)
    ranges: str = "kept"
    status: int = 200
    length: bool = True
    stall: threading.Event | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wish = request.headers["Range"]
        self.asked.append((request.path, wish))
        if self.status != 200:
            self.sent.append(0)
            request.send_error(self.status)
            return
        start = 0
        if wish and self.ranges != "ignored":
            start = int(wish.removeprefix("bytes=").rstrip("-"))
            if start >= len(self.content):
                self.sent.append(0)
                request.send_error(416)
                return
            start += 7 if self.ranges == "shifted" else 0
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        body = self.content[start:]
        if self.length:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(body)
        self.sent.append(len(body[:cut]))
        request.wfile.write(body[:cut])
        request.wfile.flush()
        if self.stall is not None and cut < len(body):
            self.stall.wait(60)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_PAUSE", 0)
    known = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        known.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield known
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "archive.tar.gz"


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(pattern: str, action: Callable[[], object]) -> str:
    """The words of the error, which are one line."""
    with pytest.raises(SpotkdError, match=pattern) as caught:
        action()
    assert str(caught.value).isprintable()
    return str(caught.value)


# Fetching


def test_a_whole_file(server: Server, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(f"{server.address}/archive.tar.gz", target, MD5)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert server.asked == [("/archive.tar.gz", None)]
    said = capsys.readouterr()
    assert said.err == f"fetching {server.address}/archive.tar.gz to {target}\n"  # no bar where there is no terminal
    assert said.out == ""


def test_a_bar_in_a_terminal(
    server: Server, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    server.cuts = [300_000]
    fetch(f"{server.address}/archive.tar.gz", target, MD5)
    bar = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"archive\.tar\.gz .*1\.0/1\.0 MB", bar)


def test_without_a_length(server: Server, target: Path) -> None:
    server.length = False
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_continued(server: Server, target: Path) -> None:
    server.cuts = [300_000, 1, 200_000]
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT
    assert [wish for _, wish in server.asked] == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]
    assert sum(server.sent) == len(CONTENT)


def test_a_connection_that_keeps_breaking_off(server: Server, target: Path) -> None:
    server.cuts = [1000] * 5
    message = fails("cannot be fetched", lambda: fetch(server.address, target, MD5))
    assert "the connection broke off: 5000 of 1000000 bytes came" in message
    assert "run again to resume after the first 5000 bytes" in message
    assert MD5 in message
    assert str(target) in message
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:5000]
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 6
    assert server.asked[-1][1] == "bytes=5000-"
    assert sum(server.sent) == len(CONTENT)


@pytest.mark.process
def test_a_killed_process_is_continued_by_the_next(server: Server, target: Path) -> None:
    server.cuts, server.stall = [600_000], threading.Event()
    code = "import sys; from pathlib import Path; from spotkd.data.download import fetch; "
    code += "fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    child = subprocess.Popen([sys.executable, "-c", code, server.address, target, MD5], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (part_of(target).exists() and part_of(target).stat().st_size >= 500_000):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        server.stall.set()
    assert not target.exists()
    there = part_of(target).stat().st_size
    assert 500_000 <= there <= 600_000
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT
    assert [wish for _, wish in server.asked] == [None, f"bytes={there}-"]
    assert server.sent[1] == len(CONTENT) - there


@pytest.mark.parametrize("ranges", ["ignored", "shifted"])
def test_a_server_that_does_not_keep_to_the_part_asked_for(server: Server, target: Path, ranges: str) -> None:
    server.cuts, server.ranges = [300_000], ranges
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked[1][1] == "bytes=300000-"


def test_a_part_that_is_whole_already(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == [("/", "bytes=1000000-")]
    assert server.sent == [0]


def test_a_part_of_something_else(server: Server, target: Path) -> None:
    target.parent.mkdir()
    for size in (5, 2_000_000):  # shorter, and longer than what is wanted
        part_of(target).write_bytes(bytes(size))
        fails("removed it, try again", lambda: fetch(server.address, target, MD5))
        assert list(target.parent.iterdir()) == []
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum(server: Server, target: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    found = hashlib.md5(server.content).hexdigest()
    message = fails("gave a file of md5", lambda: fetch(server.address, target, MD5))
    assert message.startswith(f"{server.address}: gave a file of md5 {found} in place of {MD5}")
    assert list(target.parent.iterdir()) == []


def test_a_file_that_is_there(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    fetch(server.address, target, MD5)
    target.write_bytes(CONTENT[:-1])
    found = hashlib.md5(CONTENT[:-1]).hexdigest()
    fails(f"{re.escape(str(target))}: has md5 {found} in place of {MD5}", lambda: fetch(server.address, target, MD5))
    assert target.read_bytes() == CONTENT[:-1]
    assert server.asked == []


@pytest.mark.parametrize("status", [403, 404, 416, 503])
def test_an_answer_that_is_no_file(server: Server, target: Path, status: int) -> None:
    server.status = status
    message = fails(f"cannot be fetched \\(HTTP Error {status}", lambda: fetch(f"{server.address}/a.gz", target, MD5))
    assert message.startswith(f"{server.address}/a.gz: ")
    assert f"put the file (md5 {MD5}) at {target} yourself" in message
    assert "run again" not in message
    assert not target.exists()
    assert len(server.asked) == 1


def test_no_network(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_names(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    config = DataSpec("cifar100", root=str(target.parent), download=True)
    message = fails("cannot be fetched", lambda: ensure_folder(cifar.CIFAR100.archive, config, "cifar-100-python"))
    assert message.startswith("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz: ")
    assert "Name or service not known" in message
    assert (
        f"put the file (md5 eb9058c3a382ffc7106e4002c42a8d85) at {target.parent / 'cifar-100-python.tar.gz'}" in message
    )


def test_a_net_that_goes_away_for_a_moment(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cuts = [300_000]
    connect, calls = socket.create_connection, 0

    def sometimes(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return connect(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", sometimes)
    fetch(server.address, target, MD5)
    assert calls == 3
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "host/file", ""])
def test_other_addresses(target: Path, url: str) -> None:
    fails("only http:// and https:// addresses", lambda: fetch(url, target, MD5))


@pytest.mark.parametrize("url", ["http://", "http://host:port/file", "http://h\u00f6st/\u00e4", "http://a b/c"])
def test_addresses_that_are_none(target: Path, url: str) -> None:
    fails("cannot be fetched", lambda: fetch(url, target, MD5))


def test_folders_and_links_in_the_way(server: Server, target: Path, tmp_path: Path) -> None:
    target.parent.mkdir()
    for path in (target, part_of(target)):
        path.mkdir()
        fails(f"^{re.escape(str(path))}: not a file", lambda: fetch(server.address, target, MD5))
        path.rmdir()
        path.symlink_to(tmp_path / "nowhere")
        fails(f"^{re.escape(str(path))}: not a file", lambda: fetch(server.address, target, MD5))
        path.unlink()
    assert not (tmp_path / "nowhere").exists()
    assert server.asked == []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(CONTENT)
    target.symlink_to(elsewhere)
    fetch(server.address, target, MD5)
    assert target.is_symlink()
    assert server.asked == []
    target.parent.rename(tmp_path / "other")
    target.parent.write_text("a file where the folder should be")
    fails("cannot be written", lambda: fetch(server.address, target, MD5))


def test_a_disk_that_takes_no_more(server: Server, target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        fails(f"{re.escape(str(part_of(target)))}: cannot be written", lambda: fetch(server.address, target, MD5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not target.exists()
    assert CONTENT.startswith(part_of(target).read_bytes())
    fetch(server.address, target, MD5)
    assert target.read_bytes() == CONTENT


# Unpacking


Entry = tuple[str, bytes | None]  # a name, and its content; None for a folder


def pack_tar(path: Path, *entries: Entry | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1] or b"")
            info.type = tarfile.DIRTYPE if entry[1] is None else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(entry[1] or b""))
    return path


def pack_zip(path: Path, *entries: Entry | zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w") as package:
        for entry in entries:
            if isinstance(entry, zipfile.ZipInfo):
                package.writestr(entry, "target")
            else:
                package.writestr(entry[0] + "/" * (entry[1] is None), entry[1] or b"")
    return path


def special(kind: bytes, name: str = "top/special", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


GOOD: tuple[Entry, ...] = (("top", None), ("top/a", b"1"), ("top/deep/b", CONTENT), ("top/empty", None))
PACKERS: dict[str, Callable[..., Path]] = {"x.tar.gz": pack_tar, "x.tar": pack_tar, "x.zip": pack_zip}


@pytest.mark.parametrize("name", PACKERS)
def test_unpacking(tmp_path: Path, name: str) -> None:
    archive, folder = PACKERS[name](tmp_path / name, *GOOD, ("other", b"2")), tmp_path / "out" / "there"
    unpack_archive(archive, folder)
    assert (folder / "top/a").read_bytes() == b"1"
    assert (folder / "top/deep/b").read_bytes() == CONTENT
    assert (folder / "top/empty").is_dir()
    assert names_in(folder) == ["other", "top"]
    fails(f"^{re.escape(str(folder / 'other'))}: already exists", lambda: unpack_archive(archive, folder))


UNSAFE_NAMES = [
    "../evil",
    "top/../../evil",
    "/tmp/evil",
    "top/..",
    "..\\evil",
    "C:\\evil",
    "\\evil",
    "C:evil",
    "//h/s/evil",
]


@pytest.mark.parametrize("pack", [pack_tar, pack_zip])
@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_names_outside_the_folder(tmp_path: Path, pack: Callable[..., Path], name: str) -> None:
    archive = pack(tmp_path / ("x.zip" if pack is pack_zip else "x.tar"), *GOOD, (name, b"x"))
    refuses(archive, re.escape(repr(name)) + " would be written outside")


@pytest.mark.parametrize(
    "info",
    [
        special(tarfile.SYMTYPE, link="/etc"),
        special(tarfile.SYMTYPE, link="../.."),
        special(tarfile.SYMTYPE, link="a"),
        special(tarfile.LNKTYPE, link="../../outside"),
        special(tarfile.LNKTYPE, link="/etc/passwd"),
        special(tarfile.CHRTYPE),
        special(tarfile.BLKTYPE),
        special(tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.type.decode()}{info.linkname}",
)
def test_links_and_devices_in_a_tar(tmp_path: Path, info: tarfile.TarInfo) -> None:
    refuses(pack_tar(tmp_path / "x.tar.gz", *GOOD, info), "'top/special' is a link or a device")


def test_links_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("top/special")
    info.external_attr = 0o120777 << 16
    refuses(pack_zip(tmp_path / "x.zip", *GOOD, info), "'top/special' is a link or a device")


def refuses(archive: Path, pattern: str) -> None:
    """The archive is refused before anything is written."""
    folder = archive.parent / "out"
    message = fails(pattern, lambda: unpack_archive(archive, folder))
    assert message.startswith(f"{archive}: refused, its member ")
    assert names_in(archive.parent) == [archive.name]


@pytest.mark.parametrize("name", PACKERS)
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    archive, folder = PACKERS[name](tmp_path / name, *GOOD), tmp_path / "out"
    content = archive.read_bytes()
    middle = bytearray(content)
    middle[500_000] ^= 255
    damages = [content[: share * len(content) // 10] for share in range(9)] + [b"garbage" * 1000]
    if name == "x.zip":  # which has a checksum of each file's content
        damages.append(bytes(middle))
    for damage in damages:
        archive.write_bytes(damage)
        fails(f"^{re.escape(str(archive))}: damaged or no archive", lambda: unpack_archive(archive, folder))
        assert not folder.exists() or list(folder.iterdir()) == []


def test_a_missing_archive(tmp_path: Path) -> None:
    for name in PACKERS:
        fails("cannot be unpacked", lambda name=name: unpack_archive(tmp_path / name, tmp_path))  # type: ignore[misc]


def test_a_disk_that_takes_no_more_while_unpacking(tmp_path: Path) -> None:
    archive, folder = pack_tar(tmp_path / "x.tar.gz", *GOOD), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        fails("x.tar.gz: cannot be unpacked into .*out", lambda: unpack_archive(archive, folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []
    unpack_archive(archive, folder)
    assert (folder / "top/deep/b").read_bytes() == CONTENT


def test_unpacking_that_is_broken_off_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, folder, seen = pack_tar(tmp_path / "x.tar.gz", *GOOD), tmp_path / "out", []

    def interrupted(*arguments: object, **options: object) -> None:
        seen.append([str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()])
        if len(seen) == 2:
            raise KeyboardInterrupt
        copy(*arguments, **options)

    copy = tarfile.copyfileobj  # type: ignore[attr-defined]
    monkeypatch.setattr(tarfile, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack_archive(archive, folder)
    assert len(seen[1]) == 2, "the second file had been begun"
    assert all(name.startswith(".x.tar.gz.") for name in seen[1])
    assert not (folder / "top").exists()


# Both


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DataSpec, Archive]:
    """CIFAR-100 in small, on the server, and a configuration that fetches it."""
    write_cifar100(tmp_path / "made")
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made/cifar-100-python", "cifar-100-python")
    server.content = (tmp_path / "made.tar.gz").read_bytes()
    archive = replace(cifar.CIFAR100.archive, md5=hashlib.md5(server.content).hexdigest())
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, archive=archive))
    return DataSpec("cifar100", str(tmp_path / "data"), True, f"{server.address}/mirror/"), archive


def load(config: DataSpec) -> ImageSet:
    split = load_dataset("cifar100", root=config.root, download=config.download, mirror=config.mirror).train
    assert isinstance(split, ImageSet)
    return split


def test_a_data_set_from_the_net(published: tuple[DataSpec, Archive], server: Server, tmp_path: Path) -> None:
    config, _ = published
    found = load(config)
    expected = load(DataSpec("cifar100", str(tmp_path / "made")))
    assert np.array_equal(found.images, expected.images)
    assert server.asked == [("/mirror/cifar-100-python.tar.gz", None)]
    root = Path(config.root)
    assert names_in(root) == ["cifar-100-python", "cifar-100-python.tar.gz"]

    load(replace(config, download=False))
    load(config)
    assert len(server.asked) == 1, "what is there is not fetched again"


def test_an_archive_that_is_there_is_checked_and_unpacked(
    published: tuple[DataSpec, Archive], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    config, archive = published
    config = replace(config, download=False)
    assert archive.md5 in fails("cifar100: no .*cifar-100-python: let", lambda: load(config))
    packed = Path(config.root) / archive.filename
    packed.parent.mkdir()
    packed.write_bytes(server.content[:-5])
    fails("has md5 .* remove it", lambda: load(config))
    assert not (packed.parent / "cifar-100-python").exists()
    packed.write_bytes(server.content)
    assert len(load(config)) == 40
    assert server.asked == []
    assert capsys.readouterr().err == f"unpacking {packed}\n"


def test_an_archive_of_something_else(published: tuple[DataSpec, Archive]) -> None:
    config, archive = published
    fails("holds no folder cifar-10", lambda: ensure_folder(archive, config, "cifar-10"))


def test_processes_side_by_side_take_turns(
    published: tuple[DataSpec, Archive], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    config, archive = published
    server.cuts, server.stall = [5000], threading.Event()
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(ensure_folder(archive, config, "cifar-100-python")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    said, deadline = "", time.monotonic() + 60
    while said.count("another process is fetching or unpacking there; waiting for it\n") < 2 or not server.sent:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        said += capsys.readouterr().err
    assert server.sent == [5000]
    server.stall.set()
    for thread in threads:
        thread.join(60)
    assert folders == [Path(config.root) / "cifar-100-python"] * 3
    assert sum(server.sent) == len(server.content)
    assert capsys.readouterr().err.count("unpacking") == 1


def test_an_archive_that_is_read_packed(published: tuple[DataSpec, Archive], server: Server) -> None:
    config, archive = published
    packed = Path(config.root) / archive.filename
    missing = fails(
        f"no {re.escape(str(packed))}: let", lambda: ensure_archive(archive, replace(config, download=False))
    )
    assert f"{config.mirror}cifar-100-python.tar.gz (md5 {archive.md5})" in missing
    assert ensure_archive(archive, config) == packed
    assert packed.read_bytes() == server.content
    packed.write_bytes(b"the user's own")
    assert ensure_archive(archive, config).read_bytes() == b"the user's own"
    assert len(server.asked) == 1


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = DataSpec("cifar100", str(tmp_path / "file"), download=True)
    fails("file: cannot be written", lambda: ensure_archive(cifar.CIFAR100.archive, config))


def test_addresses() -> None:
    archive = cifar.CIFAR10.archive
    assert archive.filename == "cifar-10-python.tar.gz"
    assert archive.address(None) == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    for mirror in ("https://mirror/a/b", "https://mirror/a/b/"):
        assert archive.address(mirror) == "https://mirror/a/b/cifar-10-python.tar.gz"
