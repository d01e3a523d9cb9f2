"""CIFAR's files: read exactly, whoever wrote them; refused when they are programs; one line when they are damaged."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spotkd import Dataset, Loader, SpotkdError
from spotkd.data import ImageSet, load_dataset
from spotkd.data.cifar import CIFAR100
from spotkd.untrusted.pickles import read_pickle

from .formats import Dump, Written, python2_pickle, python3_pickle, write_cifar10, write_cifar100

WRITERS: dict[str, Callable[..., Written]] = {"cifar10": write_cifar10, "cifar100": write_cifar100}
DUMPS: dict[str, Dump] = {"python2": python2_pickle} | {f"protocol{n}": python3_pickle(n) for n in range(6)}


def assert_equal(data: Dataset, written: Written) -> None:
    splits = (
        (data.train, written.train_images, written.train_labels),
        (data.test, written.test_images, written.test_labels),
    )
    for split, images, labels in splits:
        assert isinstance(split, ImageSet)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()
        assert np.array_equal(split.images.numpy(), images)
        assert split.labels.tolist() == labels
    assert data.classes == written.classes


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
def test_pixels_labels_and_names_of_every_protocol(tmp_path: Path, name: str, dump: Dump) -> None:
    written = WRITERS[name](tmp_path, dump)
    data = load_dataset(name, root=str(tmp_path))
    assert_equal(data, written)
    assert data.name == name
    assert data.image_shape == (3, 32, 32)
    assert (len(data.train), len(data.test)) == {"cifar10": (35, 7), "cifar100": (40, 12)}[name]
    assert (data.padding, data.flip) == (4, True)


def test_the_tests_write_what_python_itself_reads(tmp_path: Path) -> None:
    written = write_cifar100(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file names NumPy's modules as they were called
        raw = pickle.loads((tmp_path / "cifar-100-python/train").read_bytes(), encoding="bytes")
    assert np.array_equal(raw[b"data"].reshape(-1, 3, 32, 32), written.train_images)
    assert raw[b"fine_labels"] == written.train_labels


@pytest.mark.parametrize("name", WRITERS)
def test_batches_are_normalised_by_the_constants_of_the_paper(tmp_path: Path, name: str) -> None:
    written = WRITERS[name](tmp_path)
    data = load_dataset(name, root=str(tmp_path))
    mean, std = {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    }[name]
    (batch,) = Loader(data, data.test, 64, training=False).epoch(0)
    expected = (written.test_images / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(batch.images.mean((0, 2, 3)).numpy(), expected.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(batch.images.numpy().var((0, 2, 3)), expected.var((0, 2, 3)), atol=1e-4)


def test_the_root_may_be_the_folder_itself(tmp_path: Path) -> None:
    written = write_cifar100(tmp_path)
    assert_equal(load_dataset("CIFAR-100", root=str(tmp_path / "cifar-100-python")), written)


def test_options_and_limits(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    assert len(load_dataset("cifar100", root=str(tmp_path), limit=9).train) == 9
    with pytest.raises(SpotkdError, match=r"data\.image_size has no effect on cifar100"):
        load_dataset("cifar100", root=str(tmp_path), image_size=64)


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        SpotkdError, match=r"cifar10: no .*cifar-10-batches-py: let '--data.download true' fetch it, or"
    ) as e:
        load_dataset("cifar10", root=str(tmp_path / "none"))
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in str(e.value)
    assert "c58f30108f718f92721af3b95e74349a" in str(e.value)
    assert not (tmp_path / "none").exists()
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(SpotkdError, match="data_batch_3: no such file; the folder is incomplete"):
        load_dataset("cifar10", root=str(tmp_path))


# What a file may hold


@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">i4", "<u8", ">i8"])
def test_arrays_of_every_layout(tmp_path: Path, dump: Dump, kind: str) -> None:
    base = (np.arange(24).reshape(4, 6) * 5).astype(kind)
    arrays = {"plain": base, "empty": base[:0]}
    if dump is not python2_pickle:
        arrays |= {
            "columns": np.asfortranarray(base),
            "strided": base[:, ::2],
            "cube": base.reshape(2, 3, 4).swapaxes(0, 1),
        }
    (tmp_path / "file").write_bytes(dump(arrays))
    found = read_pickle(tmp_path / "file")
    assert list(found) == list(arrays)
    for key, array in arrays.items():
        got = found[key]
        assert isinstance(got, np.ndarray)
        assert got.dtype == array.dtype
        assert np.array_equal(got, array)


@pytest.mark.parametrize("protocol", [0, 2])
def test_names_of_numpy_1(tmp_path: Path, protocol: int) -> None:
    written = pickle.dumps({"data": np.arange(5)}, protocol).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in written
    (tmp_path / "file").write_bytes(written)
    assert np.array_equal(read_pickle(tmp_path / "file")["data"], np.arange(5))  # type: ignore[arg-type]


@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
def test_labels_may_be_an_array_and_names_text(tmp_path: Path, dump: Dump) -> None:
    written = write_cifar100(tmp_path, dump)
    folder = tmp_path / "cifar-100-python"
    for file in ("train", "test"):
        content = read_pickle(folder / file)
        (folder / file).write_bytes(dump(content | {"fine_labels": np.array(content["fine_labels"])}))
    (folder / "meta").write_bytes(dump({"fine_label_names": list(written.classes)}))
    assert_equal(load_dataset("cifar100", root=str(tmp_path)), written)


# Programs


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def programs(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that make the file ``mark`` when they are executed, and what is named in the refusal."""
    shell, system = f"echo done > {mark}", f"{os.name}.system"
    call = Calls(os.system, shell)
    objects = np.empty(2, dtype=object)
    objects[:] = [call, 1]
    return {
        "reduce": (pickle.dumps(call, 2), system),
        "stack global": (pickle.dumps(call, 4), system),
        "protocol 0": (pickle.dumps(call, 0), system),
        "instance": (b"(S'" + shell.encode() + b"'\nios\nsystem\n.", "os.system"),
        "object": (b"(cos\nsystem\nS'" + shell.encode() + b"'\no.", "os.system"),
        "nested": (pickle.dumps({b"data": [np.zeros(3, np.uint8), {b"deep": (call,)}]}, 4), system),
        "as a key": (pickle.dumps({b"data": 1, Calls(os.system, shell): 2}, 2), system),
        "eval": (pickle.dumps({b"data": Calls(eval, f"open({str(mark)!r}, 'w').close()")}, 4), "builtins.eval"),
        "old eval": (pickle.dumps({b"data": Calls(eval, f"open({str(mark)!r}, 'w').close()")}, 2), "__builtin__.eval"),
        "attribute": (
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(shell)]) + shell.encode() + b"\x85R.",
            "os.system",
        ),
        "object array": (pickle.dumps({b"data": objects}, 4), "O8"),
        "old object array": (pickle.dumps({b"data": objects}, 2), "O8"),
    }


@pytest.mark.parametrize("kind", programs(Path()))
def test_programs_are_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "executed"
    content, named = programs(mark)[kind]
    pickle.loads(content, encoding="bytes")
    assert mark.exists(), "the program does nothing, so that the test would show nothing"
    mark.unlink()

    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-python/train"
    path.write_bytes(content)
    with pytest.raises(SpotkdError, match="refused") as caught:
        load_dataset("cifar100", root=str(tmp_path))
    assert not mark.exists()
    message = str(caught.value)
    assert message.startswith(f"{path}: refused, ")
    assert named in message
    assert "\n" not in message


REFUSED = {
    "another codec": (
        b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x05\x00\x00\x00rot13\x86R.",
        "it would execute _codecs.encode with 'rot13'",
    ),
    "bytes with arguments": (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "damaged"),
    "calling an array's type": (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "it would execute numpy.ndarray"),
    "making an instance": (b"\x80\x02cnumpy\nndarray\n)\x81.", "damaged .*not a type"),
    "changing a function": (b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__)s\x86b.", "it would change a function"),
    "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0ftesting.os.path\x93.", "it would execute 'numpy.testing.os.path'"),
    "an extension": (b"\x80\x02\x82\x01.", "damaged .*extension"),
    "something from outside": (b"\x80\x02U\x01xQ.", "damaged .*persistent"),
    "a float array": (python3_pickle(4)({"data": np.zeros(2)}), "an array of type 'f8'"),
    "a structured array": (
        python3_pickle(4)({"data": np.zeros(2, [("a", "u1"), ("b", "u1")])}),
        "an array of type 'V2'",
    ),
    "names with line breaks": (b"\x80\x04\x8c\x04a\nb\x1b\x8c\x01c\x93.", r"it would execute 'a\\nb\\x1b.c'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_pickle_may_do_with_the_names_it_knows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    content, expected = REFUSED[kind]
    path.write_bytes(content)
    with pytest.raises(SpotkdError, match=f"^{re.escape(str(path))}: .*{expected}") as caught:
        read_pickle(path)
    assert str(caught.value).isprintable()
    path.write_bytes(pickle.dumps({"data": np.arange(3)}, 2))  # nothing has changed for the next file
    assert np.array_equal(read_pickle(path)["data"], np.arange(3))  # type: ignore[arg-type]


# Damage


def change(path: Path, changes: dict[str, object]) -> None:
    """Replace entries of a file, or take them out for None."""
    content = read_pickle(path) | changes
    path.write_bytes(python2_pickle({key: entry for key, entry in content.items() if entry is not None}))


PIXELS = np.zeros((40, 3072), np.uint8)
DAMAGES: dict[str, tuple[str, dict[str, object], str]] = {
    "no pixels": ("train", {"data": None}, "it has no entry 'data'"),
    "no labels": ("test", {"fine_labels": None}, "it has no entry 'fine_labels'"),
    "no names": ("meta", {"fine_label_names": None}, "it has no entry 'fine_label_names'"),
    "grey": ("train", {"data": PIXELS[:, :1024]}, r"'data' is uint8 \(40, 1024\)"),
    "one dimension": ("train", {"data": PIXELS.reshape(-1)}, r"'data' is uint8 \(122880,\)"),
    "wide numbers": ("train", {"data": PIXELS.astype(np.int64)}, r"'data' is int64 \(40, 3072\)"),
    "no array": ("train", {"data": [0] * 3072}, "'data' is a list"),
    "fewer images": ("train", {"data": PIXELS[:39]}, "39 images and 40 labels in 'fine_labels'"),
    "fewer labels": ("test", {"fine_labels": [0] * 11}, "12 images and 11 labels in 'fine_labels'"),
    "nothing": ("test", {"data": PIXELS[:0], "fine_labels": []}, "holds no images"),
    "label too high": ("train", {"fine_labels": [100] + [0] * 39}, "label 100 in 'fine_labels'; 0 to 99 exist"),
    "label below zero": ("train", {"fine_labels": [0] * 39 + [-1]}, "label -1 in"),
    "label of an array": ("train", {"fine_labels": np.full(40, 100)}, "label 100 in"),
    "text as labels": ("train", {"fine_labels": b"0" * 40}, "40 images and no list of labels"),
    "text in labels": ("train", {"fine_labels": ["0"] * 40}, "label b'0' in"),
    "table of labels": ("train", {"fine_labels": np.zeros((40, 1), np.int64)}, r"label \[0\] in"),
    "a name less": ("meta", {"fine_label_names": ["x"] * 99}, "99 names in 'fine_label_names' for 100 classes"),
    "numbers as names": ("meta", {"fine_label_names": [1] * 100}, "'fine_label_names' is no list of names"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_does_not_fit_is_named(tmp_path: Path, kind: str) -> None:
    write_cifar100(tmp_path)
    file, changes, expected = DAMAGES[kind]
    path = tmp_path / "cifar-100-python" / file
    change(path, changes)
    with pytest.raises(SpotkdError, match=f"^{re.escape(str(path))}: .*{expected}") as caught:
        load_dataset("cifar100", root=str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
def test_every_truncation_and_much_garbage_is_one_line(tmp_path: Path, dump: Dump) -> None:
    content = dump({b"data": np.arange(30, dtype=np.uint8).reshape(5, 6), b"labels": [1, 2, 300]})
    path = tmp_path / "file"
    path.write_bytes(content)
    assert set(read_pickle(path)) == {"data", "labels"}
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(SpotkdError, match=f"^{re.escape(str(path))}: damaged"):
            read_pickle(path)
    generator = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        garbage = bytearray(content)
        for position in generator.integers(0, len(content), 3):
            garbage[position] = generator.integers(256)
        path.write_bytes(garbage)
        try:  # a changed pixel is no damage that can be seen; nothing but our error may come out
            read_pickle(path)
        except SpotkdError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(message.isprintable() for message in messages)


def test_a_folder_in_place_of_a_file_and_a_pickle_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(SpotkdError, match="damaged or cannot be read"):
        read_pickle(tmp_path)
    (tmp_path / "file").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SpotkdError, match="a list in place of a dictionary"):
        read_pickle(tmp_path / "file")


def test_the_genuine_archive_is_named_exactly() -> None:
    assert dataclasses.astuple(CIFAR100.archive) == (
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    )
