"""The file formats of a student: each is written, and read again as a function from images to logits.

Every file holds the :class:`StudentMetadata` beside the weights. A safetensors file needs spotkd and PyTorch to run, a
torch-export file (.pt2) PyTorch, an ONNX file any ONNX runtime. Both take float images ``images`` ``(B, 3, H, W)``,
normalised, and give ``logits`` ``(B, classes)`` for every B.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..data.optional import import_optional
from ..deprecation import warn_renamed
from ..errors import SpotkdError, one_line
from ..models import save_weights
from ..models.weights import read_metadata
from ..untrusted.images import ignore_warnings
from .metadata import KEY, StudentMetadata, parse_metadata
from .student import Student, load_student

OPSET = 18  # of ONNX: what PyTorch's exporter writes without a conversion afterwards
LARGEST = (2 << 30) - 1  # bytes: an ONNX file is one message, and those cannot be larger
EXTRA = f"{KEY}.json"  # the file in a .pt2 archive


class Classifier(NamedTuple):
    """A student in whichever format.

    Attributes:
        logits: from float images ``(B, 3, H, W)``, normalised, to ``(B, classes)``.
        metadata: what one must know to use it.
    """

    logits: Callable[[Tensor], Tensor]
    metadata: StudentMetadata

    @property
    def facts(self) -> StudentMetadata:
        """Former name of ``metadata``."""
        warn_renamed("Classifier.facts", "Classifier.metadata")
        return self.metadata


class Format(NamedTuple):
    """How a student is written and read.

    Attributes:
        suffix: of its files.
        write: make the file. The path may end otherwise.
        read: the student again, from a file that may be trusted: reading a .pt2, or a network of one's own, runs code.
    """

    suffix: str
    write: Callable[[Student, Path], None]
    read: Callable[[Path], Classifier]


def as_classifier(student: Student) -> Classifier:
    """A student as it is, as a classifier."""

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return cast(Tensor, student.network(images))

    return Classifier(logits, student.metadata)


def _write_safetensors(student: Student, path: Path) -> None:
    save_weights(student.network, path, student.metadata.as_dict())


def _read_safetensors(path: Path) -> Classifier:
    return as_classifier(load_student(path, str(read_metadata(path).get("model"))))


def _example_input(student: Student) -> tuple[Tensor, tuple[dict[int, Any]]]:
    """Images to trace the network with, and which of their sizes may vary."""
    images = torch.zeros(2, *student.metadata.preprocessing.image_shape)
    return images, ({0: torch.export.Dim("batch")},)


def _write_torch_export(student: Student, path: Path) -> None:
    images, dynamic = _example_input(student)
    with ignore_warnings():
        program = torch.export.export(student.network, (images,), dynamic_shapes=dynamic)
        with path.open("wb") as file:  # by name it would have to end in .pt2
            torch.export.save(program, file, extra_files={EXTRA: student.metadata.as_json()})


def _read_torch_export(path: Path) -> Classifier:
    files = {EXTRA: ""}
    try:
        with ignore_warnings(), _logging_disabled(), path.open("rb") as file:
            network = torch.export.load(file, extra_files=files).module()
    except Exception as error:  # damage makes it raise nearly anything
        raise SpotkdError(f"{path}: damaged or no torch-export file ({one_line(error)[:200]})") from error
    return as_classifier(Student(network, parse_metadata(files[EXTRA] or None, path)))


@contextmanager
def _logging_disabled() -> Iterator[None]:
    """Without PyTorch's traceback of a damaged file: the error is one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _write_onnx(student: Student, path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_optional(name, "export")
    images, dynamic = _example_input(student)
    size = sum(tensor.nbytes for tensor in student.network.state_dict().values())
    if size > LARGEST:
        raise SpotkdError(
            f"{student.metadata.model}: {size >> 20} MiB are too much for one ONNX file; use torch-export"
        )
    with ignore_warnings():
        program = torch.onnx.export(
            student.network,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # for type checkers: it is None without dynamo
        program.model.metadata_props[KEY] = student.metadata.as_json()
        program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Classifier:
    runtime, onnx = import_optional("onnxruntime", "export"), import_optional("onnx", "export")
    if path.stat().st_size > LARGEST:
        raise SpotkdError(f"{path}: larger than an ONNX file can be")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, on one line
    try:
        content = path.read_bytes()
        if any(tensor.external_data for tensor in _tensors(onnx.load_from_string(content), onnx.TensorProto)):
            raise SpotkdError(f"{path}: refused, its weights lie in other files; export it as one file")
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except SpotkdError:
        raise
    except Exception as error:  # the runtime's own exceptions have no common base
        raise SpotkdError(f"{path}: damaged or no ONNX file ({one_line(error)[:200]})") from error
    metadata = parse_metadata(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names = [entry.name for entry in session.get_inputs()]
    return Classifier(
        lambda images: torch.from_numpy(session.run(None, {name: images.numpy() for name in names})[0]), metadata
    )


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Every tensor in a protobuf message, however deep: of the graph, of the graphs in its operators, of functions."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part, kind)


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "torch-export": Format(".pt2", _write_torch_export, _read_torch_export),
    "safetensors": Format(".safetensors", _write_safetensors, _read_safetensors),
}
