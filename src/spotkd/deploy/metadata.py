"""What one must know to use a student: its classes, its preprocessing, where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data import Preprocessing, read_preprocessing
from ..errors import SpotkdError
from ..untrusted.json_values import parse_json

KEY = "spotkd"  # under which every format keeps them, as JSON
MOST_CLASSES, LONGEST = 1_000_000, 1_000  # classes, and characters of a name, that a file may have


@dataclass(frozen=True)
class StudentMetadata:
    """What stands beside the weights of a student, in every format.

    Attributes:
        model: the network's name, as on the command line.
        data: the data set's; for a folder only its own name, not where it lies.
        classes: class names, by label.
        preprocessing: from a picture to the network's input.
        test_top1: accuracy on the test images in percent, where it is known.
        protocol: how the epoch was chosen that it was measured after.
    """

    model: str
    data: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    test_top1: float | None = None
    protocol: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For :func:`check_metadata`, and for the metadata of a weights file; without what is not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def as_json(self) -> str:
        return json.dumps(self.as_dict())


def public_data_name(data: str) -> str:
    """A data set's name for others: without the folders in which it lies on this machine."""
    source, colon, rest = data.partition(":")
    return f"{source}:{Path(rest).name}" if colon and source == "folder" else data


def check_metadata(noted: Mapping[str, Any], where: str | Path) -> StudentMetadata:
    """Metadata as :meth:`StudentMetadata.as_dict` gives them, from a file that may be a stranger's.

    Raises:
        SpotkdError: something in them is missing or not what it must be; ``where`` names the file.
    """

    def text(value: object) -> bool:
        return isinstance(value, str) and 0 < len(value) <= LONGEST

    classes, top1, protocol = (noted.get(key) for key in ("classes", "test_top1", "protocol"))
    listed = classes if isinstance(classes, list | tuple) else ()
    checks = {
        "model": text(noted.get("model")),
        "data": text(noted.get("data")),
        "classes": 1 <= len(listed) <= MOST_CLASSES and all(map(text, listed)),
        "test_top1": top1 is None or (type(top1) in (int, float) and 0 <= top1 <= 100),
        "protocol": protocol is None or text(protocol),
    }
    for key, right in checks.items():
        if not right:
            problem = "has no usable" if key in noted else "does not note its"
            raise SpotkdError(f"{where}: {problem} {key}; export it again with 'spotkd export'")
    preprocessing = read_preprocessing(noted.get("preprocessing"), str(where))
    return StudentMetadata(
        noted["model"], public_data_name(noted["data"]), tuple(listed), preprocessing, top1, protocol
    )


def parse_metadata(content: str | None, where: str | Path) -> StudentMetadata:
    """Metadata as :meth:`StudentMetadata.as_json` gives them, likewise."""
    if content is None:
        raise SpotkdError(f"{where}: holds no metadata of a student; 'spotkd export' writes them")
    try:
        noted = parse_json(content)
    except ValueError as error:
        raise SpotkdError(f"{where}: the metadata in it are damaged; export it again with 'spotkd export'") from error
    return check_metadata(noted if isinstance(noted, dict) else {}, where)
